/* Every operator, from its record: the reference against central differences, the CPU device against the
 * reference, the add bits, unwanted gradients, and the same bits whatever the threads. */
#include "ops/vector.h"
#include "tests/opcall.h"

/* <R, f> for the outputs that a gradient flows through; the gradients of the outputs are R. */
static double functional(struct opcall *t)
{
    double sum = 0;
    opcall_poison_outputs(t, &t->exact, true);
    t->ref->fwd(&t->exact);
    for (int i = t->a.n_inputs; i < t->a.n_args; i++)
        for (int64_t j = 0; j < t->n[i] && (t->of >> i & 1); j++)
            if (!poisoned(t->exact.arg[i], j, F64))
                sum += ((const double *)t->exact.arg[i])[j] * ((const double *)t->exact.grad[i])[j];
    return sum;
}

/* A hash of the integer outputs: a step must not change what is chosen. */
static uint64_t choices(const struct opcall *t)
{
    struct hash_state *h = hash_begin();
    for (int i = t->a.n_inputs; i < t->a.n_args; i++)
        if (t->a.arg[i].dtype == I32)
            hash_add(h, t->exact.arg[i], (size_t)t->n[i] * sizeof(int32_t));
    return hash_end(h);
}

/* Slope of the functional along `way` in argument arg, from both sides; false when the choices change. */
static bool slope(struct opcall *t, int arg, const double *way, const double *base, double *out)
{
    const double step = 1e-6;
    double *x = t->exact.arg[arg], side[2];
    uint64_t chosen[2];
    for (int k = 0; k < 2; k++) {
        for (int64_t i = 0; i < t->n[arg]; i++)
            x[i] = base[i] + (k ? step : -step) * way[i];
        side[k] = functional(t);
        chosen[k] = choices(t);
    }
    memcpy(x, base, (size_t)t->n[arg] * sizeof *x);
    *out = (side[1] - side[0]) / (2 * step);
    return chosen[0] == chosen[1];
}

/* One random direction through all elements of arg (a wrong element shows with certainty), sum of gradient
 * parts where there are several. */
static void check_direction(struct opcall *t, int arg, uint64_t seed)
{
    const int64_t n = t->n[arg];
    double *way = ARENA_NEW(t->arena, double, n), *base = ARENA_NEW(t->arena, double, n);
    const double *grad = t->exact.grad[arg];
    double want = 0, scale = 0, got;
    memcpy(base, t->exact.arg[arg], (size_t)n * sizeof *base);
    for (int64_t i = 0; i < n; i++)
        way[i] = rng_normal(seed, 77, (uint64_t)i);
    for (int64_t i = 0; i < t->n_grad[arg]; i++)
        if (!poisoned(grad, i, F64)) {
            want += grad[i] * way[i % n];
            scale += fabs(grad[i] * way[i % n]);
        }
    if (!slope(t, arg, way, base, &got))
        return;
    EXPECTF(fabs(got - want) <= 1e-7 * (scale + 1),
            "%s: d/d%s along a random direction = %.12g, differences %.12g", t->op->name, t->a.arg[arg].name,
            want, got);
}

/* Off the grid of opcall_random(), so that ties are rare. */
static void jitter(struct opcall *t, uint64_t seed)
{
    for (int i = 0; i < t->a.n_inputs; i++)
        for (int64_t j = 0; j < t->n[i] && (t->by >> i & 1); j++)
            ((double *)t->exact.arg[i])[j] += 0.01 * rng_normal(seed, 78 + (uint64_t)i, (uint64_t)j);
}

static void check_differences(struct opcall *t, uint64_t seed)
{
    for (uint64_t again = 0; again < 3 && t->ref->bwd; again++) {
        jitter(t, seed + again);
        opcall_exact(t);
        for (int i = 0; i < t->a.n_inputs; i++)
            if (t->by >> i & 1)
                check_direction(t, i, seed + again);
    }
}

TEST(reference_gradients_are_central_differences)
{
    opcall_for_all(check_differences);
}

