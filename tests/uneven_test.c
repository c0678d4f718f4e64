/* Uneven experts (plan/uneven.h): against loads that are drawn, and what predictions make of them. */
#include "base/rng.h"
#include "plan/uneven.h"
#include "tests/test.h"
#include <math.h>

enum { DRAWS = 4000 };

/* Means over the draws: the largest of n_experts numbers 1 + deviation z, and the largest mean of n_ranks groups of them. */
static void draw(int n_experts, int n_ranks, double deviation, double *expert, double *rank)
{
    const int each = n_experts / n_ranks;
    *expert = *rank = 0;
    for (uint64_t i = 0; i < DRAWS; i++) {
        double most = 0, fullest = 0, sum = 0;
        for (int e = 0; e < n_experts; e++) {
            const double load = 1 + deviation * rng_normal(2026, i, (uint64_t)e);
            most = fmax(most, load);
            sum += load;
            if ((e + 1) % each == 0) {
                fullest = fmax(fullest, sum / each);
                sum = 0;
            }
        }
        *expert += most / DRAWS;
        *rank += fullest / DRAWS;
    }
}

TEST(uneven_is_what_draws_say)
{
    static const int cases[][2] = { { 16, 2 }, { 16, 8 }, { 64, 2 }, { 64, 8 }, { 64, 64 }, { 160, 32 } };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        double expert, rank;
        draw(cases[i][0], cases[i][1], 0.3, &expert, &rank);
        const double got = uneven_ranks(expert, cases[i][0], cases[i][1]);
        EXPECTF(fabs(got - rank) < 0.03 * (rank - 1) + 0.01, "%d experts on %d ranks: %.4f, drawn %.4f",
                cases[i][0], cases[i][1], got, rank);
    }
}

TEST(uneven_needs_several_ranks_and_a_load)
{
    EXPECT(uneven_ranks(1.5, 64, 1) == 1);
    EXPECT(uneven_ranks(1, 64, 8) == 1);
    EXPECT(uneven_ranks(0, 64, 8) == 1);
    EXPECT(fabs(uneven_ranks(1.5, 64, 64) - 1.5) < 1e-9);
    EXPECT(uneven_ranks(1.5, 64, 4) < uneven_ranks(1.5, 64, 8));
}
