/* ops_cuda_test.c - the CUDA kernels of every operator against the float64 reference, from the record alone: fresh
 * random inputs rounded to bfloat16, poisoned outputs, guards behind every buffer, the add and wide bits, unwanted
 * gradients, the same bits again. Skips where there is no CUDA device. */
#include "tests/cuda_side.h"

/* The same in one call (op.h: both). */
static void side_run_both(struct side *s, uint32_t want, uint32_t add)
{
    struct opcall *t = s->t;
    struct call c = s->c;
    c.add = add;
    device_poison(c.work, s->work_bytes / 4 * 4);
    for (int i = 0; i < t->a.n_args; i++) {
        const bool input = i < t->a.n_inputs;
        if (!input)
            device_poison_elements(c.arg[i], s->bytes[i], element_bytes(t, i, false));
        if (input && !(want >> i & 1))
            c.grad[i] = NULL;
        if (input && c.grad[i] && !(add >> i & 1))
            device_poison_elements(c.grad[i], s->grad_bytes[i], element_bytes(t, i, s->c.wide >> i & 1));
    }
    t->op->both[CUDA](&c);
    device_cuda()->wait();
    for (int i = 0; i < t->a.n_args; i++)
        if (i >= t->a.n_inputs)
            download(t->cpu.arg[i], c.arg[i], t->n[i], element_bytes(t, i, false));
        else if (c.grad[i])
            download(t->cpu.grad[i], c.grad[i], t->n_grad[i], element_bytes(t, i, s->c.wide >> i & 1));
}

/* Errors of bfloat16: relative L2 at most 6e-3, each element within 2^-6 of the largest. Float32 results of inputs
 * that are exact (bfloat16 numbers) still pass through bfloat16 intermediates, so the same holds for them. Below 1024
 * numbers the L2 error scatters too much to judge (6.3e-3 seen at 64; 8.2e-3 where one score of attention decides 256); each
 * element is judged at all sizes. */
static void compare(const struct opcall *t, int arg, const void *got, const void *want, int64_t n,
                    const char *what)
{
    const enum dtype from = opcall_dtype(t, arg, false), d = opcall_dtype(t, arg, true);
    const int64_t rows = rows_of_arg(t, arg), width = rows ? n / rows : 0,
                  tile = (int64_t)opcall_attr(t, "tile", 1);
    double off = 0, all = 0, most = 0, top = 0;
    int64_t worst = 0;
    for (int64_t i = 0; i < n; i++) {
        const int64_t segment = rows && width ? segment_of_row(t, i / width, tile) : 0;
        if (segment == -1)
            EXPECTF(element(got, i, from) == 0, "%s: %s of %s is not zero in row %lld between segments",
                    t->op->name, what, t->a.arg[arg].name, (long long)(i / width));
        if (segment < 0 || poisoned(want, i, d))
            continue;
        const double x = element(got, i, from), y = element(want, i, d), diff = fabs(x - y);
        if (!(diff <= most)) {
            worst = i;
            most = isfinite(diff) ? diff : INFINITY;
        }
        off += diff * diff;
        all += y * y;
        top = fmax(top, fabs(y));
    }
    top = fmax(top, opcall_scale(t, want, n, want == t->exact.grad[arg]));
    const double l2 = sqrt(off / fmax(all, 1e-30)), max_limit = d == I32 ? 0 : 0x1p-6 * top;
    if (getenv("OPS_VERBOSE"))
        printf("l2 %.2e max %.2e of %.2e: %s %s %s n %lld\n", l2, most, top, t->op->name, t->a.arg[arg].name,
               what, (long long)n);
    EXPECTF(most <= max_limit && (l2 <= 6e-3 || d == I32 || n < 1024),
            "%s: %s of %s[%lld] of %lld = %.9g, reference %.9g; relative L2 error %.2g", t->op->name, what,
            t->a.arg[arg].name, (long long)worst, (long long)n, element(got, worst, from),
            element(want, worst, d), l2);
}

