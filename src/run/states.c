/* states.c - see states.h. */
#include "run/states.h"
#include <string.h>

/* Places of what this rank owns of a parameter, from element `at` of it on. */
static struct ref own_weight(const struct exec *x, int param, int64_t at)
{
    const struct program *p = x->program;
    struct ref r = p->weights[p->layout.place[param].flat];
    r.at_bytes += (p->state[param].begin + at) * (int64_t)num_dtype_bytes(plan_float(&p->plan));
    return r;
}

static struct ref own_low(const struct exec *x, int param, int64_t at)
{
    struct ref r = x->program->state[param].low;
    r.at_bytes += plan_master_bytes(&x->program->plan, at);
    return r;
}

/* The float32 whose high half, rounded, is the weight (ops/adamw.cu): bits = (weight << 16) + signed low. */
static void join(float *out, const uint16_t *weight, const uint16_t *low, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const uint32_t bits = ((uint32_t)weight[i] << 16) + (uint32_t)(int32_t)(int16_t)low[i];
        memcpy(out + i, &bits, sizeof bits);
    }
}

static void split(uint16_t *weight, uint16_t *low, const float *from, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, from + i, sizeof bits);
        weight[i] = (uint16_t)((bits + 0x8000u) >> 16);
        low[i] = (uint16_t)(bits - ((uint32_t)weight[i] << 16));
    }
}

enum { PIECE = 1 << 20 }; /* elements that are converted at once */

static void get_split(const struct exec *x, int param, int64_t at, int64_t n, float *out)
{
    uint16_t *room = arena_slab(2 * PIECE * sizeof *room);
    for (int64_t i = 0; i < n; i += PIECE) {
        const int64_t part = n - i < PIECE ? n - i : PIECE;
        exec_get(x, room, own_weight(x, param, at + i), part * 2);
        exec_get(x, room + PIECE, own_low(x, param, at + i), part * 2);
        join(out + i, room, room + PIECE, part);
    }
    arena_slab_free(room);
}

static void put_split(struct exec *x, int param, int64_t at, int64_t n, const float *from)
{
    uint16_t *room = arena_slab(2 * PIECE * sizeof *room);
    for (int64_t i = 0; i < n; i += PIECE) {
        const int64_t part = n - i < PIECE ? n - i : PIECE;
        split(room, room + PIECE, from + i, part);
        exec_put(x, own_weight(x, param, at + i), room, part * 2);
        exec_put(x, own_low(x, param, at + i), room + PIECE, part * 2);
    }
    arena_slab_free(room);
}

const float *states_master(struct arena *a, const struct exec *x, int param, int64_t at, int64_t n)
{
    const struct numbers *numbers = &x->program->plan.numbers;
    if (x->device->backend == CPU)
        return exec_at(x, own_weight(x, param, at));
    float *out = ARENA_NEW(a, float, n + 1);
    if (numbers->master == MASTER_SPLIT)
        get_split(x, param, at, n, out);
    else if (numbers->master == MASTER_FLOAT)
        exec_get_floats(x, out, own_low(x, param, at), F32, n);
    else
        exec_get_floats(x, out, own_weight(x, param, at), plan_float(&x->program->plan), n);
    return out;
}

void states_put_master(struct exec *x, int param, int64_t at, int64_t n, const float *from)
{
    const struct numbers *numbers = &x->program->plan.numbers;
    if (numbers->master == MASTER_SPLIT)
        put_split(x, param, at, n, from);
    else if (numbers->master == MASTER_FLOAT)
        exec_put_floats(x, own_low(x, param, at), F32, from, n);
}

static enum dtype moment_dtype(const struct exec *x)
{
    CHECK(x->program->plan.numbers.moments != MOMENTS_BYTE, "8-bit moments on the host are not there yet");
    return x->program->plan.numbers.moments == MOMENTS_BF16 ? BF16 : F32;
}

const float *states_moment(struct arena *a, const struct exec *x, struct ref moment, int64_t n_all,
                           int64_t at, int64_t n, bool is_signed)
{
    (void)n_all;
    (void)is_signed;
    moment.at_bytes += at * (int64_t)num_dtype_bytes(moment_dtype(x));
    if (x->device->backend == CPU)
        return exec_at(x, moment);
    float *out = ARENA_NEW(a, float, n + 1);
    exec_get_floats(x, out, moment, moment_dtype(x), n);
    return out;
}

void states_put_moment(struct exec *x, struct ref moment, int64_t n_all, const float *from, bool is_signed)
{
    (void)is_signed;
    exec_put_floats(x, moment, moment_dtype(x), from, n_all);
}
