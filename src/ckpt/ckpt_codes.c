/* ckpt_codes.c - 8-bit moments: codes and the floats of their blocks, as they were saved. */
#include "ckpt/ckpt_impl.h"
#include <math.h>
#include <string.h>

bool ckpt_has_codes(const struct ckpt *c)
{
    for (int64_t i = 0; i < c->n_states; i++)
        if (c->state[i].data->dtype == U8)
            return true;
    return false;
}

void ckpt_set_values(struct ckpt *c, const float *exp_avg, const float *exp_avg_sq)
{
    c->values[0] = exp_avg;
    c->values[1] = exp_avg_sq;
}

/* The float of the block of element `at` of the range. */
static float scale_at(const struct state_range *s, int64_t at)
{
    float scale;
    memcpy(&scale, s->data->data + (s->end - s->begin) + (s->skip + at) / CKPT_BLOCK * (int64_t)sizeof scale,
           sizeof scale);
    return scale;
}

static bool check_scale(const struct state_range *s, int64_t at, float scale, struct err *e)
{
    return (isfinite(scale) && scale >= 0) ||
           err_set(e, "%s: tensor %s: the float of the block of element %lld is %g, expected a finite number",
                   s->data->path, s->data->name, (long long)at, (double)scale);
}

bool state_check_scales(const struct state_range *s, struct err *e)
{
    if (s->data->dtype != U8)
        return true;
    for (int64_t at = 0; at < s->end - s->begin; at += CKPT_BLOCK - (s->skip + at) % CKPT_BLOCK)
        if (!check_scale(s, at, scale_at(s, at), e))
            return false;
    return true;
}

bool state_floats(const struct ckpt *c, const struct state_range *s, int64_t at, int64_t n, float *out,
                  struct err *e)
{
    if (s->data->dtype != U8)
        return safetensors_floats(s->data, at, n, out, e);
    const float *values = c->values[s->kind];
    CHECK(values, "%s: values of codes are not set", s->data->name);
    for (int64_t i = 0, last; i < n; i = last) {
        const float scale = scale_at(s, at + i);
        last = i + CKPT_BLOCK - (s->skip + at + i) % CKPT_BLOCK;
        last = last < n ? last : n;
        if (!check_scale(s, at + i, scale, e))
            return false;
        for (int64_t k = i; k < last; k++)
            out[k] = values[s->data->data[at + k]] * scale;
    }
    return true;
}

struct wanted { /* codes of elements of a parameter, in the order that is wanted */
    enum state_kind kind;
    unsigned char *codes;
    float *scales;
    bool *met; /* by block: some of it is there already */
};

/* Elements [at, at + n) of a range of states are those that are wanted from `first` on. */
static bool take_codes(const struct state_range *s, int64_t at, int64_t n, int64_t first,
                       const struct wanted *w, struct err *e)
{
    for (int64_t i = 0, last; i < n; i = last) {
        const int64_t to = first + i, block = to / CKPT_BLOCK;
        const bool is_code = s->data->dtype == U8;
        const float scale = is_code ? scale_at(s, at + i) : -1;
        int64_t left = is_code ? CKPT_BLOCK - (s->skip + at + i) % CKPT_BLOCK : CKPT_BLOCK;
        left = left < CKPT_BLOCK - to % CKPT_BLOCK ? left : CKPT_BLOCK - to % CKPT_BLOCK;
        last = i + left < n ? i + left : n;
        if (is_code && !check_scale(s, at + i, scale, e))
            return false;
        if (is_code)
            memcpy(w->codes + to, s->data->data + at + i, (size_t)(last - i));
        w->scales[block] = !w->met[block] || w->scales[block] == scale ? scale : -1;
        w->met[block] = true;
    }
    return true;
}

/* Elements [begin, end) of a piece's tensor, which are those that are wanted from `first` on. */
static bool take_piece(const struct ckpt *c, int64_t tensor, int64_t begin, int64_t end, int64_t first,
                       const struct wanted *w, struct err *e)
{
    for (int64_t at = begin; at < end;) {
        const struct state_run r = ckpt_state_run(c, tensor, w->kind, at, end - at);
        if (!take_codes(r.range, r.at, r.n, first + at - begin, w, e))
            return false;
        at += r.n;
    }
    return true;
}

/* Elements [begin, end) of the parameter as it is: those that are wanted from `to` on. */
static bool take_pieces(const struct ckpt *c, const struct param *p, int64_t begin, int64_t end, int64_t to,
                        const struct wanted *w, struct err *e)
{
    for (int k = 0; k < p->n_pieces; k++) {
        const struct piece *s = &p->piece[k];
        const int64_t first = s->offset > begin ? s->offset : begin, stop = s->offset + s->n_elements,
                      last = stop < end ? stop : end, shift = s->at - s->offset;
        if (first >= last)
            continue;
        const int64_t tensor = name_table_find(&c->names, s->tensor);
        if (tensor < 0)
            return err_set(e, "%s: tensor %s: missing, expected by config.json", c->dir, s->tensor);
        if (!take_piece(c, tensor, first + shift, last + shift, to + first - begin, w, e))
            return false;
    }
    return true;
}

bool ckpt_read_codes(const struct ckpt *c, const struct param *p, const struct ckpt_order *order,
                     int64_t begin, int64_t end, enum ckpt_part part, unsigned char *codes, float *scales,
                     struct err *e)
{
    bool ok = true;
    struct arena *a = arena_new("codes");
    const struct ckpt_order as_it_is = { 1, 0 };
    CHECK(part == CKPT_EXP_AVG || part == CKPT_EXP_AVG_SQ, "part %d", (int)part);
    const struct wanted w = { part == CKPT_EXP_AVG ? EXP_AVG : EXP_AVG_SQ, codes, scales,
                              ARENA_NEW(a, bool, blocks_of(0, end - begin)) };
    for (int64_t at = begin, stored, n; at < end && ok; at += n) {
        n = order_stored(order ? order : &as_it_is, p->n_elements, at, &stored);
        n = n < end - at ? n : end - at;
        ok = take_pieces(c, p, stored, stored + n, at - begin, &w, e);
    }
    arena_free(a);
    return ok;
}
