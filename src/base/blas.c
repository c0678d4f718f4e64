/* blas.c - the only file that includes cblas.h. OpenBLAS runs in the calling thread; threads are ours,
 * because with its own the bits of a product depend on their number (AVX2 kernels). For the same reason
 * columns are never cut, and rows are cut at places that depend on the sizes only. */
#include "base/blas.h"
#include "base/err.h"
#include "base/pool.h"
#include <cblas.h>
#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
enum { ROWS_MULTIPLE = 16, FEWEST_ROWS = 48, MANY_ROWS = 256, MOST_PANELS = 64 };
static const double panel_flops = 16e6;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void single_thread(void)
{
    openblas_set_num_threads(1);
}

static int as_int(int64_t n)
{
    CHECK(n >= 0 && n <= INT_MAX, "%lld does not fit the int of BLAS", (long long)n);
    return (int)n;
}

static void scale_rows(int64_t m, int64_t n, float beta, float *c, int64_t ldc)
{
    for (int64_t i = 0; i < m; i++, c += ldc)
        for (int64_t j = 0; j < n; j++)
            c[j] = beta == 0 ? 0 : beta * c[j]; /* beta 0 overwrites even NaN */
}

void gemm(enum trans ta, enum trans tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
          int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc)
{
    const int rows = as_int(m), columns = as_int(n), inner = as_int(k);
    const int a_stride = as_int(lda), b_stride = as_int(ldb), c_stride = as_int(ldc);
    if (rows == 0 || columns == 0)
        return;
    CHECK(columns <= c_stride, "n = %d, ldc = %d", columns, c_stride);
    if (inner == 0) {
        scale_rows(m, n, beta, c, ldc);
        return;
    }
    CHECK((ta == NO ? inner : rows) <= a_stride, "m = %d, k = %d, lda = %d", rows, inner, a_stride);
    CHECK((tb == NO ? columns : inner) <= b_stride, "n = %d, k = %d, ldb = %d", columns, inner, b_stride);
    pthread_once(&once, single_thread);
    cblas_sgemm(CblasRowMajor, ta == TR ? CblasTrans : CblasNoTrans, tb == TR ? CblasTrans : CblasNoTrans,
                rows, columns, inner, alpha, a, a_stride, b, b_stride, beta, c, c_stride);
}

struct product {
    enum trans ta, tb;
    int64_t m, n, k, lda, ldb, ldc, panel_rows;
    float alpha, beta;
    const float *a, *b;
    float *c;
};

static void one_panel(void *context, int64_t task)
{
    const struct product *p = context;
    const int64_t from = task * p->panel_rows, left = p->m - from;
    gemm(p->ta, p->tb, left < p->panel_rows ? left : p->panel_rows, p->n, p->k, p->alpha,
         p->a + (p->ta == TR ? from : from * p->lda), p->lda, p->b, p->ldb, p->beta, p->c + from * p->ldc,
         p->ldc);
}

static int64_t round_up(int64_t n, int64_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}

/* Rows of C per panel. B is packed again for each panel, which costs at 16 rows half of the speed, at 48 a
 * quarter, at 128 a few percent (K = N = 2048, B transposed); so few rows only where there are no more, and no
 * panel of less than 16 MFLOP. */
int64_t gemm_panel_rows(int64_t m, int64_t n, int64_t k)
{
    const double row_flops = 2.0 * (double)n * (double)k + 1;
    int64_t rows = m / 4 < FEWEST_ROWS ? FEWEST_ROWS : m / 4 < MANY_ROWS ? m / 4 : MANY_ROWS;
    if ((double)rows * row_flops < panel_flops)
        rows = (int64_t)(panel_flops / row_flops) + 1;
    if (rows < m / MOST_PANELS + 1)
        rows = m / MOST_PANELS + 1;
    const int64_t n_panels = (m + rows - 1) / rows; /* of equal height, but for the rounding */
    return round_up((m + n_panels - 1) / n_panels, ROWS_MULTIPLE);
}

void gemm_panels(enum trans ta, enum trans tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                 int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc)
{
    struct product p = { ta, tb, m, n, k, lda, ldb, ldc, 0, alpha, beta, a, b, c };
    if (m <= 0 || n <= 0)
        return;
    p.panel_rows = gemm_panel_rows(m, n, k);
    pool_run((m + p.panel_rows - 1) / p.panel_rows, one_panel, &p);
}

const char *blas_name(void)
{
    static char name[256];
    if (!name[0])
        snprintf(name, sizeof name, "%s, %s kernels", openblas_get_config(), openblas_get_corename());
    return name;
}

static void warm_one(void *context, int64_t task)
{
    enum { N = 192 };
    static const float in[N * N];
    float out[N * N];
    (void)context;
    (void)task;
    gemm(NO, NO, N, N, N, 1, in, N, in, N, 0, out, N);
}

/* A buffer is taken per call that runs at the same time as others, so all threads must be busy at once. */
void blas_warm_up(void)
{
    pool_run(16 * (int64_t)pool_threads(), warm_one, NULL);
}
