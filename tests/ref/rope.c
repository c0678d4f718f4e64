/* ref/rope.c - complex numbers (x[2i], x[2i+1]) times e^(i angle), in the last c entries of each head. */
#include "tests/ref/ref.h"
enum { X, TABLE, Y, B = 0, S, A, H, C };

/* The matrix of the rotation, or its transpose for the gradient. */
static void apply(const struct call *c, double *out, const double *in, int transposed)
{
    const int64_t *d = c->dim, plain = d[H] - d[C];
    const double *table = c->arg[TABLE];
    for (int64_t i = 0; i < d[B] * d[S] * d[A] * d[H]; i++) {
        const int64_t s = i / (d[A] * d[H]) % d[S], at = i % d[H] - plain, pair = at / 2;
        if (at < 0) {
            out[i] = in[i];
            continue;
        }
        const double cosine = table[s * d[C] + pair], sine = table[s * d[C] + d[C] / 2 + pair];
        const double turned = at % 2 == 0 ? -in[i + 1] : in[i - 1];
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

const struct ref ref_rope = { "y", "x", fwd, bwd };
