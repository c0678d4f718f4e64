/* ref/sqsum.c - sum of squares of each chunk. */
#include "tests/ref/ref.h"
enum { G, SUM, C = 0, H };

static void fwd(const struct call *c)
{
    const double *g = c->arg[G];
    double *sum = c->arg[SUM];
    for (int64_t i = 0; i < c->dim[C]; i++) {
        sum[i] = 0;
        for (int64_t j = i * c->dim[H]; j < (i + 1) * c->dim[H]; j++)
            sum[i] += g[j] * g[j];
    }
}

const struct ref ref_sqsum = { "", "", fwd, 0 };
