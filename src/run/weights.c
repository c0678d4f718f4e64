/* weights.c - see weights.h. */
#include "run/weights.h"
#include "base/hash.h"
#include "run/states.h"
#include <string.h>

/* Element `element` of the full parameter in a flat space of dtype t. */
static struct ref ref_of(const struct exec *x, const struct ref *flats, int param, int64_t element,
                         enum dtype t)
{
    const struct place *p = &x->program->layout.place[param];
    CHECK(element >= p->begin && element <= p->end, "parameter %d, element %lld", param, (long long)element);
    struct ref r = flats[p->flat];
    r.at_bytes += (p->at + element - p->begin) * (int64_t)num_dtype_bytes(t);
    return r;
}

struct ref weights_ref(const struct exec *x, int param, int64_t element)
{
    return ref_of(x, x->program->weights, param, element, plan_float(&x->program->plan));
}

void weights_gradient(const struct exec *x, int param, int64_t element, int64_t n, float *out)
{
    const enum dtype t = x->program->plan.numbers.gradient;
    exec_get_floats(x, out, ref_of(x, x->program->gradients, param, element, t), t, n);
}

bool weights_owned(const struct exec *x, int param, int64_t *begin, int64_t *end)
{
    const struct place *p = &x->program->layout.place[param];
    if (!x->program->state)
        return false;
    *begin = p->begin + x->program->state[param].begin - p->at;
    *end = p->begin + x->program->state[param].end - p->at;
    return *begin < *end;
}

void weights_held(const struct exec *x, int param, int64_t *begin, int64_t *end)
{
    const struct place *p = &x->program->layout.place[param];
    *begin = p->begin;
    *end = p->end;
    if (layout_shards_weights(&x->program->plan, &x->program->layout.flat[p->flat]) &&
        !weights_owned(x, param, begin, end))
        *end = *begin = p->begin;
}

/* The part of parameter i that lies in flat range [begin, end): elements of the parameter. */
static bool overlap(const struct layout *l, int i, int flat, int64_t begin, int64_t end, int64_t *first,
                    int64_t *last)
{
    const struct place *p = &l->place[i];
    const int64_t stop = p->at + p->end - p->begin;
    if (p->flat != flat || stop <= begin || p->at >= end)
        return false;
    *first = p->begin + (begin > p->at ? begin - p->at : 0);
    *last = p->end - (end < stop ? stop - end : 0);
    return *first < *last;
}

/* Blocks of 8-bit moments begin where the owned range does: how far behind the beginning of its block lies `element`? */
static int into_block(const struct layout *l, int i, int64_t element)
{
    const struct place *p = &l->place[i];
    int64_t begin, end;
    layout_coarse(&l->flat[p->flat], l->flat[p->flat].index, &begin, &end);
    const int64_t first = p->begin + (begin > p->at ? begin - p->at : 0);
    return (int)((element - first) % CKPT_BLOCK);
}

/* The part of parameter i whose weights the rank keeps (see weights_held). */
static bool keeps(const struct plan *p, const struct layout *l, int i, int64_t *first, int64_t *last)
{
    const struct place *at = &l->place[i];
    const struct flat *f = &l->flat[at->flat];
    int64_t begin = 0, end = f->n_elements;
    if (layout_shards_weights(p, f))
        layout_coarse(f, f->index, &begin, &end);
    return overlap(l, i, at->flat, begin, end, first, last);
}

struct ckpt_order *weights_order(struct arena *a, const struct graph *g, const struct plan *p)
{
    struct ckpt_order *order = ARENA_NEW(a, struct ckpt_order, g->params.n);
    struct layout l;
    layout_make(a, g, p, 0, &l);
    for (int i = 0; i < g->params.n; i++)
        order[i] = (struct ckpt_order){ l.place[i].slices, l.place[i].run };
    return order;
}

