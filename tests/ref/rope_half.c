/* ref/rope_half.c - complex numbers x[i] + i x[i + h/2] of every head, times e^(i angle). */
#include "tests/ref/ref.h"
enum { X, TABLE, Y, B = 0, S, A, H };

/* The matrix of the rotation, or its transpose for the gradient. */
static void apply(const struct call *c, double *out, const double *in, int transposed)
{
    const int64_t *d = c->dim, half = d[H] / 2;
    const double *table = c->arg[TABLE];
    for (int64_t i = 0; i < d[B] * d[S] * d[A] * d[H]; i++) {
        const int64_t s = i / (d[A] * d[H]) % d[S], at = i % d[H];
        const double cosine = table[s * d[H] + at % half], sine = table[s * d[H] + half + at % half];
        const double turned = at < half ? -in[i + half] : in[i - half];
        out[i] = in[i] * cosine + (transposed ? -turned : turned) * sine;
    }
}

static void fwd(const struct call *c)
{
    apply(c, c->arg[Y], c->arg[X], 0);
}

static void bwd(const struct call *c)
{
    apply(c, c->grad[X], c->grad[Y], 1);
}

const struct ref ref_rope_half = { "y", "x", fwd, bwd };
