/* ref/attention.c - softmax(scale q k^T) v per head over the positions up to the query's own, with
 * k = [k_nope | k_rope], k_rope the same for all heads, kv = [k_nope | v] per head. */
#include "tests/ref/ref.h"
#include <math.h>
#include <stdlib.h>
enum { QUERY, KV, K_ROPE, O, LSE, B = 0, S, A, Q, C, R, V };
static int64_t at_q(const struct call *c, int64_t b, int64_t s, int64_t a)
{
    return ((b * c->dim[S] + s) * c->dim[A] + a) * c->dim[Q];
}

static int64_t at_kv(const struct call *c, int64_t b, int64_t s, int64_t a)
{
    return ((b * c->dim[S] + s) * c->dim[A] + a) * c->dim[C];
}

static int64_t at_o(const struct call *c, int64_t b, int64_t s, int64_t a)
{
    return ((b * c->dim[S] + s) * c->dim[A] + a) * c->dim[V];
}

/* Room for one number per key of query s; freed by the caller. */
static double *row(int64_t s)
{
    return calloc((size_t)s + 1, sizeof(double));
}

static double score(const struct call *c, int64_t b, int64_t a, int64_t s, int64_t t)
{
    const double *q = (const double *)c->arg[QUERY] + at_q(c, b, s, a);
    const double *k = (const double *)c->arg[KV] + at_kv(c, b, t, a);
    const double *k_rope = (const double *)c->arg[K_ROPE] + (b * c->dim[S] + t) * c->dim[R];
    const int64_t nope = c->dim[Q] - c->dim[R];
    double sum = 0;
    for (int64_t i = 0; i < c->dim[Q]; i++)
        sum += q[i] * (i < nope ? k[i] : k_rope[i - nope]);
    return sum * c->attr[3];
}

static void fwd_row(const struct call *c, int64_t b, int64_t a, int64_t s)
{
    const int64_t nope = c->dim[Q] - c->dim[R];
    double *o = (double *)c->arg[O] + at_o(c, b, s, a), *x = row(s), top = -INFINITY, sum = 0;
    for (int64_t t = 0; t <= s; t++) {
        x[t] = score(c, b, a, s, t);
        top = fmax(top, x[t]);
    }
    for (int64_t i = 0; i < c->dim[V]; i++)
        o[i] = 0;
    for (int64_t t = 0; t <= s; t++) {
        const double p = exp(x[t] - top);
        sum += p;
        for (int64_t i = 0; i < c->dim[V]; i++)
            o[i] += p * ((const double *)c->arg[KV])[at_kv(c, b, t, a) + nope + i];
    }
    for (int64_t i = 0; i < c->dim[V]; i++)
        o[i] /= sum;
    ((double *)c->arg[LSE])[(b * c->dim[A] + a) * c->dim[S] + s] = top + log(sum);
    free(x);
}

static void fwd(const struct call *c)
{
    for (int64_t b = 0; b < c->dim[B]; b++)
        for (int64_t a = 0; a < c->dim[A]; a++)
            for (int64_t s = 0; s < c->dim[S]; s++)
                fwd_row(c, b, a, s);
}

/* Query s against key t: p the probability, dscore the gradient of q k before scaling. */
static void bwd_pair(const struct call *c, int64_t b, int64_t a, int64_t s, int64_t t, double p,
                     double dscore)
{
    const int64_t nope = c->dim[Q] - c->dim[R], q0 = at_q(c, b, s, a), k0 = at_kv(c, b, t, a);
    const int64_t r0 = (b * c->dim[S] + t) * c->dim[R];
    const double *q = (const double *)c->arg[QUERY] + q0, *k = (const double *)c->arg[KV] + k0;
    const double *k_rope = (const double *)c->arg[K_ROPE] + r0;
    const double *d_o = (const double *)c->grad[O] + at_o(c, b, s, a);
    double *dq = (double *)c->grad[QUERY] + q0, *dk = (double *)c->grad[KV] + k0;
    double *dk_rope = (double *)c->grad[K_ROPE] + r0;
    for (int64_t i = 0; i < c->dim[Q]; i++) {
        dq[i] += dscore * (i < nope ? k[i] : k_rope[i - nope]);
        *(i < nope ? dk + i : dk_rope + i - nope) += dscore * q[i];
    }
    for (int64_t i = 0; i < c->dim[V]; i++)
        dk[nope + i] += p * d_o[i];
}

static void bwd_row(const struct call *c, int64_t b, int64_t a, int64_t s)
{
    const int64_t nope = c->dim[Q] - c->dim[R];
    const double lse = ((const double *)c->arg[LSE])[(b * c->dim[A] + a) * c->dim[S] + s];
    const double *d_o = (const double *)c->grad[O] + at_o(c, b, s, a), *v = c->arg[KV];
    double *p = row(s), *dp = row(s), mean = 0; /* of dp under p */
    for (int64_t t = 0; t <= s; t++) {
        p[t] = exp(score(c, b, a, s, t) - lse);
        for (int64_t i = 0; i < c->dim[V]; i++)
            dp[t] += d_o[i] * v[at_kv(c, b, t, a) + nope + i];
        mean += p[t] * dp[t];
    }
    for (int64_t t = 0; t <= s; t++)
        bwd_pair(c, b, a, s, t, p[t], c->attr[3] * p[t] * (dp[t] - mean));
    free(p);
    free(dp);
}

static void zero(double *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = 0;
}

static void bwd(const struct call *c)
{
    const int64_t n = c->dim[B] * c->dim[S], a_ = c->dim[A];
    zero(c->grad[QUERY], n * a_ * c->dim[Q]);
    zero(c->grad[KV], n * a_ * c->dim[C]);
    zero(c->grad[K_ROPE], n * c->dim[R]);
    for (int64_t b = 0; b < c->dim[B]; b++)
        for (int64_t a = 0; a < a_; a++)
            for (int64_t s = 0; s < c->dim[S]; s++)
                bwd_row(c, b, a, s);
}

const struct ref ref_attention = { "o", "q kv k_rope", fwd, bwd };
