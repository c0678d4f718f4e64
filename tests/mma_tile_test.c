/* The tiles of the portable grouped products, on the host: ldmatrix and mma.m16n8k16 as the PTX manual defines them, with
 * the addresses that the kernel gives. */
#include "cuda/mma_tile.h"
#include "tests/ldmatrix.h"
#include "tests/test.h"

static int tile[2][SIDE * DEPTH]; /* a and b in shared memory */
static int a[SIDE][DEPTH], b[DEPTH][SIDE];

/* Puts an operand where the copies put it. */
static void fill(int *to, bool deep, bool of_a)
{
    const int per_line = deep ? DEPTH / VECTOR : SIDE / VECTOR;
    memset(to, 0xff, sizeof tile[0]);
    for (int u = 0; u < SIDE * DEPTH / VECTOR; u++)
        for (int i = 0; i < VECTOR; i++) {
            const int line = u / per_line, at = u % per_line * VECTOR + i;
            const int side = deep ? line : at, step = deep ? at : line;
            int *x = &to[tile_at(deep, line, u % per_line) + i];
            EXPECT_INT(*x, -1);
            *x = of_a ? a[side][step] : b[step][side];
        }
}

/* The two operands of a lane as the warp multiplies them: a[16][16] and b[16][8 of 16] from registers. */
static void check(bool a_deep, bool b_deep)
{
    fill(tile[0], a_deep, true);
    fill(tile[1], b_deep, false);
    for (int row = 0; row < SIDE; row += 16)
        for (int step = 0; step < DEPTH; step += 16) {
            int x[32], y[32];
            for (int lane = 0; lane < 32; lane++) {
                x[lane] = tile_a(a_deep, row, step, lane);
                y[lane] = tile_b(b_deep, row, step, lane);
            }
            EXPECT(free_of_conflicts(x) && free_of_conflicts(y));
            for (int lane = 0; lane < 32; lane++)
                for (int which = 0; which < 2; which++)
                    for (int i = 0; i < 4; i++) {
                        /* register i of a: row g (+ 8 for odd i), step 2t (+ 8 for i of 2 and 3) */
                        EXPECT_INT(loaded(tile[0], x, i, lane, which, !a_deep),
                                   a[row + lane / 4 + i % 2 * 8][step + lane % 4 * 2 + which + i / 2 * 8]);
                        /* register i % 2 of b for columns i / 2 * 8: step 2t (+ 8), column g */
                        EXPECT_INT(loaded(tile[1], y, i, lane, which, !b_deep),
                                   b[step + lane % 4 * 2 + which + i % 2 * 8][row + lane / 4 + i / 2 * 8]);
                    }
        }
}

TEST(lanes_load_the_operands_of_mma)
{
    for (int i = 0; i < SIDE; i++)
        for (int k = 0; k < DEPTH; k++) {
            a[i][k] = 1000 * i + k;
            b[k][i] = 500000 + 1000 * i + k;
        }
    check(true, true);
    check(true, false);
    check(false, true);
    check(false, false);
}
