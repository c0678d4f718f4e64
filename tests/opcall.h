/* opcall.h - calls of an operator for its tests, made from the record alone: one for the CPU device (float32)
 * and one for the reference (float64) with the same inputs. Buffers have their exact length and a guard
 * behind it; outputs are poisoned before each run. */
#pragma once
#include "base/arena.h"
#include "base/hash.h"
#include "base/pool.h"
#include "base/rng.h"
#include "graph/anno.h"
#include "graph/registry.h"
#include "tests/ref/ref.h"
#include "tests/test.h"
#include <stdlib.h>
#include <time.h>
enum { GUARD = 64 };
static const uint32_t poison32 = 0x7fc0dead;          /* a NaN; as an index, out of any range */
static const uint64_t poison64 = 0x7ff8deaddeaddeadu; /* a NaN */
struct opcall {
    const struct op *op;
    const struct ref *ref;
    struct anno a;
    struct arena *arena;
    struct call cpu, exact;
    int64_t n[OP_ARGS], n_grad[OP_ARGS]; /* elements; 0 = has no gradient */
    uint32_t of, by;                     /* bit per argument */
    size_t work_bytes[2];
};

/* The seed of this run: printed, and settable by OPS_SEED to repeat a failure. */
__attribute__((unused)) static uint64_t opcall_seed(void)
{
    static uint64_t seed;
    struct timespec now;
    if (seed)
        return seed;
    clock_gettime(CLOCK_REALTIME, &now);
    const char *given = getenv("OPS_SEED");
    seed = given ? strtoull(given, 0, 10) : (uint64_t)now.tv_nsec + 1;
    printf("  OPS_SEED=%llu\n", (unsigned long long)seed);
    return seed;
}

