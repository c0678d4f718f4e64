/* weights.c - see weights.h. */
#include "run/weights.h"
#include "base/hash.h"
#include "base/pool.h"
#include "base/rng.h"
#include <string.h>

static float *at(const struct exec *x, const struct ref *flats, int param, int64_t element)
{
    const struct place *p = &x->program->layout.place[param];
    CHECK(element >= p->begin && element <= p->end, "parameter %d, element %lld", param, (long long)element);
    return (float *)exec_at(x, flats[p->flat]) + p->at + element - p->begin;
}

float *weights_at(const struct exec *x, int param, int64_t element)
{
    return at(x, x->program->weights, param, element);
}

float *weights_gradient_at(const struct exec *x, int param, int64_t element)
{
    return at(x, x->program->gradients, param, element);
}

struct init_job {
    const struct param *param;
    const struct piece *piece;
    int64_t seed, first, n; /* elements of the stored tensor */
    float *out;
};
enum { INIT_BLOCK = 16384 };

static float initial(const struct init_job *j, uint64_t stream, int64_t element)
{
    switch (j->param->init) {
    case INIT_NORMAL:
        return (float)(j->param->init_scale * rng_normal((uint64_t)j->seed, stream, (uint64_t)element));
    case INIT_UNIFORM:
        return (float)(j->param->init_scale *
                       (2 * rng_uniform((uint64_t)j->seed, stream, (uint64_t)element) - 1));
    case INIT_ONE:
        break;
    }
    return 1;
}

static void init_task(void *context, int64_t task)
{
    const struct init_job *j = context;
    const uint64_t stream = hash_text(j->piece->tensor);
    const int64_t begin = task * INIT_BLOCK, end = begin + INIT_BLOCK < j->n ? begin + INIT_BLOCK : j->n;
    for (int64_t i = begin; i < end; i++)
        j->out[i] = initial(j, stream, j->first + i);
}

void weights_init(struct exec *x, int64_t seed)
{
    const struct param_list *list = &x->program->graph->params;
    for (int i = 0; i < list->n; i++) {
        const struct param *p = &list->item[i];
        const struct place *place = &x->program->layout.place[i];
        for (int k = 0; k < p->n_pieces; k++) {
            const struct piece *s = &p->piece[k];
            const int64_t begin = s->offset > place->begin ? s->offset : place->begin;
            const int64_t stop = s->offset + s->n_elements, end = stop < place->end ? stop : place->end;
            if (begin >= end)
                continue;
            struct init_job j = {
                p, s, seed, s->at + begin - s->offset, end - begin, weights_at(x, i, begin)
            };
            pool_run((j.n + INIT_BLOCK - 1) / INIT_BLOCK, init_task, &j);
        }
    }
}

bool weights_load(struct exec *x, const struct ckpt *c, struct err *e)
{
    const struct param_list *list = &x->program->graph->params;
    for (int i = 0; i < list->n; i++) {
        const struct place *p = &x->program->layout.place[i];
        if (!ckpt_read_weight(c, &list->item[i], p->begin, p->end, weights_at(x, i, p->begin), e))
            return false;
    }
    return true;
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

static float *moment_at(const struct exec *x, const struct ref *moments, int param, int64_t element)
{
    const struct place *p = &x->program->layout.place[param];
    const struct flat *f = &x->program->layout.flat[p->flat];
    int64_t begin, end;
    layout_coarse(f, f->index, &begin, &end);
    return (float *)exec_at(x, moments[p->flat]) + p->at + element - p->begin - begin;
}

static bool load_owned(struct exec *x, const struct ckpt *c, int i, struct err *e)
{
    const struct layout *l = &x->program->layout;
    const struct flat *f = &l->flat[l->place[i].flat];
    int64_t begin, end, first, last;
    layout_coarse(f, f->index, &begin, &end);
    if (!overlap(l, i, l->place[i].flat, begin, end, &first, &last))
        return true;
    return ckpt_read_state(c, &x->program->graph->params.item[i], first, last, weights_at(x, i, first),
                           moment_at(x, x->program->exp_avg, i, first),
                           moment_at(x, x->program->exp_avg_sq, i, first), e);
}

/* Weights are read in full precision: every rank needs the exact values of all that it holds. */
bool weights_load_state(struct exec *x, const struct ckpt *c, struct err *e)
{
    const struct param_list *list = &x->program->graph->params;
    for (int i = 0; i < list->n; i++) {
        const struct place *p = &x->program->layout.place[i];
        float *w = weights_at(x, i, p->begin);
        if (!ckpt_read_state(c, &list->item[i], p->begin, p->end, w, NULL, NULL, e) ||
            !load_owned(x, c, i, e))
            return false;
    }
    return true;
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
            h[r].weights[h[r].n_weights++] = (struct ckpt_range){ i, l.place[i].begin, l.place[i].end };
            if (overlap(&l, i, l.place[i].flat, f->cut[fine], f->cut[fine + 1], &first, &last))
                h[r].states[h[r].n_states++] = (struct ckpt_range){ i, first, last };
        }
    }
    return h;
}

void weights_pointers(struct arena *a, const struct exec *x, const struct ckpt_holding *h,
                      struct weights_pointers *out)
{
    out->weight = ARENA_NEW(a, const float *, h->n_weights + 1);
    out->exp_avg = ARENA_NEW(a, const float *, h->n_states + 1);
    out->exp_avg_sq = ARENA_NEW(a, const float *, h->n_states + 1);
    out->state_weight = ARENA_NEW(a, const float *, h->n_states + 1);
    for (int i = 0; i < h->n_weights; i++)
        out->weight[i] = weights_at(x, h->weights[i].param, h->weights[i].begin);
    for (int i = 0; i < h->n_states; i++) {
        const struct ckpt_range *s = &h->states[i];
        out->exp_avg[i] = moment_at(x, x->program->exp_avg, s->param, s->begin);
        out->exp_avg_sq[i] = moment_at(x, x->program->exp_avg_sq, s->param, s->begin);
        out->state_weight[i] = weights_at(x, s->param, s->begin);
    }
}

const char *weights_chunk_tensor(struct arena *a, const struct graph *g, const struct plan *p, int64_t id)
{
    struct plan one = *p; /* one rank holds every chunk */
    struct layout l;
    one.n_ranks = one.unit_ranks = one.expert_parallel = one.zero_ranks = 1;
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