static void compare_outputs(const struct opcall *t)
{
    for (int i = t->a.n_inputs; i < t->a.n_args; i++)
        opcall_compare(t, i, t->cpu.arg[i], opcall_dtype(t, i, false), t->exact.arg[i], t->n[i], "output");
}

static void compare_grads(const struct opcall *t, const char *what)
{
    for (int i = 0; i < t->a.n_inputs; i++)
        if (t->by >> i & 1)
            opcall_compare(t, i, t->cpu.grad[i], F32, t->exact.grad[i], t->n_grad[i], what);
}

static uint64_t hash_inputs(const struct opcall *t)
{
    struct hash_state *h = hash_begin();
    for (int i = 0; i < t->a.n_args; i++) {
        const size_t each = num_dtype_bytes(opcall_dtype(t, i, false));
        if (i < t->a.n_inputs)
            hash_add(h, t->cpu.arg[i], (size_t)t->n[i] * each);
        else if (t->cpu.grad[i])
            hash_add(h, t->cpu.grad[i], (size_t)t->n_grad[i] * each);
    }
    return hash_end(h);
}

static void check_cpu(struct opcall *t, uint64_t seed)
{
    const uint64_t before = hash_inputs(t);
    (void)seed;
    opcall_exact(t);
    opcall_fwd(t);
    compare_outputs(t);
    opcall_bwd(t);
    compare_grads(t, "gradient");
    opcall_check_guards(t);
    EXPECTF(hash_inputs(t) == before, "%s: an input was changed", t->op->name);
}

TEST(cpu_equals_reference)
{
    pool_start(2);
    opcall_for_all(check_cpu);
}

/* Fresh numbers that gradients are added to; the reference's are added to the same. */
static void begin_adding(struct opcall *t, uint64_t seed)
{
    opcall_exact(t);
    for (int i = 0; i < t->a.n_inputs; i++) {
        if (!(t->by >> i & 1))
            continue;
        opcall_random(t, t->cpu.grad[i], t->n_grad[i], seed, (uint64_t)i + 100);
        for (int64_t j = 0; j < t->n_grad[i]; j++)
            if (!poisoned(t->exact.grad[i], j, F64))
                ((double *)t->exact.grad[i])[j] += (double)((const float *)t->cpu.grad[i])[j];
    }
    t->cpu.add = t->by;
}

/* grad = what was there + gradient */
static void check_add(struct opcall *t, uint64_t seed)
{
    begin_adding(t, seed);
    opcall_fwd(t);
    opcall_bwd(t);
    compare_grads(t, "added gradient");
}

TEST(add_bits_add)
{
    opcall_for_all(check_add);
}

/* Outputs and gradients of one call are those of the reference, with the bits of forward then backward. */
static void check_both(struct opcall *t, uint64_t seed)
{
    if (!t->op->both[CPU])
        return;
    opcall_exact(t);
    opcall_cpu(t);
    const uint64_t apart = opcall_hash_both(t);
    opcall_both(t);
    EXPECTF(opcall_hash_both(t) == apart, "%s: one call gives other bits than two", t->op->name);
    for (int i = t->a.n_inputs; i < t->a.n_args; i++)
        if (t->of >> i & 1)
            opcall_compare(t, i, t->cpu.arg[i], F32, t->exact.arg[i], t->n[i], "output of one call");
    compare_grads(t, "gradient of one call");
    begin_adding(t, seed);
    opcall_both(t);
    compare_grads(t, "added gradient of one call");
    opcall_check_guards(t);
}

TEST(forward_and_backward_may_be_one_call)
{
    opcall_for_all(check_both);
}

/* Asking for one gradient only gives the same bits as asking for all. */
static void check_unwanted_inputs(struct opcall *t, void (*run)(struct opcall *t))
{
    void *all[OP_ARGS];
    run(t);
    memcpy(all, t->cpu.grad, sizeof all);
    for (int i = 0; i < t->a.n_inputs; i++) {
        if (!(t->by >> i & 1))
            continue;
        for (int j = 0; j < t->a.n_inputs; j++)
            t->cpu.grad[j] = 0;
        const size_t bytes = (size_t)t->n_grad[i] * sizeof(float);
        t->cpu.grad[i] = opcall_buffer(t->arena, bytes);
        run(t);
        EXPECTF(same_bytes(t->cpu.grad[i], all[i], bytes), "%s: gradient of %s alone differs", t->op->name,
                t->a.arg[i].name);
        memcpy(t->cpu.grad, all, sizeof all);
    }
}