static const struct ref *opcall_ref(const char *name)
{
#define OP(name_)                                                                                            \
    if (strcmp(name, #name_) == 0)                                                                           \
        return &ref_##name_;
#include "ops.def"
#undef OP
    return 0;
}

static enum dtype opcall_dtype(const struct opcall *t, int arg, bool exact)
{
    const enum dtype d = t->a.arg[arg].dtype;
    return exact && d != I32 ? F64 : d;
}

static void *opcall_buffer(struct arena *arena, size_t bytes)
{
    unsigned char *p = arena_alloc(arena, bytes + GUARD);
    memset(p + bytes, 0xa5, GUARD);
    return p;
}

static void poison(void *data, int64_t n, enum dtype d)
{
    for (int64_t i = 0; i < n; i++)
        if (d == F64)
            memcpy((double *)data + i, &poison64, sizeof poison64);
        else
            memcpy((uint32_t *)data + i, &poison32, sizeof poison32);
}

static bool same_bytes(const void *a, const void *b, size_t bytes)
{
    return memcmp(a, b, bytes) == 0;
}

static bool poisoned(const void *data, int64_t i, enum dtype d)
{
    return d == F64 ? same_bytes((const double *)data + i, &poison64, sizeof poison64)
                    : same_bytes((const uint32_t *)data + i, &poison32, sizeof poison32);
}

static double element(const void *data, int64_t i, enum dtype d)
{
    if (d == I32)
        return ((const int32_t *)data)[i];
    return d == F64 ? ((const double *)data)[i] : (double)((const float *)data)[i];
}

/* dst (float64, or int32 from int32) = src */
static void widen(void *dst, const void *src, int64_t n, enum dtype d)
{
    if (d == I32)
        memcpy(dst, src, (size_t)n * sizeof(int32_t));
    else
        for (int64_t i = 0; i < n; i++)
            ((double *)dst)[i] = element(src, i, d);
}

static uint32_t opcall_bits(const struct opcall *t, const char *names)
{
    uint32_t bits = 0;
    for (int i = 0; i < t->a.n_args; i++) {
        const char *at = strstr(names, t->a.arg[i].name);
        const size_t n = strlen(t->a.arg[i].name);
        for (; at; at = strstr(at + 1, t->a.arg[i].name))
            if ((at == names || at[-1] == ' ') && (at[n] == ' ' || !at[n]))
                bits |= 1u << i;
    }
    return bits;
}

static double opcall_attr(const struct opcall *t, const char *name, double otherwise)
{
    return anno_attr(&t->a, t->cpu.attr, name, otherwise);
}

static int opcall_arg(const struct opcall *t, const char *name)
{
    for (int i = 0; i < t->a.n_args; i++)
        if (strcmp(t->a.arg[i].name, name) == 0)
            return i;
    return -1;
}

/* Arguments named w, w_up ... are parameters. */
static bool opcall_is_weight(const struct opcall *t, int arg)
{
    const char *name = t->a.arg[arg].name;
    return name[0] == 'w' && (name[1] == 0 || name[1] == '_');
}

/* The gradient of a weight of experts has one part, or one per source. */
static int64_t opcall_grad_parts(const struct opcall *t, int arg)
{
    return opcall_is_weight(t, arg) ? (int64_t)opcall_attr(t, "parts", 1) : 1;
}

/* Buffers for given dim and attr of t->cpu; contents undefined. */
static void opcall_allocate(struct opcall *t)
{
    for (int i = 0; i < t->a.n_args; i++) {
        const enum dtype cpu = opcall_dtype(t, i, false), exact = opcall_dtype(t, i, true);
        t->n[i] = anno_elements(&t->a, i, t->cpu.dim);
        t->cpu.arg[i] = opcall_buffer(t->arena, (size_t)t->n[i] * num_dtype_bytes(cpu));
        t->exact.arg[i] = opcall_buffer(t->arena, (size_t)t->n[i] * num_dtype_bytes(exact));
        if (!((t->of | t->by) >> i & 1))
            continue;
        t->n_grad[i] = t->n[i] * opcall_grad_parts(t, i);
        t->cpu.grad[i] = opcall_buffer(t->arena, (size_t)t->n_grad[i] * num_dtype_bytes(cpu));
        t->exact.grad[i] = opcall_buffer(t->arena, (size_t)t->n_grad[i] * num_dtype_bytes(exact));
    }
    if (t->op->work[CPU])
        t->op->work[CPU](&t->cpu, t->work_bytes);
    const size_t most = t->work_bytes[0] > t->work_bytes[1] ? t->work_bytes[0] : t->work_bytes[1];
    t->cpu.work = opcall_buffer(t->arena, most);
}

static bool opcall_chooses(const struct opcall *t)
{
    bool integers[2] = { false, false }; /* among inputs, outputs */
    for (int i = 0; i < t->a.n_args; i++)
        integers[t->a.arg[i].output] |= t->a.arg[i].dtype == I32;
    return integers[1] && !integers[0];
}

/* Normal numbers, rounded to float32. Where an operator chooses by comparing, they lie on a grid, so that float32
 * and float64 compare the same numbers (and ties occur). */
static void opcall_random(const struct opcall *t, float *x, int64_t n, uint64_t seed, uint64_t stream)
{
    for (int64_t i = 0; i < n; i++) {
        const double value = rng_normal(seed, stream, (uint64_t)i);
        x[i] = (float)(opcall_chooses(t) ? nearbyint(value * 2) / 2 : value);
    }
}

static struct opcall opcall_begin(const struct op *op, const struct op_case *k, struct arena *arena)
{
    struct opcall t = { .op = op, .ref = opcall_ref(op->name), .arena = arena };
    anno_parse(op, &t.a);
    memcpy(t.cpu.dim, k->dim, sizeof t.cpu.dim);
    memcpy(t.cpu.attr, k->attr, sizeof t.cpu.attr);
    memcpy(t.exact.dim, k->dim, sizeof t.exact.dim);
    memcpy(t.exact.attr, k->attr, sizeof t.exact.attr);
    t.of = opcall_bits(&t, t.ref->of);
    t.by = opcall_bits(&t, t.ref->by);
    return t;
}

static void opcall_widen_inputs(struct opcall *t)
{
    for (int i = 0; i < t->a.n_args; i++) {
        const enum dtype d = opcall_dtype(t, i, false);
        if (i < t->a.n_inputs)
            widen(t->exact.arg[i], t->cpu.arg[i], t->n[i], d);
        if (t->of >> i & 1)
            widen(t->exact.grad[i], t->cpu.grad[i], t->n_grad[i], d);
    }
}

/* A call with fresh inputs and gradients of outputs. */
__attribute__((unused)) static struct opcall opcall_new(const struct op *op, const struct op_case *k,
                                                        struct arena *arena, uint64_t seed)
{
    struct opcall t = opcall_begin(op, k, arena);
    opcall_allocate(&t);
    for (int i = 0; i < t.a.n_args; i++) {
        if (i < t.a.n_inputs && t.a.arg[i].dtype == F32)
            opcall_random(&t, t.cpu.arg[i], t.n[i], seed, (uint64_t)i);
        if (t.of >> i & 1)
            opcall_random(&t, t.cpu.grad[i], t.n_grad[i], seed, (uint64_t)i + OP_ARGS);
    }
    if (op->fill)
        op->fill(&t.cpu, seed);
    opcall_widen_inputs(&t);
    return t;
}

static void opcall_poison_outputs(const struct opcall *t, const struct call *c, bool exact)
{
    for (int i = t->a.n_inputs; i < t->a.n_args; i++)
        poison(c->arg[i], t->n[i], opcall_dtype(t, i, exact));
}

static void opcall_poison_grads(const struct opcall *t, const struct call *c, bool exact)
{
    for (int i = 0; i < t->a.n_inputs; i++)
        if (c->grad[i] && !(c->add >> i & 1))
            poison(c->grad[i], t->n_grad[i], opcall_dtype(t, i, exact));
}

__attribute__((unused)) static void opcall_exact(struct opcall *t)
{
    opcall_poison_outputs(t, &t->exact, true);
    t->ref->fwd(&t->exact);
    opcall_poison_grads(t, &t->exact, true);
    if (t->ref->bwd)
        t->ref->bwd(&t->exact);
}

static void opcall_fwd(struct opcall *t)
{
    opcall_poison_outputs(t, &t->cpu, false);
    poison(t->cpu.work, (int64_t)(t->work_bytes[0] / 4), F32);
    t->op->fwd[CPU](&t->cpu);
}

/* Backward sees the saved arguments only; the others are poison. */
static void opcall_bwd(struct opcall *t)
{
    struct call c = t->cpu;
    const size_t mark = arena_mark(t->arena);
    if (!t->op->bwd[CPU])
        return;
    opcall_poison_grads(t, &c, false);
    poison(c.work, (int64_t)(t->work_bytes[1] / 4), F32);
    for (int i = 0; i < t->a.n_args; i++)
        if (!(t->a.saved >> i & 1)) {
            const enum dtype d = opcall_dtype(t, i, false);
            c.arg[i] = arena_alloc(t->arena, (size_t)t->n[i] * num_dtype_bytes(d));
            poison(c.arg[i], t->n[i], d);
        }
    t->op->bwd[CPU](&c);
    arena_reset(t->arena, mark);
}

/* Forward and backward in one call (op.h: both). */
__attribute__((unused)) static void opcall_both(struct opcall *t)
{
    const size_t most = t->work_bytes[0] > t->work_bytes[1] ? t->work_bytes[0] : t->work_bytes[1];
    opcall_poison_outputs(t, &t->cpu, false);
    opcall_poison_grads(t, &t->cpu, false);
    poison(t->cpu.work, (int64_t)(most / 4), F32);
    t->op->both[CPU](&t->cpu);
}

__attribute__((unused)) static void opcall_cpu(struct opcall *t)
{
    opcall_fwd(t);
    opcall_bwd(t);
}

static bool guarded(const void *data, size_t bytes)
{
    for (int i = 0; i < GUARD; i++)
        if (((const unsigned char *)data + bytes)[i] != 0xa5)
            return false;
    return true;
}

/* Nothing was written behind a buffer. */
__attribute__((unused)) static void opcall_check_guards(const struct opcall *t)
{
    const size_t most = t->work_bytes[0] > t->work_bytes[1] ? t->work_bytes[0] : t->work_bytes[1];
    for (int i = 0; i < t->a.n_args; i++) {
        const size_t each = num_dtype_bytes(opcall_dtype(t, i, false));
        EXPECTF(guarded(t->cpu.arg[i], (size_t)t->n[i] * each), "%s: %s is written behind its end",
                t->op->name, t->a.arg[i].name);
        EXPECTF(!t->cpu.grad[i] || guarded(t->cpu.grad[i], (size_t)t->n_grad[i] * each),
                "%s: gradient of %s is written behind its end", t->op->name, t->a.arg[i].name);
    }
    EXPECTF(guarded(t->cpu.work, most), "%s: more work memory is used than declared", t->op->name);
}

/* What an argument may leave open: rows between segments, and by-products no gradient flows through. */
static bool opcall_may_be_open(const struct opcall *t, int arg)
{
    for (int k = 0; k < t->a.arg[arg].n_dims; k++)
        if (t->a.arg[arg].dim[k].rows_of >= 0 && opcall_arg(t, "end") >= 0 &&
            t->a.arg[opcall_arg(t, "end")].output == false)
            return true;
    return t->a.arg[arg].output && !(t->of >> arg & 1);
}

static double largest(const void *data, int64_t n, enum dtype d)
{
    double top = 0;
    for (int64_t i = 0; i < n; i++)
        if (!poisoned(data, i, d))
            top = fmax(top, fabs(element(data, i, d)));
    return top;
}

/* What errors are measured by: the largest element; of the whole call (its outputs, or its gradients) where the
 * argument has so few that all may happen to be small. */
static double opcall_scale(const struct opcall *t, const void *want, int64_t n, bool gradient)
{
    double top = largest(want, n, F64);
    for (int i = 0; i < t->a.n_args && n < 64; i++)
        if (gradient && t->exact.grad[i])
            top = fmax(top, largest(t->exact.grad[i], t->n_grad[i], F64));
        else if (!gradient && i >= t->a.n_inputs && t->a.arg[i].dtype != I32)
            top = fmax(top, largest(t->exact.arg[i], t->n[i], F64));
    return top;
}

static double opcall_tolerance(const struct opcall *t, int arg)
{
    int64_t longest = 1;
    for (int l = 0; l < t->a.n_letters; l++)
        longest = t->cpu.dim[l] > longest ? t->cpu.dim[l] : longest;
    return 16 * (t->a.arg[arg].dtype == F64 ? 0x1p-52 : 0x1p-23) * sqrt((double)longest);
}

/* got (of the CPU device, or float64 joined from parts) against want of the reference, an output or a gradient:
 * k eps sqrt(longest dimension) of the largest element. Integers must be equal. */
__attribute__((unused)) static void opcall_compare(const struct opcall *t, int arg, const void *got,
                                                   enum dtype got_type, const void *want, int64_t n,
                                                   const char *what)
{
    const enum dtype d = opcall_dtype(t, arg, true);
    const bool gradient = want == t->exact.grad[arg];
    int64_t worst = 0;
    double off = 0;
    for (int64_t i = 0; i < n; i++) {
        if (poisoned(want, i, d)) {
            EXPECTF(opcall_may_be_open(t, arg), "%s: the reference does not write %s[%lld]", t->op->name,
                    t->a.arg[arg].name, (long long)i);
            continue;
        }
        const double diff = fabs(element(got, i, got_type) - element(want, i, d));
        worst = !(diff <= off) ? i : worst;
        off = isfinite(diff) ? fmax(off, diff) : INFINITY;
    }
    const double scale = d == I32 ? 0 : opcall_scale(t, want, n, gradient);
    const double limit = d == I32 ? 0 : opcall_tolerance(t, arg) * scale;
    if (getenv("OPS_VERBOSE") && limit > 0)
        printf("%.3f of the limit: %s %s %s\n", off / limit, t->op->name, t->a.arg[arg].name, what);
    EXPECTF(off <= limit, "%s: %s of %s[%lld] of %lld = %.9g, reference %.9g, limit %.2g", t->op->name, what,
            t->a.arg[arg].name, (long long)worst, (long long)n, element(got, worst, got_type),
            element(want, worst, d), limit);
}

/* A hash of everything that a run left: outputs and gradients of inputs. */
__attribute__((unused)) static uint64_t opcall_hash(const struct opcall *t)
{
    struct hash_state *h = hash_begin();
    for (int i = 0; i < t->a.n_args; i++) {
        const size_t each = num_dtype_bytes(opcall_dtype(t, i, false));
        if (i >= t->a.n_inputs)
            hash_add(h, t->cpu.arg[i], (size_t)t->n[i] * each);
        else if (t->cpu.grad[i])
            hash_add(h, t->cpu.grad[i], (size_t)t->n_grad[i] * each);
    }
    return hash_end(h);
}

/* A hash of what `both` promises: outputs that have a gradient, and gradients of inputs. */
__attribute__((unused)) static uint64_t opcall_hash_both(const struct opcall *t)
{
    struct hash_state *h = hash_begin();
    for (int i = 0; i < t->a.n_args; i++) {
        const size_t each = num_dtype_bytes(opcall_dtype(t, i, false));
        if (i >= t->a.n_inputs && (t->of >> i & 1))
            hash_add(h, t->cpu.arg[i], (size_t)t->n[i] * each);
        else if (i < t->a.n_inputs && t->cpu.grad[i])
            hash_add(h, t->cpu.grad[i], (size_t)t->n_grad[i] * each);
    }
    return hash_end(h);
}

/* Calls f with every case of every operator. */
__attribute__((unused)) static void opcall_for_all(void (*f)(struct opcall *t, uint64_t seed))
{
    for (int i = 0; i < registry_n_ops; i++) {
        const struct op_case *k = registry_ops[i]->cases;
        for (int n = 0; k && k->dim[0]; k++, n++) {
            struct arena *arena = arena_new("opcall");
            struct opcall t = opcall_new(registry_ops[i], k, arena, opcall_seed() + (uint64_t)n);
            f(&t, opcall_seed() + (uint64_t)n);
            arena_free(arena);
        }
    }
}
