/* Every vector of k and v has its place, and all heads of queries find theirs in kv. */
#include "ops/group_spot.h"
#include "tests/test.h"
#include <string.h>
enum { ROWS = 3, MOST = 4096 };

/* kv [rows, g m, 2 h] from k and v [rows, g, h], whose vectors are numbered from 1 and from 10000 */
static void check(int g, uint32_t m, uint32_t h)
{
    static int kv[MOST];
    const struct groups groups = { (uint32_t)(ROWS * g) * 2 * h, h, m };
    memset(kv, 0, sizeof kv);
    for (uint32_t i = 0; i < groups.n; i++) {
        const struct group_spot s = group_spot(i, &groups);
        for (uint32_t j = 0; j < m; j++) {
            int *x = &kv[s.repeated + (int64_t)j * 2 * h];
            EXPECT_INT(*x, 0);
            *x = (s.value ? 10000 : 1) + (int)s.key;
        }
    }
    for (int row = 0; row < ROWS; row++)
        for (int head = 0; head < g * (int)m; head++)
            for (int part = 0; part < 2; part++)
                for (int i = 0; i < (int)h; i++)
                    EXPECT_INT(kv[((row * g * (int)m + head) * 2 + part) * (int)h + i],
                               (part ? 10000 : 1) + (row * g + head / (int)m) * (int)h + i);
}

TEST(keys_and_values_are_repeated_for_every_head)
{
    check(1, 1, 1);
    check(2, 3, 5);
    check(3, 1, 8);
    check(1, 7, 16);
}
