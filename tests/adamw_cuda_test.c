/* adamw_cuda_test.c - AdamW on CUDA in every form of its states: each step from the states before it, 20 steps against
 * float64, rounding without bias, the same bits however the elements are divided. Skips where there is no CUDA
 * device. */
#include "ops/adamw.h"
#include "tests/cuda_fixture.h"
enum { P, M, V, G, LOW, BUFFERS };
enum { STEPS = 20 };
static const double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, rate = 1e-3, factor = 0.75;

struct run { /* elements [first, first + n) of an endless parameter */
    int master, moments;
    bool wide; /* gradients are float32 */
    int64_t n, first;
    double decay;
    size_t bytes[BUFFERS], shift; /* shift: bytes that buffers begin behind an aligned address */
    char *device[BUFFERS], *host[BUFFERS];
    float control[6], *device_control;
};

static float bits_float(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint32_t float_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float weight_at(int64_t element)
{
    return num_from_bf16(num_to_bf16((float)(0.02 * rng_normal(opcall_seed(), 1, (uint64_t)element))));
}

/* A part that stays and one that changes from step to step; some elements are much larger, some are 0. */
static float gradient_at(const struct run *r, int64_t element, int step)
{
    const uint64_t i = (uint64_t)element, seed = opcall_seed();
    const double size = element % 97 == 0 ? 1 : element % 31 == 0 ? 0 : 0.01;
    const float g = (float)(size * (rng_normal(seed, 2, i) + rng_normal(seed, (uint64_t)step + 10, i)));
    return r->wide ? g : num_from_bf16(num_to_bf16(g));
}

static void send(const struct run *r, int buffer)
{
    device_cuda()->put(r->device[buffer] + r->shift, r->host[buffer], r->bytes[buffer]);
}

static void receive(const struct run *r)
{
    for (int i = 0; i < BUFFERS; i++)
        device_cuda()->get(r->host[i], r->device[i] + r->shift, r->bytes[i]);
}

static struct run run_new(int master, int moments, bool wide, int64_t n, int64_t first, size_t shift)
{
    struct run r = {
        .master = master, .moments = moments, .wide = wide, .n = n, .first = first, .shift = shift
    };
    r.decay = 0.1;
    r.bytes[P] = (size_t)n * 2;
    r.bytes[M] = r.bytes[V] = (size_t)adamw_state_bytes(moments, n);
    r.bytes[G] = (size_t)n * (wide ? 4 : 2);
    r.bytes[LOW] = (size_t)adamw_low_bytes(master, n);
    for (int i = 0; i < BUFFERS; i++) {
        r.host[i] = calloc(1, r.bytes[i] + 4);
        r.device[i] = device_buffer(r.bytes[i] + shift);
    }
    for (int64_t i = 0; i < n; i++) {
        const float x = weight_at(first + i);
        ((uint16_t *)r.host[P])[i] = num_to_bf16(x);
        if (master == MASTER_FLOAT)
            ((float *)r.host[LOW])[i] = x;
    }
    for (int i = 0; i < BUFFERS; i++)
        send(&r, i);
    r.device_control = device_buffer(sizeof r.control);
    return r;
}

static void run_free(struct run *r)
{
    for (int i = 0; i < BUFFERS; i++) {
        EXPECTF(device_guarded(r->device[i], r->bytes[i] + r->shift),
                "adamw %d %d: buffer %d is written behind its end", r->master, r->moments, i);
        device_cuda()->release(r->device[i]);
        free(r->host[i]);
    }
    device_cuda()->release(r->device_control);
}

static void call_device(struct run *r)
{
    char *d[BUFFERS];
    for (int i = 0; i < BUFFERS; i++)
        d[i] = r->device[i] + r->shift;
    struct call c = { .arg = { d[P], d[M], d[V], d[G], r->device_control, d[LOW], d[P], d[M], d[V], d[LOW] },
                      .wide = r->wide ? 1u << 3 : 0,
                      .dim = { r->n, 6 },
                      .attr = { beta1, beta2, eps, r->decay, r->master, r->moments, (double)r->first },
                      .stream = device_cuda()->stream() };
    device_cuda()->put(r->device_control, r->control, sizeof r->control);
    registry_find("adamw")->fwd[CUDA](&c);
    device_cuda()->wait();
}

static void run_step(struct run *r, int step)
{
    for (int64_t i = 0; i < r->n; i++) {
        const float g = gradient_at(r, r->first + i, step);
        if (r->wide)
            ((float *)r->host[G])[i] = g;
        else
            ((uint16_t *)r->host[G])[i] = num_to_bf16(g);
    }
    const float control[6] = { (float)rate,
                               (float)factor,
                               (float)(1 - pow(beta1, step)),
                               (float)(1 - pow(beta2, step)),
                               (float)step,
                               7 };
    memcpy(r->control, control, sizeof control);
    send(r, G);
    call_device(r);
    receive(r);
}

static float weight(const struct run *r, int64_t i)
{
    return num_from_bf16(((const uint16_t *)r->host[P])[i]);
}

static float master(const struct run *r, int64_t i)
{
    if (r->master == MASTER_FLOAT)
        return ((const float *)r->host[LOW])[i];
    if (r->master == MASTER_SPLIT) {
        const int64_t low = ((const int16_t *)r->host[LOW])[i];
        return bits_float((uint32_t)(float_bits(weight(r, i)) + low));
    }
    return weight(r, i);
}

static float block_scale(const struct run *r, int which, int64_t i)
{
    float scale;
    memcpy(&scale, r->host[which] + adamw_scales_at(r->n) + i / ADAMW_BLOCK * 4, sizeof scale);
    return scale;
}

static int code_at(const struct run *r, int which, int64_t i)
{
    return ((const uint8_t *)r->host[which])[i];
}

static float moment(const struct run *r, int which, int64_t i)
{
    if (r->moments == MOMENTS_FLOAT)
        return ((const float *)r->host[which])[i];
    if (r->moments == MOMENTS_BF16)
        return num_from_bf16(((const uint16_t *)r->host[which])[i]);
    return adamw_code_value(which == M, code_at(r, which, i)) * block_scale(r, which, i);
}

struct state {
    float p, m, v;
};

static struct state *states(const struct run *r)
{
    struct state *s = malloc((size_t)r->n * sizeof *s);
    for (int64_t i = 0; i < r->n; i++)
        s[i] = (struct state){ master(r, i), moment(r, M, i), moment(r, V, i) };
    return s;
}

/* The float32 arithmetic of the CPU kernel. */
static struct state step_float(const struct run *r, struct state s, float g)
{
    const double lr = (double)r->control[0];
    const float gi = g * r->control[1], root = (float)sqrt((double)r->control[3]);
    const float shrink = (float)(1 - lr * r->decay), step = (float)(lr / (double)r->control[2]);
    s.m = (float)beta1 * s.m + (float)(1 - beta1) * gi;
    s.v = (float)beta2 * s.v + (float)(1 - beta2) * gi * gi;
    s.p = s.p * shrink - step * (s.m / (sqrtf(s.v) / root + (float)eps));
    return s;
}

/* got is x rounded up or down to bfloat16. */
static bool is_neighbour(float got, float x)
{
    const uint32_t below = float_bits(x) & 0xffff0000u;
    return got == bits_float(below) || ((float_bits(x) & 0xffff) && got == bits_float(below + 0x10000));
}

/* Half the width of the cell of a code that is neither 0 nor 1. */
static double half_cell(bool has_sign, int k)
{
    const int decade = has_sign ? ilogb(k) : ilogb(k + 1) - 1;
    return 0.45 * pow(10, decade - 6) / (double)(1 << (has_sign ? decade : decade + 1));
}

static bool good_code(const struct run *r, int which, int64_t i, float want)
{
    const bool has_sign = which == M;
    const double slack = 2e-7; /* sums on the device are fused */
    const int code = code_at(r, which, i), k = has_sign ? abs(code - ADAMW_MINUS) : code;
    const double x = fabs((double)want) / (double)block_scale(r, which, i);
    const double off = fabs(x - fabs((double)adamw_code_value(has_sign, code)));
    if (has_sign && k && x > slack && (code < ADAMW_MINUS) != (want < 0))
        return false;
    if (k == 0)
        return has_sign ? x <= 1e-7 + slack : want == 0;
    if (k == (has_sign ? 128 : 255))
        return off <= 3e-6;
    if (!has_sign && k == 1 && x < 1e-7)
        return true;
    return off <= half_cell(has_sign, k) * 1.0001 + 3e-6 * x + slack;
}

static bool good_moment(const struct run *r, int which, int64_t i, float want)
{
    const float got = moment(r, which, i);
    return r->moments == MOMENTS_FLOAT  ? float_bits(got) == float_bits(want)
           : r->moments == MOMENTS_BF16 ? is_neighbour(got, want)
                                        : good_code(r, which, i, want);
}

/* With 8-bit moments roots and quotients are approximate: within 2^-20 of the learning rate. */
static bool good_weight(const struct run *r, int64_t i, float want)
{
    const float got = master(r, i), slack = (float)rate * 0x1p-20f + fabsf(want) * 0x1p-23f;
    if (r->master == MASTER_NONE)
        return is_neighbour(got, want) || (r->moments == MOMENTS_BYTE && (is_neighbour(got, want + slack) ||
                                                                          is_neighbour(got, want - slack)));
    const uint32_t near = (float_bits(got) + 0x8000) >> 16;
    if (r->master == MASTER_SPLIT && num_to_bf16(weight(r, i)) != near)
        return false;
    if (r->master == MASTER_FLOAT && num_to_bf16(weight(r, i)) != num_to_bf16(got))
        return false;
    return r->moments == MOMENTS_BYTE ? fabsf(got - want) <= slack : float_bits(got) == float_bits(want);
}

/* The float of each block is its largest moment. */
static void check_scales(const struct run *r, const struct state *want)
{
    for (int64_t i = 0; i < r->n; i += ADAMW_BLOCK) {
        float m = 0, v = 0;
        for (int64_t j = i; j < i + ADAMW_BLOCK && j < r->n; j++) {
            m = fmaxf(m, fabsf(want[j].m));
            v = fmaxf(v, want[j].v);
        }
        EXPECTF(fabsf(block_scale(r, M, i) - m) <= m * 1e-6f && fabsf(block_scale(r, V, i) - v) <= v * 1e-6f,
                "block of element %lld: %g %g, expected %g %g", (long long)i, (double)block_scale(r, M, i),
                (double)block_scale(r, V, i), (double)m, (double)v);
    }
}

/* One step of the device against float32 from the same states. */
static void check_step(struct run *r, int step)
{
    struct state *s = states(r);
    int64_t wrong[3] = { 0, 0, 0 }, last = -1;
    run_step(r, step);
    for (int64_t i = 0; i < r->n; i++) {
        const struct state want = s[i] = step_float(r, s[i], gradient_at(r, r->first + i, step));
        const bool bad[3] = { !good_weight(r, i, want.p), !good_moment(r, M, i, want.m),
                              !good_moment(r, V, i, want.v) };
        for (int k = 0; k < 3; k++) {
            wrong[k] += bad[k];
            last = bad[k] ? i : last;
        }
    }
    EXPECTF(last < 0,
            "master %d moments %d n %lld step %d: p, m, v wrong in %lld, %lld, %lld elements, last %lld",
            r->master, r->moments, (long long)r->n, step, (long long)wrong[0], (long long)wrong[1],
            (long long)wrong[2], (long long)last);
    if (r->moments == MOMENTS_BYTE)
        check_scales(r, s);
    free(s);
}

static void for_all_forms(void (*f)(int master, int moments, bool wide))
{
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 3; k++)
            for (int wide = 0; wide < 2; wide++)
                f(i, k, wide);
}