struct ckpt_holding *weights_holdings(struct arena *a, const struct graph *g, const struct plan *p)
{
    struct ckpt_holding *h = ARENA_NEW(a, struct ckpt_holding, p->n_ranks);
    for (int r = 0; r < p->n_ranks; r++) {
        struct layout l;
        layout_make(a, g, p, r, &l);
        h[r].weights = ARENA_NEW(a, struct ckpt_range, g->params.n);
        h[r].states = ARENA_NEW(a, struct ckpt_range, g->params.n);
        for (int i = 0; i < g->params.n; i++) {
            const struct flat *f = &l.flat[l.place[i].flat];
            const int fine = layout_fine_of(f, f->index);
            int64_t first, last;
            if (l.place[i].flat == SHARED && !l.home)
                continue; /* the other end saves it */
            if (keeps(p, &l, i, &first, &last))
                h[r].weights[h[r].n_weights++] = (struct ckpt_range){ i, first, last, 0 };
            if (overlap(&l, i, l.place[i].flat, f->cut[fine], f->cut[fine + 1], &first, &last))
                h[r].states[h[r].n_states++] =
                    (struct ckpt_range){ i, first, last, into_block(&l, i, first) };
        }
    }
    return h;
}

/* Elements of the owned part of a parameter from which `at` of range `index` counts. */
static int64_t own_at(const struct weights_source *s, int64_t index, int64_t at, int *param)
{
    const struct ckpt_range *r = &s->holding->states[index];
    int64_t first, last;
    CHECK(weights_owned(s->states->exec, r->param, &first, &last) && r->begin >= first && r->end <= last,
          "parameter %d", r->param);
    *param = r->param;
    return at + r->begin - first;
}

const float *weights_read(void *context, enum ckpt_part part, int64_t index, int64_t at, int64_t n,
                          float *room)
{
    const struct weights_source *s = context;
    int param;
    if (part == CKPT_WEIGHT) {
        const struct ckpt_range *r = &s->holding->weights[index];
        const struct exec *x = s->states->exec;
        const enum dtype t = plan_float(&x->program->plan);
        const void *bytes = source_bytes(s->states, weights_ref(x, r->param, r->begin + at),
                                         n * (int64_t)num_dtype_bytes(t), t == F32 ? room : room + n);
        if (!bytes || t == F32)
            return bytes;
        num_to_float(room, bytes, t, n);
        return room;
    }
    at = own_at(s, index, at, &param);
    return part == CKPT_MASTER ? states_master(s->states, param, at, n, room)
                               : states_moment(s->states, param, part == CKPT_EXP_AVG, at, n, room);
}

static void fetch(struct source *s, struct ref r, int64_t bytes, void *to)
{
    const void *from = source_bytes(s, r, bytes, to);
    if (from && from != to)
        memcpy(to, from, (size_t)bytes);
}

void weights_read_codes(void *context, enum ckpt_part part, int64_t index, int64_t at, int64_t n,
                        unsigned char *codes)
{
    const struct weights_source *s = context;
    int param;
    at = own_at(s, index, at, &param);
    fetch(s->states, states_moment_at(s->states->exec, param, part == CKPT_EXP_AVG, at), n, codes);
}

void weights_read_scales(void *context, enum ckpt_part part, int64_t index, int64_t at, int64_t n,
                         float *scales)
{
    const struct weights_source *s = context;
    int param;
    const int64_t first = own_at(s, index, 0, &param) / CKPT_BLOCK;
    fetch(s->states, states_scale_at(s->states->exec, param, part == CKPT_EXP_AVG, first + at),
          n * (int64_t)sizeof *scales, scales);
}

const char *weights_chunk_tensor(struct arena *a, const struct graph *g, const struct plan *p, int64_t id)
{
    struct plan one = *p; /* one rank holds every chunk */
    struct layout l;
    one.n_ranks = one.unit_ranks = one.expert_parallel = one.tensor_parallel = one.width_parallel =
        one.zero_ranks = one.stages = one.chunks = one.vocabulary_parallel = 1;
    layout_make(a, g, &one, 0, &l);
    for (int i = 0; i < l.n_chunks; i++) {
        if (l.chunk[i].id != id)
            continue;
        const struct param *w = &g->params.item[l.chunk[i].param];
        const int64_t element = l.chunk[i].at - l.place[l.chunk[i].param].at;
        for (int k = 0; k < w->n_pieces; k++)
            if (element < w->piece[k].offset + w->piece[k].n_elements)
                return w->piece[k].tensor;
    }
    return "(unknown tensor)";
}
