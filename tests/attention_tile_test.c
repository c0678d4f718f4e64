/* The tiles of attention on mma.m16n8k16, on the host: every vector has a place of its own, lanes load what the products
 * need of them, and every tile of every head has a block. */
#include "ops/attention_tile.h"
#include "tests/ldmatrix.h"
#include "tests/test.h"
enum { ROWS = 64, MOST = 192 };

static int tile[ROWS * MOST];

/* Element i of row r. */
static int number(int r, int i)
{
    return 1000 * r + i;
}

static void fill(int width)
{
    memset(tile, 0xff, sizeof tile);
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < width; i++) {
            const int at = rows_at(width, r, i / VECTOR) + i % VECTOR;
            EXPECT(at >= r * width && at < (r + 1) * width);
            EXPECT_INT(tile[at], -1);
            tile[at] = number(r, i);
        }
}

/* Copies of 8 vectors of a row go to different banks. */
static void check_copies(int width)
{
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < width / VECTOR; v += 8) {
            int seen = 0;
            for (int i = 0; i < 8; i++)
                seen |= 1 << rows_at(width, r, v + i) / VECTOR % 8;
            EXPECT_INT(seen, 0xff);
        }
}

/* Rows from y on, columns from x on. Register i of a: row g (+ 8 for odd i), step 2t (+ 8 for i of 2 and 3); register i % 2
 * of b for columns i / 2 * 8: step 2t (+ 8), column g. Steps are columns of the tile, or rows if turned. */
static void check_operands(int width, int y, int x)
{
    int a[32], b[32], turned[32];
    for (int lane = 0; lane < 32; lane++) {
        a[lane] = rows_a(width, y, x, lane);
        b[lane] = rows_b(width, y, x, lane);
        turned[lane] = rows_b_turned(width, y, x, lane);
    }
    EXPECT(free_of_conflicts(a) && free_of_conflicts(b) && free_of_conflicts(turned));
    for (int lane = 0; lane < 32; lane++)
        for (int which = 0; which < 2; which++)
            for (int i = 0; i < 4; i++) {
                const int g = lane / 4, step = lane % 4 * 2 + which;
                EXPECT_INT(loaded(tile, a, i, lane, which, false),
                           number(y + g + i % 2 * 8, x + step + i / 2 * 8));
                EXPECT_INT(loaded(tile, b, i, lane, which, false),
                           number(y + g + i / 2 * 8, x + step + i % 2 * 8));
                EXPECT_INT(loaded(tile, turned, i, lane, which, true),
                           number(y + step + i % 2 * 8, x + g + i / 2 * 8));
            }
}

TEST(lanes_load_the_operands_of_attention)
{
    for (int width = 64; width <= MOST; width += 64) {
        fill(width);
        check_copies(width);
        for (int y = 0; y < ROWS; y += 16)
            for (int x = 0; x < width; x += 16)
                check_operands(width, y, x);
    }
}

/* Heads next to each other take turns; none waits for a head that is HEADS_TOGETHER further. */
static void check_order(int64_t heads, int64_t turns)
{
    int64_t next[64] = { 0 };
    for (int64_t block = 0; block < heads * turns; block++) {
        const struct attention_spot s = attention_spot(block, heads, turns);
        EXPECT(s.head >= 0 && s.head < heads);
        EXPECT_INT(s.turn, next[s.head]);
        next[s.head]++;
        for (int64_t h = 0; h < heads; h++)
            EXPECT(h / HEADS_TOGETHER <= s.head / HEADS_TOGETHER || next[h] == 0);
    }
    for (int64_t h = 0; h < heads; h++)
        EXPECT_INT(next[h], turns);
}

TEST(every_tile_of_every_head_has_a_block)
{
    check_order(1, 1);
    check_order(3, 7);
    check_order(HEADS_TOGETHER, 2);
    check_order(HEADS_TOGETHER + 1, 5);
    check_order(2 * HEADS_TOGETHER, 1);
    check_order(3 * HEADS_TOGETHER - 1, 4);
}

/* So many heads at a time. */
static void check_parts(int64_t b, int64_t a, int64_t turns, int64_t each)
{
    int seen[64][8] = { { 0 } };
    for (int64_t first = 0; first < b * a; first += each) {
        const int64_t heads = b * a - first < each ? b * a - first : each;
        for (int64_t block = 0; block < heads * turns; block++) {
            const struct attention_part p = attention_part(block, first, heads, turns, a);
            EXPECT(p.b >= 0 && p.b < b && p.a >= 0 && p.a < a && p.turn >= 0 && p.turn < turns);
            EXPECT_INT(p.b * a + p.a, first + p.head);
            EXPECT(p.head < heads);
            seen[p.b * a + p.a][p.turn]++;
        }
    }
    for (int64_t h = 0; h < b * a; h++)
        for (int64_t t = 0; t < turns; t++)
            EXPECT_INT(seen[h][t], 1);
}

TEST(parts_have_every_head_once)
{
    for (int64_t each = 1; each <= 17; each++) {
        check_parts(3, 5, 4, each);
        check_parts(1, 16, 3, each);
    }
    check_parts(2, 32, 8, 40);
}