static void check_steps(int master_form, int moments, bool wide)
{
    static const int64_t lengths[] = { 1, 255, 257, 5003 };
    for (int k = 0; k < 4; k++) {
        struct run r = run_new(master_form, moments, wide, lengths[k], 512, 0);
        for (int step = 1; step <= STEPS; step++)
            check_step(&r, step);
        run_free(&r);
    }
}

TEST(steps_are_those_of_float32)
{
    if (have_device())
        for_all_forms(check_steps);
}

/* How far the weights are from float64, relative to how far they moved. */
static void check_movement(int master_form, int moments, bool wide)
{
    const double limit = moments == MOMENTS_BYTE      ? 0.1
                         : master_form == MASTER_NONE ? 0.05
                         : moments                    ? 0.01
                                                      : 1e-5;
    enum { N = 20001 };
    struct run r = run_new(master_form, moments, wide, N, 0, 0);
    double(*exact)[3] = calloc(N, sizeof *exact), off = 0, all = 0;
    for (int64_t i = 0; i < N; i++)
        exact[i][0] = (double)weight_at(i);
    for (int step = 1; step <= STEPS; step++) {
        run_step(&r, step);
        for (int64_t i = 0; i < N; i++) {
            double *x = exact[i], g = factor * (double)gradient_at(&r, i, step);
            x[1] = beta1 * x[1] + (1 - beta1) * g;
            x[2] = beta2 * x[2] + (1 - beta2) * g * g;
            x[0] -= rate * r.decay * x[0] +
                    rate * (x[1] / (1 - pow(beta1, step))) / (sqrt(x[2] / (1 - pow(beta2, step))) + eps);
        }
    }
    for (int64_t i = 0; i < N; i++) {
        off += pow((double)master(&r, i) - exact[i][0], 2);
        all += pow((double)weight_at(i) - exact[i][0], 2);
    }
    if (getenv("OPS_VERBOSE"))
        printf("master %d moments %d wide %d: %.2e\n", master_form, moments, wide, sqrt(off / all));
    EXPECTF(sqrt(off / all) <= limit, "master %d moments %d: %.2g of the movement off after %d steps",
            master_form, moments, sqrt(off / all), STEPS);
    free(exact);
    run_free(&r);
}

