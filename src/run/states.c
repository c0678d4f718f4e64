/* states.c - see states.h. */
#include "run/states.h"
#include "ops/adamw.h"
#include <string.h>

struct ref states_weight_at(const struct exec *x, int param, int64_t at)
{
    const struct program *p = x->program;
    struct ref r = p->weights[p->layout.place[param].flat];
    r.at_bytes += (p->state[param].begin + at) * (int64_t)num_dtype_bytes(plan_float(&p->plan));
    return r;
}

struct ref states_low_at(const struct exec *x, int param, int64_t at)
{
    struct ref r = x->program->state[param].low;
    r.at_bytes += plan_master_bytes(&x->program->plan, at);
    return r;
}

enum dtype states_moment_dtype(const struct exec *x)
{
    return x->program->plan.numbers.moments == MOMENTS_BF16 ? BF16 : F32;
}

struct ref states_moment_at(const struct exec *x, int param, bool is_signed, int64_t at)
{
    const struct state *s = &x->program->state[param];
    struct ref r = is_signed ? s->exp_avg : s->exp_avg_sq;
    const bool bytes = x->program->plan.numbers.moments == MOMENTS_BYTE;
    r.at_bytes += at * (bytes ? 1 : (int64_t)num_dtype_bytes(states_moment_dtype(x)));
    return r;
}

struct ref states_scale_at(const struct exec *x, int param, bool is_signed, int64_t block)
{
    const struct state *s = &x->program->state[param];
    struct ref r = is_signed ? s->exp_avg : s->exp_avg_sq;
    r.at_bytes += adamw_scales_at(s->end - s->begin) + block * (int64_t)sizeof(float);
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

void states_split(uint16_t *weight, uint16_t *low, const float *from, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, from + i, sizeof bits);
        weight[i] = (uint16_t)((bits + 0x8000u) >> 16);
        low[i] = (uint16_t)(bits - ((uint32_t)weight[i] << 16));
    }
}

/* Elements of dtype t as floats: where they lie, or in `room`. */
static const float *floats_at(struct source *s, struct ref r, enum dtype t, int64_t n, float *room)
{
    const void *x = source_bytes(s, r, n * (int64_t)num_dtype_bytes(t), t == F32 ? room : room + n);
    if (!x || t == F32)
        return x;
    num_to_float(room, x, t, n);
    return room;
}

const float *states_master(struct source *s, int param, int64_t at, int64_t n, float *room)
{
    const struct exec *x = s->exec;
    const struct plan *p = &x->program->plan;
    if (p->numbers.master == MASTER_FLOAT)
        return floats_at(s, states_low_at(x, param, at), F32, n, room);
    if (p->numbers.master == MASTER_NONE)
        return floats_at(s, states_weight_at(x, param, at), plan_float(p), n, room);
    const uint16_t *weight = source_bytes(s, states_weight_at(x, param, at), 2 * n, room + n);
    const uint16_t *low = source_bytes(s, states_low_at(x, param, at), 2 * n, room + 2 * n);
    if (!weight || !low)
        return NULL;
    join(room, weight, low, n);
    return room;
}

const float *states_moment(struct source *s, int param, bool is_signed, int64_t at, int64_t n, float *room)
{
    const struct exec *x = s->exec;
    CHECK(x->program->plan.numbers.moments != MOMENTS_BYTE, "8-bit moments are read as codes");
    return floats_at(s, states_moment_at(x, param, is_signed, at), states_moment_dtype(x), n, room);
}
