/* ckpt_read.c - parameters from a model directory or checkpoint. */
#include "ckpt/ckpt_impl.h"
#include <string.h>

static bool match_piece(const struct ckpt *c, const struct piece *p, bool *seen, struct err *e)
{
    const int64_t i = name_table_find(&c->names, p->tensor);
    if (i < 0)
        return err_set(e, "%s: tensor %s: missing, expected by config.json", c->dir, p->tensor);
    const struct safetensor *t = c->tensor[i];
    bool same = t->n_dims == p->n_dims;
    for (int k = 0; same && k < p->n_dims; k++)
        same = t->shape[k] == p->shape[k];
    if (!same)
        return err_set(e, "%s: tensor %s: shape %s, expected %s from config.json", t->path, t->name,
                       safetensors_shape(c->arena, t->n_dims, t->shape),
                       safetensors_shape(c->arena, p->n_dims, p->shape));
    if (!safetensors_is_float(t))
        return err_set(e, "%s: tensor %s: dtype %s, expected F32, BF16 or F16", t->path, t->name,
                       t->dtype_name);
    seen[i] = true;
    return true;
}

/* A parameter has one stored dtype, and every tensor is written back in the one that it had. */
static bool match_dtypes(const struct ckpt *c, const struct param *p, struct err *e)
{
    const struct safetensor *first = ckpt_tensor(c, p->piece[0].tensor);
    for (int k = 1; k < p->n_pieces; k++) {
        const struct safetensor *t = ckpt_tensor(c, p->piece[k].tensor);
        if (t->dtype != first->dtype)
            return err_set(e, "%s: tensor %s: dtype %s, expected %s, as tensor %s has", t->path, t->name,
                           t->dtype_name, first->dtype_name, first->name);
    }
    return true;
}

bool ckpt_match(const struct ckpt *c, const struct param_list *params, struct err *e)
{
    bool *seen = ARENA_NEW(c->arena, bool, c->n);
    for (int i = 0; i < params->n; i++) {
        const struct param *p = &params->item[i];
        for (int k = 0; k < p->n_pieces; k++)
            if (!match_piece(c, &p->piece[k], seen, e))
                return false;
        if (!match_dtypes(c, p, e))
            return false;
    }
    for (int64_t i = 0; i < c->n; i++)
        if (!seen[i] && !is_buffer(c->tensor[i]->name))
            return err_set(e, "%s: tensor %s: unknown, the model of config.json has no such tensor",
                           c->tensor[i]->path, c->tensor[i]->name);
    return true;
}

enum dtype ckpt_stored(const struct ckpt *c, const struct param *p)
{
    const struct safetensor *t = ckpt_tensor(c, p->piece[0].tensor);
    CHECK(t && safetensors_is_float(t), "%s was not matched", p->piece[0].tensor);
    return t->dtype;
}

/* Elements [begin, end) of one tensor: `out` is filled as far as they go. */
typedef bool read_tensor(const struct ckpt *c, const struct piece *p, int64_t begin, int64_t end, float *out,
                         enum state_kind kind, struct err *e);

/* Hands the tensors' shares of elements [begin, end) of a parameter to `read`. */
static bool read_pieces(const struct ckpt *c, const struct param *p, int64_t begin, int64_t end, float *out,
                        read_tensor *read, enum state_kind kind, struct err *e)
{
    CHECK(begin >= 0 && begin <= end && end <= p->n_elements, "%s: elements [%lld, %lld)", p->name,
          (long long)begin, (long long)end);
    for (int k = 0; k < p->n_pieces; k++) {
        const struct piece *s = &p->piece[k];
        const int64_t first = s->offset > begin ? s->offset : begin, stop = s->offset + s->n_elements;
        const int64_t last = stop < end ? stop : end, shift = s->at - s->offset;
        if (first < last && !read(c, s, first + shift, last + shift, out + (first - begin), kind, e))
            return false;
    }
    return true;
}

static bool read_stored(const struct ckpt *c, const struct piece *p, int64_t begin, int64_t end, float *out,
                        enum state_kind kind, struct err *e)
{
    (void)kind;
    const struct safetensor *t = ckpt_tensor(c, p->tensor);
    if (!t)
        return err_set(e, "%s: tensor %s: missing, expected by config.json", c->dir, p->tensor);
    CHECK(safetensors_is_float(t) && end <= t->n_elements, "%s was not matched", t->name);
    return safetensors_floats(t, begin, end - begin, out, e);
}

static bool read_kind(const struct ckpt *c, const struct piece *p, int64_t begin, int64_t end, float *out,
                      enum state_kind kind, struct err *e)
{
    const int64_t tensor = name_table_find(&c->names, p->tensor);
    if (tensor < 0)
        return err_set(e, "%s: tensor %s: missing, expected by config.json", c->dir, p->tensor);
    CHECK(end <= c->tensor[tensor]->n_elements, "%s was not matched", p->tensor);
    if (kind == MASTER && c->tensor[tensor]->dtype == F32)
        return read_stored(c, p, begin, end, out, kind, e);
    for (int64_t at = begin; at < end;) {
        const struct state_run r = ckpt_state_run(c, tensor, kind, at, end - at);
        if (!state_floats(c, r.range, r.at, r.n, out + (at - begin), e))
            return false;
        at += r.n;
    }
    return true;
}

bool ckpt_read_weight(const struct ckpt *c, const struct param *p, int64_t begin, int64_t end, float *out,
                      struct err *e)
{
    return read_pieces(c, p, begin, end, out, read_stored, MASTER, e);
}

bool ckpt_read_state(const struct ckpt *c, const struct param *p, int64_t begin, int64_t end, float *weight,
                     float *exp_avg, float *exp_avg_sq, struct err *e)
{
    if (!c->manifest)
        return err_set(e, "%s: no %s: it holds a model, but no optimizer state", c->dir, MANIFEST_NAME);
    return (!weight || read_pieces(c, p, begin, end, weight, read_kind, MASTER, e)) &&
           (!exp_avg || read_pieces(c, p, begin, end, exp_avg, read_kind, EXP_AVG, e)) &&
           (!exp_avg_sq || read_pieces(c, p, begin, end, exp_avg_sq, read_kind, EXP_AVG_SQ, e));
}