/* One call against the reference, and with the bits of the two calls, whose results are in t. */
static void check_both(struct side *s, const char *what)
{
    struct opcall *t = s->t;
    const uint64_t apart = opcall_hash_both(t);
    side_run_both(s, t->by, 0);
    for (int i = 0; i < t->a.n_args; i++)
        if (i < t->a.n_inputs && (t->by >> i & 1))
            compare(t, i, t->cpu.grad[i], t->exact.grad[i], t->n_grad[i], what);
        else if (i >= t->a.n_inputs && (t->of >> i & 1))
            compare(t, i, t->cpu.arg[i], t->exact.arg[i], t->n[i], "output of one call");
    EXPECTF(opcall_hash_both(t) == apart, "%s: one call gives other bits than two", t->op->name);
}

/* By-products that the reference does not define are compared where it does. */
static void check_values(struct opcall *t, uint32_t wide, const char *what)
{
    struct side s = side_new(t, wide);
    opcall_exact(t);
    side_run(&s, t->by, 0);
    for (int i = t->a.n_inputs; i < t->a.n_args; i++)
        compare(t, i, t->cpu.arg[i], t->exact.arg[i], t->n[i], "output");
    for (int i = 0; i < t->a.n_inputs; i++)
        if (t->by >> i & 1)
            compare(t, i, t->cpu.grad[i], t->exact.grad[i], t->n_grad[i], what);
    const uint64_t first = opcall_hash(t);
    side_run(&s, t->by, 0);
    EXPECTF(opcall_hash(t) == first, "%s: other bits in the second run", t->op->name);
    if (t->op->both[CUDA])
        check_both(&s, what);
    side_free(&s);
}

static uint32_t model_floats(const struct opcall *t)
{
    uint32_t bits = 0;
    for (int i = 0; i < t->a.n_inputs; i++)
        if (is_bf16(t, i) && (t->by >> i & 1))
            bits |= 1u << i;
    return bits;
}

/* Weights' gradients may be float32. */
static uint32_t weight_bits(const struct opcall *t)
{
    uint32_t bits = 0;
    for (int i = 0; i < t->a.n_inputs; i++)
        bits |= opcall_is_weight(t, i) ? model_floats(t) & 1u << i : 0;
    return bits;
}

typedef void side_runner(struct side *s, uint32_t want, uint32_t add);

static void check_add(struct opcall *t, uint32_t wide, uint64_t seed, side_runner *run)
{
    struct side s = side_new(t, wide);
    opcall_exact(t);
    for (int i = 0; i < t->a.n_inputs; i++) {
        if (!(t->by >> i & 1))
            continue;
        opcall_random(t, t->cpu.grad[i], t->n_grad[i], seed, (uint64_t)i + 100);
        for (int64_t j = 0; j < t->n_grad[i]; j++) {
            float *g = (float *)t->cpu.grad[i] + j;
            *g = is_bf16(t, i) ? num_from_bf16(num_to_bf16(*g)) : *g;
            if (!poisoned(t->exact.grad[i], j, F64))
                ((double *)t->exact.grad[i])[j] += (double)*g;
        }
        upload(s.c.grad[i], t->cpu.grad[i], t->n_grad[i], element_bytes(t, i, wide >> i & 1));
    }
    run(&s, t->by, t->by);
    for (int i = 0; i < t->a.n_inputs; i++)
        if ((t->by >> i & 1) && !rows_of_arg(t, i))
            compare(t, i, t->cpu.grad[i], t->exact.grad[i], t->n_grad[i], "added gradient");
    side_free(&s);
}

static void check_unwanted(struct opcall *t)
{
    struct side s = side_new(t, 0);
    uint64_t all[OP_ARGS] = { 0 };
    side_run(&s, t->by, 0);
    for (int i = 0; i < t->a.n_inputs; i++)
        if (t->by >> i & 1)
            all[i] = hash_bytes(t->cpu.grad[i], (size_t)t->n_grad[i] * sizeof(float));
    for (int i = 0; i < t->a.n_inputs; i++) {
        if (!(t->by >> i & 1))
            continue;
        side_run(&s, 1u << i, 0);
        EXPECTF(hash_bytes(t->cpu.grad[i], (size_t)t->n_grad[i] * sizeof(float)) == all[i],
                "%s: gradient of %s alone differs", t->op->name, t->a.arg[i].name);
    }
    side_free(&s);
}

