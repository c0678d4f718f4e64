/* adamw.c - AdamW (arXiv 1711.05101) with the order of operations of torch.optim.AdamW. control holds the
 * learning rate, the factor for gradients (1 / clipping), 1 - beta1^t, 1 - beta2^t, the step t and the seed.
 * Outputs may be the inputs of the same name. `low` is used on CUDA alone (adamw.h); bit 3 of c->wide says there
 * that g is float32. */
#include "ops/adamw.h"
#include "base/err.h"
#include "base/pool.h"
#include "graph/op.h"
#include "ops/fill.h"
#include "ops/kernel.h"
#include "ops/vector.h"
enum { P, M, V, G, CONTROL, LOW, P2, M2, V2, LOW2, X = 0, C };
enum { A_BETA1, A_BETA2, A_EPS, A_DECAY, A_MASTER, A_MOMENTS };
enum { EACH = 16384, BLOCK = 512 }; /* elements of a task, of a step of it */
struct rule {
    float scale, keep1, new1, keep2, new2, eps, shrink, root, step;
};

static struct rule rule_of(const struct call *c)
{
    const float *control = c->arg[CONTROL];
    const double *attr = c->attr, rate = (double)control[0];
    return (struct rule){ .scale = control[1],
                          .keep1 = (float)attr[A_BETA1],
                          .new1 = (float)(1 - attr[A_BETA1]),
                          .keep2 = (float)attr[A_BETA2],
                          .new2 = (float)(1 - attr[A_BETA2]),
                          .eps = (float)attr[A_EPS],
                          .shrink = (float)(1 - rate * attr[A_DECAY]),
                          .root = (float)sqrt((double)control[3]),
                          .step = (float)(rate / (double)control[2]) };
}

/* Up to BLOCK elements. The results go through local memory, because an output may be its input and the compiler
 * would not vectorize otherwise. */
WIDE static void update(const struct call *c, const struct rule *u, struct span s)
{
    const int64_t n = s.to - s.from;
    const float *p = (const float *)c->arg[P] + s.from, *m = (const float *)c->arg[M] + s.from;
    const float *v = (const float *)c->arg[V] + s.from, *g = (const float *)c->arg[G] + s.from;
    float p2[BLOCK], m2[BLOCK], v2[BLOCK];
    const struct rule r = *u;
    for (int64_t i = 0; i < n; i++) {
        const float gi = g[i] * r.scale;
        m2[i] = r.keep1 * m[i] + r.new1 * gi;
        v2[i] = r.keep2 * v[i] + r.new2 * gi * gi;
        const float shrunk = p[i] * r.shrink, update = r.step * (m2[i] / (sqrtf(v2[i]) / r.root + r.eps));
        p2[i] = update == 0 ? shrunk : shrunk - update; /* without a change -0 stays -0 */
    }
    memcpy((float *)c->arg[P2] + s.from, p2, (size_t)n * sizeof *p2);
    memcpy((float *)c->arg[M2] + s.from, m2, (size_t)n * sizeof *m2);
    memcpy((float *)c->arg[V2] + s.from, v2, (size_t)n * sizeof *v2);
}

static void fwd_part(void *context, int64_t task)
{
    const struct call *c = context;
    const struct rule u = rule_of(c);
    const struct span s = cut_span(c->dim[X], EACH, task);
    for (int64_t i = 0; i < cut_parts(s.to - s.from, BLOCK); i++) {
        const struct span block = cut_span(s.to - s.from, BLOCK, i);
        update(c, &u, (struct span){ s.from + block.from, s.from + block.to });
    }
}

static void fwd(const struct call *c)
{
    CHECK(c->attr[A_MASTER] == 0 && c->attr[A_MOMENTS] == 0, "the CPU's states are float32");
    pool_run(cut_parts(c->dim[X], EACH), fwd_part, (void *)c);
}

static void fill(const struct call *c, uint64_t seed)
{
    float *v = c->arg[V], *control = c->arg[CONTROL];
    for (int64_t i = 0; i < c->dim[X]; i++)
        v[i] *= v[i]; /* a mean of squares */
    control[0] = (float)(1e-3 * (1 + rng_uniform(seed, 0, 0)));
    control[1] = 0.75f;
    control[2] = (float)(1 - pow(c->attr[A_BETA1], 3));
    control[3] = (float)(1 - pow(c->attr[A_BETA2], 3));
    control[4] = 3;
    control[5] = (float)(seed % 1000);
}

int64_t adamw_state_bytes(int moments, int64_t n)
{
    if (moments == MOMENTS_BYTE)
        return adamw_scales_at(n) + cut_parts(n, ADAMW_BLOCK) * (int64_t)sizeof(float);
    return n * (moments == MOMENTS_BF16 ? 2 : 4);
}

int64_t adamw_low_bytes(int master, int64_t n)
{
    return master == MASTER_NONE ? 0 : n * (master == MASTER_SPLIT ? 2 : 4);
}

static void cost(const struct call *c, double flops[2], double bytes[2])
{
    static const int moment_bytes[MOMENT_FORMS] = { 4, 2, 1 };
    const int each = moment_bytes[(int)c->attr[A_MOMENTS]]; /* two of them, read and written */
    flops[0] = 15 * (double)c->dim[X];
    bytes[0] = (12 + 4 * each) * (double)c->dim[X];
    flops[1] = bytes[1] = 0;
}

CUDA_KERNELS(adamw);
const struct op op_adamw = {
    .name = "adamw",
    .anno = "p: x, m: x, v: x, g: x, control: c^ @f32, low: x -> p2: x, m2: x, v2: x, low2: x",
    .attrs = "beta1 beta2 eps decay master moments first",
    .cost = cost,
    .work = { [CUDA] = adamw_work_cuda },
    .fwd = { [CPU] = fwd, [CUDA] = adamw_fwd_cuda },
    .fill = fill,
    .cases = (const struct op_case[]){ { { 1, 6 }, { 0.9, 0.95, 1e-8, 0 } },
                                       { { 77, 6 }, { 0.9, 0.95, 1e-8, 0.1 } },
                                       { { 40000, 6 }, { 0.9, 0.999, 0.1, 0.01 } },
                                       { .dim = { 0 } } },
    /* m and v are bfloat16; p is rounded at random, or to nearest from a master. */
    .cuda_cases = (const struct op_case[]){ { { 1, 6 }, { 0.9, 0.95, 1e-8, 0, 0, 1, 0 } },
                                            { { 77, 6 }, { 0.9, 0.95, 1e-8, 0.1, 1, 1, 0 } },
                                            { { 40001, 6 }, { 0.9, 0.999, 0.1, 0.01, 0, 1, 5 } },
                                            { { 300000, 6 }, { 0.9, 0.95, 1e-8, 0.1, 0, 1, 64 } },
                                            { .dim = { 0 } } },
};