static void check_unwanted(struct opcall *t, uint64_t seed)
{
    (void)seed;
    check_unwanted_inputs(t, opcall_cpu);
    if (t->op->both[CPU])
        check_unwanted_inputs(t, opcall_both);
}

/* A NULL gradient of an output is zero. */
static void check_missing_outputs(struct opcall *t, uint64_t seed)
{
    (void)seed;
    for (int i = t->a.n_inputs; i < t->a.n_args; i++) {
        void *kept = t->cpu.grad[i];
        if (!(t->of >> i & 1) || t->of == 1u << i)
            continue;
        t->cpu.grad[i] = 0;
        memset(t->exact.grad[i], 0, (size_t)t->n_grad[i] * sizeof(double));
        opcall_exact(t);
        opcall_cpu(t);
        compare_grads(t, "gradient without one");
        t->cpu.grad[i] = kept;
        widen(t->exact.grad[i], kept, t->n_grad[i], F32);
    }
}

TEST(gradients_may_be_null)
{
    opcall_for_all(check_unwanted);
    opcall_for_all(check_missing_outputs);
}

static void check_threads(struct opcall *t, uint64_t seed)
{
    static const int threads[] = { 1, 1, 2, 3 };
    uint64_t want = 0;
    (void)seed;
    for (int i = 0; i < 4; i++) {
        pool_start(threads[i]);
        opcall_cpu(t);
        if (i == 0)
            want = opcall_hash(t);
        EXPECTF(opcall_hash(t) == want, "%s: other bits in run %d (%d threads)", t->op->name, i, threads[i]);
        const uint64_t apart = opcall_hash_both(t);
        if (t->op->both[CPU])
            opcall_both(t);
        EXPECTF(opcall_hash_both(t) == apart, "%s: other bits in one call, %d threads", t->op->name,
                threads[i]);
    }
}

TEST(same_bits_again_and_with_any_threads)
{
    opcall_for_all(check_threads);
    pool_start(2);
}

/* Output 0 over input 0, and the gradient of input 0 over that of output 0. */
static void check_in_place(struct opcall *t, uint64_t seed)
{
    const int y = t->a.n_inputs;
    const size_t bytes = (size_t)t->n[0] * sizeof(float);
    (void)seed;
    if (!t->op->in_place)
        return;
    EXPECT_INT(t->n[y], t->n[0]);
    EXPECT(!(t->a.saved & (1u << y | 1u)));
    opcall_cpu(t);
    struct call c = t->cpu;
    c.arg[0] = c.arg[y] = opcall_buffer(t->arena, bytes);
    c.grad[0] = c.grad[y] = opcall_buffer(t->arena, bytes);
    memcpy(c.arg[0], t->cpu.arg[0], bytes);
    memcpy(c.grad[y], t->cpu.grad[y], bytes);
    t->op->fwd[CPU](&c);
    EXPECTF(same_bytes(c.arg[y], t->cpu.arg[y], bytes), "%s: other outputs in place", t->op->name);
    t->op->bwd[CPU](&c);
    EXPECTF(same_bytes(c.grad[0], t->cpu.grad[0], bytes), "%s: other gradients in place", t->op->name);
    EXPECT(guarded(c.arg[0], bytes) && guarded(c.grad[0], bytes));
}

TEST(in_place_gives_the_same_bits)
{
    opcall_for_all(check_in_place);
}

TEST(adamw_may_write_its_inputs)
{
    const struct op_case k = { { 1000, 6 }, { 0.9, 0.95, 1e-8, 0.1 } };
    struct arena *arena = arena_new("adamw");
    struct opcall t = opcall_new(registry_find("adamw"), &k, arena, opcall_seed());
    opcall_fwd(&t);
    struct call c = t.cpu;
    for (int i = 0; i < 3; i++)
        c.arg[6 + i] = c.arg[i];
    t.op->fwd[CPU](&c);
    for (int i = 0; i < 3; i++)
        EXPECT(same_bytes(c.arg[i], t.cpu.arg[6 + i], 1000 * sizeof(float)));
    arena_free(arena);
}