TEST(twenty_steps_stay_near_float64)
{
    if (have_device())
        for_all_forms(check_movement);
}

/* All elements are the same: their mean is where the exact element is. The steps are below half of what
 * bfloat16 resolves at 1, so that rounding to nearest would stand still. */
static void check_bias(int moments)
{
    enum { N = 60000 };
    struct run r = run_new(MASTER_NONE, moments, true, N, 0, 0);
    struct state exact = { 1, 0, 0 };
    double sum[3] = { 0, 0, 0 };
    r.decay = 0;
    for (int64_t i = 0; i < N; i++) {
        ((uint16_t *)r.host[P])[i] = num_to_bf16(1);
        ((float *)r.host[G])[i] = 0.0123f;
    }
    send(&r, P);
    send(&r, G);
    for (int step = 1; step <= STEPS; step++) {
        const float control[6] = {
            1e-3f, 1, (float)(1 - pow(beta1, step)), (float)(1 - pow(beta2, step)), (float)step, 3
        };
        memcpy(r.control, control, sizeof control);
        call_device(&r);
        exact = step_float(&r, exact, 0.0123f);
    }
    receive(&r);
    for (int64_t i = 0; i < N; i++) {
        sum[0] += (double)weight(&r, i) / N;
        sum[1] += (double)moment(&r, M, i) / N / (double)exact.m;
        sum[2] += (double)moment(&r, V, i) / N / (double)exact.v;
    }
    EXPECTF(fabs(sum[0] - (double)exact.p) < 2e-4, "mean weight %.6f, expected %.6f", sum[0],
            (double)exact.p);
    EXPECTF(fabs(sum[1] - 1) < 2e-4 && fabs(sum[2] - 1) < 3e-4, "mean moments %.6f, %.6f of the exact ones",
            sum[1], sum[2]);
    run_free(&r);
}

