/* What a record promises by `sums` (op.h): partial sums of the inputs give partial sums of the outputs. */
#include "tests/opcall.h"

/* The outputs of a call whose inputs in `sums` are `part` of those of t: a share that differs by element. */
static void outputs_of_part(const struct opcall *t, const float *const *part, int k, float *const *out)
{
    struct call c = t->cpu;
    for (int i = 0; i < t->a.n_args; i++) {
        if (t->op->sums >> i & 1)
            c.arg[i] = (void *)(part[i] + k * t->n[i]);
        if (i >= t->a.n_inputs)
            c.arg[i] = out[i] + k * t->n[i];
    }
    t->op->fwd[CPU](&c);
}

static int n_sums;

/* op.h: sums. Two shares of the inputs give two shares of the outputs, and backward reads none of them. */
static void check_sums(struct opcall *t, uint64_t seed)
{
    float *part[OP_ARGS] = { 0 }, *out[OP_ARGS] = { 0 };
    double *both = NULL;
    if (!t->op->sums)
        return;
    EXPECTF(!(t->op->sums & t->a.saved), "%s: backward reads a partial sum", t->op->name);
    opcall_exact(t);
    for (int i = 0; i < t->a.n_args; i++) {
        if (i >= t->a.n_inputs)
            out[i] = ARENA_NEW(t->arena, float, 2 * t->n[i]);
        if (t->op->sums >> i & 1)
            part[i] = ARENA_NEW(t->arena, float, 2 * t->n[i]);
        for (int64_t e = 0; part[i] && e < t->n[i]; e++) {
            const float all = ((const float *)t->cpu.arg[i])[e];
            part[i][e] = all * (float)rng_normal(seed, 6, (uint64_t)e);
            part[i][t->n[i] + e] = all - part[i][e];
        }
    }
    for (int k = 0; k < 2; k++)
        outputs_of_part(t, (const float *const *)part, k, out);
    for (int i = t->a.n_inputs; i < t->a.n_args; i++, n_sums++) {
        both = ARENA_NEW(t->arena, double, t->n[i]);
        for (int64_t e = 0; e < t->n[i]; e++)
            both[e] = (double)out[i][e] + (double)out[i][t->n[i] + e];
        opcall_compare(t, i, both, F64, t->exact.arg[i], t->n[i], "sum of two shares");
    }
}

TEST(shares_of_summands_give_shares_of_sums)
{
    opcall_for_all(check_sums);
    EXPECTF(n_sums >= 6, "only %d sums were tried", n_sums);
}