TEST(exp_is_within_two_ulp)
{
    for (int64_t i = 0; i < 200000; i++) {
        const float x = (float)(175.6 * rng_uniform(opcall_seed(), 9, (uint64_t)i) - 87.3);
        const double want = exp((double)x), ulp = ldexp(1, ilogb(want) - 23);
        EXPECTF(fabs((double)vector_exp(x) - want) <= 2 * ulp, "exp(%.9g) = %.9g, expected %.9g", (double)x,
                (double)vector_exp(x), want);
    }
    EXPECT(vector_exp(0) == 1 && vector_exp(-1000) < 1e-37f && vector_exp(-INFINITY) < 1e-37f);
    EXPECT(isnan(vector_exp(NAN)) && vector_exp(1000) > 1e38f);
}

/* Whatever stands at later positions, the outputs of the earlier ones have the same bits. */
TEST(attention_is_causal)
{
    enum { S = 150, SEEN = 140, A = 2, Q = 12, C = 16, R = 4, V = 8 };
    const struct op_case k = { { 1, S, A, Q, C, R, V }, { Q, C, V, 0.3 } };
    struct arena *arena = arena_new("causal");
    struct opcall t = opcall_new(registry_find("attention"), &k, arena, opcall_seed());
    float *kv = t.cpu.arg[1], *k_rope = t.cpu.arg[2], *before = ARENA_NEW(arena, float, SEEN *A *V);
    opcall_fwd(&t);
    memcpy(before, t.cpu.arg[3], SEEN * A * V * sizeof *before);
    for (int64_t i = SEEN * A * C; i < S * A * C; i++)
        kv[i] *= 1000;
    for (int64_t i = SEEN * R; i < S * R; i++)
        k_rope[i] *= 1000;
    opcall_fwd(&t);
    EXPECT(same_bytes(before, t.cpu.arg[3], SEEN * A * V * sizeof *before));
    arena_free(arena);
}

/* Nothing is hidden: a NaN in the input is one in the result of its row. */
TEST(nan_stays_visible)
{
    const struct op_case k = { { 3, 5, 40, 3 }, { 3 } };
    struct arena *arena = arena_new("nan");
    struct opcall t = opcall_new(registry_find("head_loss"), &k, arena, opcall_seed());
    ((float *)t.cpu.arg[0])[5] = NAN;
    opcall_fwd(&t);
    EXPECT(isfinite(((float *)t.cpu.arg[3])[0]) && isnan(((float *)t.cpu.arg[3])[1]));
    ((float *)t.cpu.arg[1])[39 * 5] = NAN; /* one logit of each row */
    opcall_fwd(&t);
    EXPECT(isnan(((float *)t.cpu.arg[4])[0]) && isnan(((float *)t.cpu.arg[4])[2]));
    const struct op_case up = { { 4, 3, 2, 5 }, { 0 } };
    t = opcall_new(registry_find("gate_up"), &up, arena, opcall_seed());
    ((float *)t.cpu.arg[0])[2 * 3 + 1] = NAN;
    opcall_fwd(&t);
    for (int i = 0; i < 20; i++)
        EXPECT(isnan(((float *)t.cpu.arg[3])[i]) == (i / 5 == 2));
    arena_free(arena);
}

/* The kernel `again` sees the saved arguments only, and leaves what forward left. */
static void check_again(struct opcall *t, uint64_t seed)
{
    struct call c = t->cpu;
    (void)seed;
    if (!t->op->again[CPU])
        return;
    opcall_fwd(t);
    for (int i = 0; i < t->a.n_args; i++) {
        if (t->a.saved >> i & 1)
            continue;
        const size_t bytes = (size_t)t->n[i] * num_dtype_bytes(opcall_dtype(t, i, false));
        c.arg[i] = i < t->a.n_inputs ? NULL : opcall_buffer(t->arena, bytes);
        if (c.arg[i])
            poison(c.arg[i], t->n[i], opcall_dtype(t, i, false));
    }
    t->op->again[CPU](&c);
    for (int i = t->a.n_inputs; i < t->a.n_args; i++)
        EXPECTF(
            same_bytes(c.arg[i], t->cpu.arg[i], (size_t)t->n[i] * num_dtype_bytes(opcall_dtype(t, i, false))),
            "%s: again leaves another %s", t->op->name, t->a.arg[i].name);
}

