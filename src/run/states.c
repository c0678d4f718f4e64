/* states.c - see states.h. */
#include "run/states.h"
#include "ops/adamw.h"
#include <math.h>
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

const float *states_master(const struct exec *x, int param, int64_t at, int64_t n, float *room)
{
    const struct numbers *numbers = &x->program->plan.numbers;
    if (x->device->backend == CPU)
        return exec_at(x, own_weight(x, param, at));
    if (numbers->master == MASTER_SPLIT)
        get_split(x, param, at, n, room);
    else if (numbers->master == MASTER_FLOAT)
        exec_get_floats(x, room, own_low(x, param, at), F32, n);
    else
        exec_get_floats(x, room, own_weight(x, param, at), plan_float(&x->program->plan), n);
    return room;
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
    return x->program->plan.numbers.moments == MOMENTS_BF16 ? BF16 : F32;
}

/* -- 8-bit moments (ops/adamw.h): codes of all elements, then a float per block of ADAMW_BLOCK -- */
static struct ref further(struct ref r, int64_t bytes)
{
    r.at_bytes += bytes;
    return r;
}

/* Values of the 256 codes, ascending for moments with a sign as well as for those without. */
static void code_values(bool is_signed, float values[256])
{
    for (int code = 0; code < 256; code++)
        values[code] = adamw_code_value(is_signed, code);
}

static void get_bytes(const struct exec *x, struct ref moment, int64_t n_all, int64_t at, int64_t n,
                      bool is_signed, float *out)
{
    float values[256];
    const int64_t first = at / ADAMW_BLOCK, blocks = (at + n - 1) / ADAMW_BLOCK - first + 1;
    unsigned char *code = arena_slab((size_t)n);
    float *scale = arena_slab((size_t)blocks * sizeof *scale);
    code_values(is_signed, values);
    exec_get(x, code, further(moment, at), n);
    exec_get(x, scale, further(moment, adamw_scales_at(n_all) + first * (int64_t)sizeof *scale),
             blocks * (int64_t)sizeof *scale);
    for (int64_t i = 0; i < n; i++)
        out[i] = values[code[i]] * scale[(at + i) / ADAMW_BLOCK - first];
    arena_slab_free(code);
    arena_slab_free(scale);
}

/* The code whose value is nearest; what was a code is found again. */
static unsigned char nearest_code(const float values[256], float x)
{
    int low = 0, high = 255;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (values[middle] <= x)
            low = middle;
        else
            high = middle;
    }
    return (unsigned char)(x - values[low] <= values[high] - x ? low : high);
}

/* The scale under which these values are those of codes: 1 is one, the lowest is a little above -1; where the largest is
 * negative it had that code. Found again but for a rounding. */
static float scale_of(const float values[256], const float *x, int64_t n)
{
    float low = 0, high = 0;
    for (int64_t i = 0; i < n; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    return -low >= high && low < 0 ? low / values[0] : high;
}

static void put_bytes(struct exec *x, struct ref moment, int64_t n_all, const float *from, bool is_signed)
{
    float values[256];
    const int64_t blocks = (n_all + ADAMW_BLOCK - 1) / ADAMW_BLOCK;
    unsigned char *code = arena_slab((size_t)n_all);
    float *scale = arena_slab((size_t)blocks * sizeof *scale);
    code_values(is_signed, values);
    for (int64_t b = 0; b < blocks; b++) {
        const int64_t begin = b * ADAMW_BLOCK,
                      end = begin + ADAMW_BLOCK < n_all ? begin + ADAMW_BLOCK : n_all;
        scale[b] = scale_of(values, from + begin, end - begin);
        for (int64_t i = begin; i < end; i++) {
            code[i] = nearest_code(values, scale[b] > 0 ? from[i] / scale[b] : 0);
            if (!is_signed && from[i] > 0 && code[i] == 0)
                code[i] = 1; /* never 0: its step would be large */
        }
    }
    exec_put(x, moment, code, n_all);
    exec_put(x, further(moment, adamw_scales_at(n_all)), scale, blocks * (int64_t)sizeof *scale);
    arena_slab_free(code);
    arena_slab_free(scale);
}

const float *states_moment(const struct exec *x, struct ref moment, int64_t n_all, int64_t at, int64_t n,
                           bool is_signed, float *room)
{
    const enum dtype t = moment_dtype(x);
    if (x->device->backend == CPU)
        return exec_at(x, further(moment, at * (int64_t)num_dtype_bytes(t)));
    if (x->program->plan.numbers.moments == MOMENTS_BYTE)
        get_bytes(x, moment, n_all, at, n, is_signed, room);
    else
        exec_get_floats(x, room, further(moment, at * (int64_t)num_dtype_bytes(t)), t, n);
    return room;
}

void states_put_moment(struct exec *x, struct ref moment, int64_t n_all, const float *from, bool is_signed)
{
    if (x->program->plan.numbers.moments == MOMENTS_BYTE)
        put_bytes(x, moment, n_all, from, is_signed);
    else
        exec_put_floats(x, moment, moment_dtype(x), from, n_all);
}