TEST(rounding_has_no_bias)
{
    if (!have_device())
        return;
    check_bias(MOMENTS_FLOAT);
    check_bias(MOMENTS_BF16);
}

static void run_steps(struct run *r)
{
    for (int step = 1; step <= 3; step++)
        run_step(r, step);
}

static void expect_same(const struct run *whole, const struct run *part, const char *what)
{
    int64_t differ = 0;
    for (int64_t i = 0; i < part->n; i++) {
        const int64_t at = part->first + i - whole->first;
        differ += float_bits(master(part, i)) != float_bits(master(whole, at)) ||
                  moment(part, M, i) != moment(whole, M, at) || moment(part, V, i) != moment(whole, V, at);
    }
    EXPECTF(differ == 0, "master %d moments %d: %lld of %lld elements differ %s", whole->master,
            whole->moments, (long long)differ, (long long)part->n, what);
}

static void check_division(int master_form, int moments, bool wide)
{
    enum { N = 2603, CUT = 1024 };
    struct run whole = run_new(master_form, moments, wide, N, 64, 0);
    struct run parts[] = { run_new(master_form, moments, wide, N, 64, 0),
                           run_new(master_form, moments, wide, CUT, 64, 0),
                           run_new(master_form, moments, wide, N - CUT, 64 + CUT, 0),
                           run_new(master_form, moments, wide, N, 64, 4),
                           run_new(master_form, moments, wide, N - 3, 64 + 3, 4) };
    static const char *const what[] = { "in a second run", "in a first part", "in a second part",
                                        "at other addresses", "from element 3 on" };
    run_steps(&whole);
    for (int i = 0; i < 5; i++) {
        run_steps(&parts[i]);
        if (i < 4 || moments != MOMENTS_BYTE) /* blocks begin elsewhere */
            expect_same(&whole, &parts[i], what[i]);
        run_free(&parts[i]);
    }
    run_free(&whole);
}