TEST(again_leaves_the_same)
{
    opcall_for_all(check_again);
}

/* Backward of an operator that joins, with one buffer for the gradients of its summands, which holds that of the first
 * output (NULL: there is none): the bits of separate ones. */
static void expect_joined(struct opcall *t, const float *first, const float *want)
{
    struct call c = t->cpu;
    const int out = t->a.n_inputs;
    const size_t bytes = (size_t)t->n[out] * sizeof(float);
    float *shared = opcall_buffer(t->arena, bytes);
    poison(shared, t->n[out], F32);
    if (first)
        memcpy(shared, first, bytes);
    c.grad[out] = first ? shared : NULL;
    for (int i = 0; i < out; i++)
        if ((t->by >> i & 1) && i != opcall_arg(t, "w"))
            c.grad[i] = shared;
    t->op->bwd[CPU](&c);
    EXPECTF(same_bytes(shared, want, bytes), "%s: other bits in place", t->op->name);
    if (!first)
        return;
    memcpy(shared, first, bytes); /* the first summand has a gradient already, elsewhere */
    c.grad[0] = opcall_buffer(t->arena, bytes);
    memset(c.grad[0], 0, bytes);
    c.add = 1;
    t->op->bwd[CPU](&c);
    EXPECTF(same_bytes(shared, want, bytes), "%s: other bits beside an added gradient", t->op->name);
    for (int64_t i = 0; i < t->n[out]; i++)
        EXPECT(((const float *)c.grad[0])[i] == want[i]);
}

static void check_joined(struct opcall *t, uint64_t seed)
{
    void *first = t->cpu.grad[t->a.n_inputs];
    (void)seed;
    if (!t->op->joins)
        return;
    for (int i = 0; i < 2; i++) {
        t->cpu.grad[t->a.n_inputs] = i ? NULL : first;
        opcall_cpu(t);
        const size_t bytes = (size_t)t->n[0] * sizeof(float);
        float *want = opcall_buffer(t->arena, bytes);
        memcpy(want, t->cpu.grad[0], bytes);
        EXPECT(same_bytes(want, t->cpu.grad[1], bytes));
        expect_joined(t, i ? NULL : first, want);
    }
}

TEST(joined_gradients_share_a_buffer)
{
    opcall_for_all(check_joined);
}

/* An attribute that gives a length must agree with it; costs are positive and grow with the sizes. */
static void check_record(struct opcall *t, uint64_t seed)
{
    double flops[2] = { -1, -1 }, bytes[2] = { -1, -1 };
    (void)seed;
    for (int l = 0; l < t->a.n_letters; l++)
        if (t->a.letter_attr[l] >= 0)
            EXPECTF(t->cpu.dim[l] == (int64_t)t->cpu.attr[t->a.letter_attr[l]],
                    "%s: a case gives two lengths of %s", t->op->name, t->a.letter[l]);
    t->op->cost(&t->cpu, flops, bytes);
    EXPECTF(flops[0] >= 0 && bytes[0] > 0 && flops[1] >= 0 && (bytes[1] > 0) == (t->ref->bwd != 0),
            "%s: cost", t->op->name);
    EXPECTF((t->ref->bwd != 0) == (t->op->bwd[CPU] != 0) && (t->by != 0) == (t->ref->bwd != 0),
            "%s: backward", t->op->name);
}

TEST(records_are_complete)
{
    EXPECT(registry_n_ops > 0 && registry_find("no such operator") == 0);
    for (int i = 0; i < registry_n_ops; i++) {
        EXPECT(registry_find(registry_ops[i]->name) == registry_ops[i]);
        EXPECT(registry_ops[i]->cases && registry_ops[i]->cases[0].dim[0]);
    }
    opcall_for_all(check_record);
}