static void for_all(void (*f)(struct opcall *t, uint64_t seed))
{
    const char *only = getenv("OPS_ONLY");
    for (int i = 0; i < registry_n_ops; i++) {
        const struct op *op = registry_ops[i];
        const struct op_case *k = op->cuda_cases ? op->cuda_cases : op->cases;
        for (int n = 0; op->fwd[CUDA] && (!only || strcmp(only, op->name) == 0) && k && k->dim[0]; k++, n++) {
            struct arena *arena = arena_new("opcall");
            struct opcall t = opcall_new(op, k, arena, opcall_seed() + (uint64_t)n);
            clear_padding(&t);
            round_inputs(&t);
            opcall_widen_inputs(&t);
            f(&t, opcall_seed() + (uint64_t)n);
            arena_free(arena);
        }
    }
}

static void values(struct opcall *t, uint64_t seed)
{
    (void)seed;
    check_values(t, 0, "gradient");
    if (weight_bits(t))
        check_values(t, weight_bits(t), "float32 gradient");
}

TEST(cuda_equals_reference)
{
    if (have_device())
        for_all(values);
}

static void additions(struct opcall *t, uint64_t seed)
{
    if (!t->op->bwd[CUDA])
        return;
    for (int k = 0; k < (t->op->both[CUDA] ? 2 : 1); k++) {
        check_add(t, 0, seed, k ? side_run_both : side_run);
        if (weight_bits(t))
            check_add(t, weight_bits(t), seed, k ? side_run_both : side_run);
    }
}

TEST(cuda_add_bits_add)
{
    if (have_device())
        for_all(additions);
}

static void unwanted(struct opcall *t, uint64_t seed)
{
    (void)seed;
    if (t->op->bwd[CUDA])
        check_unwanted(t);
}

TEST(cuda_gradients_may_be_null)
{
    if (have_device())
        for_all(unwanted);
}

/* The kernel `again` leaves the bits of forward, from the saved arguments alone. */
static void again(struct opcall *t, uint64_t seed)
{
    (void)seed;
    if (!t->op->again[CUDA])
        return;
    struct side s = side_new(t, 0);
    struct call c = s.c;
    device_poison(c.work, s.work_bytes / 4 * 4);
    for (int i = t->a.n_inputs; i < t->a.n_args; i++)
        device_poison_elements(c.arg[i], s.bytes[i], element_bytes(t, i, false));
    t->op->fwd[CUDA](&c);
    for (int i = 0; i < t->a.n_args; i++)
        if (!(t->a.saved >> i & 1)) {
            const size_t each = element_bytes(t, i, false);
            if (i >= t->a.n_inputs) {
                download(t->cpu.arg[i], c.arg[i], t->n[i], each);
                device_poison_elements(c.arg[i], s.bytes[i], each);
            } else {
                c.arg[i] = NULL;
            }
        }
    t->op->again[CUDA](&c);
    for (int i = t->a.n_inputs; i < t->a.n_args; i++)
        if (!(t->a.saved >> i & 1)) {
            float *now = ARENA_NEW(t->arena, float, t->n[i] + 1);
            download(now, c.arg[i], t->n[i], element_bytes(t, i, false));
            EXPECTF(same_bytes(now, t->cpu.arg[i], (size_t)t->n[i] * sizeof(float)),
                    "%s: again leaves another %s", t->op->name, t->a.arg[i].name);
        }
    side_free(&s);
}

TEST(cuda_again_leaves_the_same)
{
    if (have_device())
        for_all(again);
}

/* Backward of an operator that joins: missing gradients of outputs, and one buffer for the summands' gradients, which
 * holds that of the first output to begin with. */
