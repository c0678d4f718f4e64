/* bench_error.c - see bench_error.h. */
#include "run/bench_error.h"
#include "base/arena.h"
#include "graph/anno.h"
#include <math.h>
#include <string.h>

struct pair { /* the same call on the host and on the device */
    const struct device *device;
    const struct op *op;
    struct anno a;
    struct arena *arena;
    uint32_t of, by;
    struct call host, far;
    int64_t n[OP_ARGS], n_grad[OP_ARGS]; /* elements */
};

static int arg_of(const struct pair *p, const char *name)
{
    for (int i = 0; i < p->a.n_args; i++)
        if (strcmp(p->a.arg[i].name, name) == 0)
            return i;
    return -1;
}

static const struct op_case *largest_case(const struct op *op)
{
    const struct op_case *best = NULL;
    double most = -1;
    struct anno a;
    anno_parse(op, &a);
    for (const struct op_case *k = op->cuda_cases ? op->cuda_cases : op->cases; k->dim[0]; k++) {
        double n = 0;
        for (int i = 0; i < a.n_args; i++)
            n += (double)anno_elements(&a, i, k->dim);
        best = n > most ? k : best;
        most = n > most ? n : most;
    }
    return best;
}

/* Operators that choose by comparing get numbers on a grid: both sides compare the same ones. */
static bool chooses(const struct pair *p)
{
    bool integers[2] = { false, false };
    for (int i = 0; i < p->a.n_args; i++)
        integers[p->a.arg[i].output] |= p->a.arg[i].dtype == I32;
    return integers[1] && !integers[0];
}

static void fill_random(const struct pair *p, float *x, int64_t n, uint64_t stream)
{
    for (int64_t i = 0; i < n; i++) {
        const double v = rng_normal(1, stream, (uint64_t)i);
        x[i] = (float)(chooses(p) ? nearbyint(2 * v) / 2 : v);
    }
}

/* Rows between the end of a segment and the next tile are zero in every input (op.h). */
static void clear_padding(const struct pair *p, float *x, int arg)
{
    const int end = arg_of(p, "end");
    if (end < 0 || p->a.arg[end].output || p->a.arg[arg].dim[0].rows_of < 0)
        return;
    const int64_t rows = p->host.dim[p->a.arg[arg].dim[0].letter], width = p->n[arg] / rows,
                  tile = (int64_t)anno_attr(&p->a, p->host.attr, "tile", 1);
    const int32_t *ends = p->host.arg[end];
    for (int64_t s = 0; s < p->n[end]; s++) {
        const int64_t next = (ends[s] + tile - 1) / tile * tile, stop = next < rows ? next : rows;
        memset(x + ends[s] * width, 0, (size_t)((stop - ends[s]) * width) * sizeof *x);
    }
}

static void round_floats(float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = num_from_bf16(num_to_bf16(x[i]));
}

static void make_host(struct pair *p)
{
    size_t work[2] = { 0, 0 };
    for (int i = 0; i < p->a.n_args; i++) {
        const bool w = strcmp(p->a.arg[i].name, "w") == 0;
        p->n[i] = anno_elements(&p->a, i, p->host.dim);
        p->host.arg[i] = ARENA_NEW(p->arena, double, p->n[i] + 1); /* room for any dtype, zeroed */
        if (i < p->a.n_inputs && p->a.arg[i].dtype == F32)
            fill_random(p, p->host.arg[i], p->n[i], (uint64_t)i);
        if (!((p->of | p->by) >> i & 1))
            continue;
        p->n_grad[i] = p->n[i] * (w ? (int64_t)anno_attr(&p->a, p->host.attr, "parts", 1) : 1);
        p->host.grad[i] = ARENA_NEW(p->arena, float, p->n_grad[i] + 1);
        if (p->of >> i & 1)
            fill_random(p, p->host.grad[i], p->n_grad[i], (uint64_t)OP_ARGS + (uint64_t)i);
    }
    if (p->op->fill)
        p->op->fill(&p->host, 1);
    for (int i = 0; i < p->a.n_args; i++)
        for (int k = 0; k < 2; k++) {
            float *x = k ? p->host.grad[i] : p->host.arg[i];
            if (p->a.arg[i].dtype != F32 || !(k ? p->of >> i & 1 : i < p->a.n_inputs))
                continue;
            clear_padding(p, x, i);
            if (p->a.arg[i].model_float)
                round_floats(x, p->n[i]);
        }
    if (p->op->work[CPU])
        p->op->work[CPU](&p->host, work);
    p->host.work = arena_alloc(p->arena, work[0] > work[1] ? work[0] : work[1]);
}

