/* ckpt_state.c - optimizer state from the files of any number of ranks: ranges of tensors, in one order. */
#include "ckpt/ckpt_impl.h"
#include <stdlib.h>
#include <string.h>

static bool check_shape(const struct ckpt *c, const struct safetensor *t, const struct state_name *s,
                        const struct safetensor *model, struct err *e)
{
    const int64_t n = s->end - s->begin,
                  n_range = t->dtype == U8 ? n + 4 * blocks_of(s->skip, n) : n; /* with the floats' bytes */
    bool same = t->n_dims == (s->end < 0 ? model->n_dims : 1);
    for (int i = 0; same && i < t->n_dims; i++)
        same = t->shape[i] == (s->end < 0 ? model->shape[i] : n_range);
    if (same)
        return true;
    return err_set(e, "%s: tensor %s: shape %s, expected %s", t->path, t->name,
                   safetensors_shape(c->arena, t->n_dims, t->shape),
                   s->end < 0 ? safetensors_shape(c->arena, model->n_dims, model->shape)
                              : safetensors_shape(c->arena, 1, &n_range));
}

static bool add_state(struct ckpt *c, const struct safetensor *t, struct err *e)
{
    struct state_name s;
    if (!state_name_parse(c->arena, t->name, &s))
        return err_set(e,
                       "%s: tensor %s: expected a name that ends in .exp_avg, .exp_avg_sq or .master, or "
                       "[begin:end] behind it",
                       t->path, t->name);
    const int64_t i = name_table_find(&c->names, s.tensor);
    if (i < 0)
        return err_set(e, "%s: tensor %s: the model has no tensor %s", t->path, t->name, s.tensor);
    const struct safetensor *model = c->tensor[i];
    const bool codes = t->dtype == U8 && s.kind != MASTER && s.end >= 0;
    if ((t->dtype != F32 && !codes) || (s.skip && !codes))
        return err_set(e, "%s: tensor %s: dtype %s, expected F32%s", t->path, t->name, t->dtype_name,
                       s.kind == MASTER ? "" : ", or U8 and [begin:end] in the name");
    if (s.end > model->n_elements)
        return err_set(e, "%s: tensor %s: passes the end of the tensor, which has %lld elements", t->path,
                       t->name, (long long)model->n_elements);
    if (s.kind == MASTER && model->dtype == F32)
        return err_set(e, "%s: tensor %s: not expected beside weights stored as F32", t->path, t->name);
    if (!order_fits(&s.order, model->n_elements))
        return err_set(
            e, "%s: tensor %s: %lld slices with runs of %lld do not divide the tensor's %lld elements",
            t->path, t->name, (long long)s.order.slices, (long long)s.order.run,
            (long long)model->n_elements);
    if (!check_shape(c, t, &s, model, e))
        return false;
    if (t->n_elements)
        c->state[c->n_states++] =
            (struct state_range){ i,       s.begin, s.end < 0 ? model->n_elements : s.end, s.kind, s.skip,
                                  s.order, t };
    return true;
}

static int by_element(const void *x, const void *y)
{
    const struct state_range *a = x, *b = y;
    if (a->tensor != b->tensor)
        return a->tensor < b->tensor ? -1 : 1;
    if (a->kind != b->kind)
        return a->kind < b->kind ? -1 : 1;
    return (a->begin > b->begin) - (a->begin < b->begin);
}

/* The ranges of one kind of state from *at on cover the tensor exactly; *at moves behind them. */
static bool check_cover(const struct ckpt *c, int64_t tensor, enum state_kind kind, int64_t *at,
                        struct err *e)
{
    const struct safetensor *model = c->tensor[tensor];
    const char *name =
        state_name_print(c->arena, &(struct state_name){ .tensor = model->name, .kind = kind, .end = -1 });
    int64_t end = 0;
    for (; *at < c->n_states; end = c->state[(*at)++].end) {
        const struct state_range *s = &c->state[*at];
        if (s->tensor != tensor || s->kind != kind)
            break;
        if (end && s->data->dtype != s[-1].data->dtype)
            return err_set(e, "%s: tensor %s: dtype %s, expected %s as in %s", s->data->path, s->data->name,
                           s->data->dtype_name, s[-1].data->dtype_name, base_name(s[-1].data->path));
        if (end && (s->order.slices != s[-1].order.slices || s->order.run != s[-1].order.run))
            return err_set(e, "%s: tensor %s: expected the slices and runs of %s of %s", s->data->path,
                           s->data->name, s[-1].data->name, base_name(s[-1].data->path));
        if (s->begin < end)
            return err_set(e, "%s: tensor %s: overlaps %s of %s", s->data->path, s->data->name,
                           s[-1].data->name, base_name(s[-1].data->path));
        if (s->begin > end)
            return err_set(e, "%s: %s: elements %lld to %lld are in no file", c->dir, name, (long long)end,
                           (long long)s->begin);
    }
    return end == model->n_elements || err_set(e, "%s: %s: elements %lld to %lld are in no file", c->dir,
                                               name, (long long)end, (long long)model->n_elements);
}

bool ckpt_index_states(struct ckpt *c, struct err *e)
{
    int64_t n = 0, at = 0;
    for (int64_t f = c->n_model_files; f < c->n_files; f++)
        n += safetensors_count(c->file[f]);
    c->state = ARENA_NEW(c->arena, struct state_range, n);
    for (int64_t f = c->n_model_files; f < c->n_files; f++)
        for (int64_t i = 0; i < safetensors_count(c->file[f]); i++)
            if (!add_state(c, safetensors_at(c->file[f], i), e))
                return false;
    if (c->n_states > 1)
        qsort(c->state, (size_t)c->n_states, sizeof *c->state, by_element);
    for (int64_t i = 0; i < c->n; i++)
        for (int k = 0; k < STATE_KINDS; k++)
            if ((k != MASTER || c->tensor[i]->dtype != F32) && !check_cover(c, i, (enum state_kind)k, &at, e))
                return false;
    return true;
}

const struct state_range *ckpt_state_at(const struct ckpt *c, int64_t tensor, enum state_kind kind,
                                        int64_t element)
{
    const struct state_range key = { .tensor = tensor, .begin = element, .kind = kind };
    int64_t lo = 0, hi = c->n_states; /* the last range that begins at or before the element */
    while (lo < hi) {
        const int64_t middle = lo + (hi - lo) / 2;
        if (by_element(&c->state[middle], &key) <= 0)
            lo = middle + 1;
        else
            hi = middle;
    }
    const struct state_range *s = &c->state[lo - 1];
    CHECK(lo > 0 && s->tensor == tensor && s->kind == kind && element < s->end,
          "%s: element %lld of state %d", c->tensor[tensor]->name, (long long)element, (int)kind);
    return s;
}

struct state_run ckpt_state_run(const struct ckpt *c, int64_t tensor, enum state_kind kind, int64_t element,
                                int64_t most)
{
    int64_t held;
    const struct state_range *s = ckpt_state_at(c, tensor, kind, 0);
    int64_t n = order_held(&s->order, c->tensor[tensor]->n_elements, element, &held);
    if (held >= s->end)
        s = ckpt_state_at(c, tensor, kind, held);
    n = n < s->end - held ? n : s->end - held;
    return (struct state_run){ s, held - s->begin, n < most ? n : most };
}