TEST(bits_do_not_depend_on_the_division)
{
    if (have_device())
        for_all_forms(check_division);
}

/* Nothing moves: what the pair of p and low holds comes back, and p is what it rounds to. */
TEST(split_master_keeps_every_float)
{
    static const uint32_t bits[] = { 0x80000000, 0,          1,          0x8000,     0x7fff,     0x80008000,
                                     0x3f808000, 0x3f807fff, 0xbf808000, 0xbf80ffff, 0x7f7fffff, 0xff7fffff,
                                     0x7f800000, 0xff800000, 0x3f7fffff, 0x00ffffff };
    enum { N = sizeof bits / sizeof *bits };
    if (!have_device())
        return;
    struct run r = run_new(MASTER_SPLIT, MOMENTS_FLOAT, false, N, 0, 0);
    const float control[6] = { 0, 1, 0.1f, 0.05f, 1, 0 };
    for (int i = 0; i < N; i++) {
        ((uint16_t *)r.host[P])[i] = (uint16_t)((bits[i] + 0x8000) >> 16);
        ((uint16_t *)r.host[LOW])[i] = (uint16_t)bits[i];
    }
    memcpy(r.control, control, sizeof control);
    send(&r, P);
    send(&r, LOW);
    send(&r, G);
    call_device(&r);
    receive(&r);
    for (int i = 0; i < N; i++)
        EXPECTF(float_bits(master(&r, i)) == bits[i] &&
                    float_bits(weight(&r, i)) >> 16 == (bits[i] + 0x8000) >> 16,
                "%08x became %08x, weight %08x", bits[i], float_bits(master(&r, i)),
                float_bits(weight(&r, i)));
    run_free(&r);
}

TEST(codes_ascend)
{
    for (int i = 1; i < 256; i++) {
        EXPECT(adamw_code_value(true, i) > adamw_code_value(true, i - 1));
        EXPECT(adamw_code_value(false, i) > adamw_code_value(false, i - 1));
    }
    EXPECT(adamw_code_value(true, 255) == 1 && adamw_code_value(false, 255) == 1);
    EXPECT(adamw_code_value(true, ADAMW_MINUS) == 0 && adamw_code_value(false, 0) == 0);
    for (int k = 1; k <= ADAMW_MINUS; k++)
        EXPECT(adamw_code_value(true, ADAMW_MINUS + k) == -adamw_code_value(true, ADAMW_MINUS - k));
}
