/* bench_test.c - the errors that `bench ops` prints: none between equal kernels, and those that are there. */
#include "run/bench_error.h"
#include "tests/opcall.h"

TEST(equal_kernels_have_no_error)
{
    pool_start(2);
    for (int i = 0; i < registry_n_ops; i++) {
        struct arena *arena = arena_new("bench");
        const struct op *op = registry_ops[i];
        const struct opcall t = opcall_begin(op, op->cases, arena);
        if (t.by) {
            const struct bench_error e = bench_error(&device_cpu, op, t.of, t.by);
            EXPECTF(e.output == 0 && e.gradient == 0, "%s: %g, %g", op->name, e.output, e.gradient);
        }
        arena_free(arena);
    }
}

/* What a kernel in bfloat16 sees and leaves: 1 % too much forward, 2 % backward. */
static void too_much(const struct call *c)
{
    const uint16_t *x = c->arg[0], *y = c->arg[1];
    uint16_t *z = c->arg[2];
    for (int64_t i = 0; i < c->dim[0] * c->dim[1]; i++)
        z[i] = num_to_bf16(1.01f * (num_from_bf16(x[i]) + num_from_bf16(y[i])));
}

static void too_much_back(const struct call *c)
{
    for (int i = 0; i < 2; i++)
        for (int64_t j = 0; j < c->dim[0] * c->dim[1]; j++)
            ((uint16_t *)c->grad[i])[j] =
                num_to_bf16((i ? 1.02f : 1) * num_from_bf16(((const uint16_t *)c->grad[2])[j]));
}

TEST(an_error_is_seen)
{
    struct device other = device_cpu;
    struct op op = op_add;
    other.backend = CUDA;
    op.fwd[CUDA] = too_much;
    op.bwd[CUDA] = too_much_back;
    op.work[CUDA] = NULL;
    const struct bench_error e = bench_error(&other, &op, 4, 3);
    EXPECTF(fabs(e.output - 0.01) < 1e-3 && fabs(e.gradient - 0.02) < 1e-3, "%g, %g", e.output, e.gradient);
}