static enum dtype far_type(const struct pair *p, int arg)
{
    return p->a.arg[arg].model_float && p->device->backend == CUDA ? BF16 : p->a.arg[arg].dtype;
}

static void *upload(const struct pair *p, int arg, const void *from, int64_t n)
{
    const enum dtype t = far_type(p, arg);
    const size_t bytes = (size_t)n * num_dtype_bytes(t);
    void *to = p->device->allocate(bytes + 1);
    const size_t mark = arena_mark(p->arena);
    if (t == BF16) {
        uint16_t *low = ARENA_NEW(p->arena, uint16_t, n + 1);
        num_from_float(low, from, BF16, n);
        from = low;
    }
    p->device->put(to, from, bytes);
    arena_reset(p->arena, mark);
    return to;
}

static void make_far(struct pair *p)
{
    size_t work[2] = { 0, 0 };
    p->far = p->host;
    p->far.stream = p->device->stream();
    for (int i = 0; i < p->a.n_args; i++) {
        p->far.arg[i] = upload(p, i, p->host.arg[i], p->n[i]);
        p->far.grad[i] = p->host.grad[i] ? upload(p, i, p->host.grad[i], p->n_grad[i]) : NULL;
    }
    if (p->op->work[p->device->backend])
        p->op->work[p->device->backend](&p->far, work);
    p->far.work = p->device->allocate((work[0] > work[1] ? work[0] : work[1]) + 1);
}

static void free_far(struct pair *p)
{
    for (int i = 0; i < p->a.n_args; i++) {
        p->device->release(p->far.arg[i]);
        if (p->far.grad[i])
            p->device->release(p->far.grad[i]);
    }
    p->device->release(p->far.work);
}

static double relative_l2(const struct pair *p, int arg, const float *want, const void *at, int64_t n)
{
    const enum dtype t = far_type(p, arg);
    void *raw = arena_alloc(p->arena, (size_t)(n + 1) * 4);
    float *got = ARENA_NEW(p->arena, float, n + 1);
    double off = 0, all = 0;
    p->device->get(raw, at, (size_t)n * num_dtype_bytes(t));
    num_to_float(got, raw, t, n);
    for (int64_t i = 0; i < n; i++) {
        const double d = (double)got[i] - (double)want[i];
        off += d * d;
        all += (double)want[i] * (double)want[i];
    }
    return isfinite(off) ? sqrt(off / fmax(all, 1e-30)) : INFINITY;
}

/* What later nodes read: the outputs with a gradient; all, where there is no backward. */
static bool compared(const struct pair *p, int arg)
{
    return p->a.arg[arg].output && p->a.arg[arg].dtype == F32 && (!p->of || p->of >> arg & 1);
}

static void compare(struct pair *p, struct bench_error *out)
{
    const enum backend b = p->device->backend;
    p->op->fwd[CPU](&p->host);
    p->op->fwd[b](&p->far);
    for (int i = 0; i < p->a.n_args; i++) /* before backward, which may use up what forward left */
        if (compared(p, i))
            out->output = fmax(out->output, relative_l2(p, i, p->host.arg[i], p->far.arg[i], p->n[i]));
    if (!p->by)
        return;
    p->op->bwd[CPU](&p->host);
    p->op->bwd[b](&p->far);
    for (int i = 0; i < p->a.n_inputs; i++)
        if (p->by >> i & 1)
            out->gradient =
                fmax(out->gradient, relative_l2(p, i, p->host.grad[i], p->far.grad[i], p->n_grad[i]));
}

struct bench_error bench_error(const struct device *d, const struct op *op, uint32_t of, uint32_t by)
{
    struct bench_error out = { -1, -1 };
    struct pair p = { .device = d, .op = op, .arena = arena_new("bench error") };
    const struct op_case *k = largest_case(op);
    const bool differentiable = op->bwd[CPU] && op->bwd[d->backend];
    p.of = differentiable ? of : 0;
    p.by = differentiable ? by : 0;
    CHECK(k, "%s has no sizes to test", op->name);
    anno_parse(op, &p.a);
    memcpy(p.host.dim, k->dim, sizeof p.host.dim);
    memcpy(p.host.attr, k->attr, sizeof p.host.attr);
    make_host(&p);
    make_far(&p);
    compare(&p, &out);
    free_far(&p);
    arena_free(p.arena);
    return out;
}