static void joined(struct opcall *t, uint64_t seed)
{
    (void)seed;
    if (!t->op->joins)
        return;
    struct side s = side_new(t, 0);
    const int first = t->a.n_inputs, w = opcall_arg(t, "w");
    const size_t bytes = s.grad_bytes[first];
    side_run(&s, t->by, 0);
    float *want = ARENA_NEW(t->arena, float, t->n[0] + 1), *got = ARENA_NEW(t->arena, float, t->n[0] + 1);
    memcpy(want, t->cpu.grad[0], (size_t)t->n[0] * sizeof *want);
    EXPECTF(same_bytes(want, t->cpu.grad[1], (size_t)t->n[0] * sizeof *want), "%s: the gradients differ",
            t->op->name);
    struct call c = s.c;
    void *shared = device_buffer(bytes);
    upload(shared, t->cpu.grad[first], t->n[first], element_bytes(t, first, false));
    for (int i = 0; i <= first; i++)
        if (i == first || ((t->by >> i & 1) && i != w))
            c.grad[i] = shared;
    t->op->bwd[CUDA](&c);
    device_cuda()->wait();
    download(got, shared, t->n[0], element_bytes(t, 0, false));
    EXPECTF(same_bytes(want, got, (size_t)t->n[0] * sizeof *want), "%s: other bits in place", t->op->name);
    EXPECTF(device_guarded(shared, bytes), "%s: a shared gradient is written behind its end", t->op->name);
    device_cuda()->release(shared);
    side_free(&s);
}

/* A NULL gradient of an output is zero. */
static void missing(struct opcall *t, uint64_t seed)
{
    (void)seed;
    for (int i = t->a.n_inputs; i < t->a.n_args && t->op->joins; i++) {
        if (!(t->of >> i & 1))
            continue;
        struct side s = side_new(t, 0);
        void *kept = s.c.grad[i];
        double *exact = t->exact.grad[i];
        t->exact.grad[i] = ARENA_NEW(t->arena, double, t->n_grad[i]); /* zeros */
        opcall_exact(t);
        s.c.grad[i] = NULL;
        side_run(&s, t->by, 0);
        for (int j = 0; j < t->a.n_inputs; j++)
            if (t->by >> j & 1)
                compare(t, j, t->cpu.grad[j], t->exact.grad[j], t->n_grad[j], "gradient without one");
        t->exact.grad[i] = exact;
        s.c.grad[i] = kept;
        side_free(&s);
    }
}

TEST(cuda_joined_gradients_share_a_buffer)
{
    if (have_device()) {
        for_all(joined);
        for_all(missing);
    }
}

/* Output 0 over input 0, and the gradient of input 0 over that of output 0: the same bits. */
static void in_place(struct opcall *t, uint64_t seed)
{
    const int y = t->a.n_inputs;
    const size_t each = element_bytes(t, 0, false), bytes = (size_t)t->n[0] * sizeof(float);
    (void)seed;
    if (!t->op->in_place)
        return;
    struct side s = side_new(t, 0);
    side_run(&s, t->by, 0);
    float *got = malloc(bytes);
    struct call c = s.c;
    c.arg[y] = c.arg[0];
    c.grad[0] = c.grad[y];
    t->op->fwd[CUDA](&c);
    t->op->bwd[CUDA](&c);
    device_cuda()->wait();
    download(got, c.arg[y], t->n[y], each);
    EXPECTF(same_bytes(got, t->cpu.arg[y], bytes), "%s: other outputs in place", t->op->name);
    download(got, c.grad[0], t->n[0], each);
    EXPECTF(same_bytes(got, t->cpu.grad[0], bytes), "%s: other gradients in place", t->op->name);
    free(got);
    side_free(&s);
}

TEST(cuda_in_place_gives_the_same_bits)
{
    if (have_device())
        for_all(in_place);
}

/* Five experts, tiles of 128: all rows to one, one row, half a tile, one more than that, none. */
TEST(cuda_experts_with_any_segments)
{
    static const int32_t ends[4][5] = { { 0, 0, 0, 0, 1400 },
                                        { 999, 999, 999, 999, 999 },
                                        { 1, 192, 192, 449, 639 } };
    static const struct op_case k = { { 1536, 5, 136, 1, 2, 328 }, { 128, 1 } };
    const char *only = getenv("OPS_ONLY");
    for (int i = 0; have_device() && (!only || strcmp(only, "experts") == 0) && i < 4; i++) {
        struct arena *arena = arena_new("opcall");
        struct opcall t = opcall_new(registry_find("experts"), &k, arena, opcall_seed());
        memcpy(t.cpu.arg[opcall_arg(&t, "end")], ends[i], sizeof ends[i]);
        clear_padding(&t);
        round_inputs(&t);
        opcall_widen_inputs(&t);
        values(&t, 0);
        additions(&t, opcall_seed());
        arena_free(arena);
    }
}
