/* weights.c - see weights.h. */
#include "run/weights.h"
#include "base/hash.h"
#include "base/pool.h"
#include "base/rng.h"
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

static struct ref weight_ref(const struct exec *x, int param, int64_t element)
{
    return ref_of(x, x->program->weights, param, element, plan_float(&x->program->plan));
}

void weights_gradient(const struct exec *x, int param, int64_t element, int64_t n, float *out)
{
    const enum dtype t = x->program->plan.numbers.gradient;
    exec_get_floats(x, out, ref_of(x, x->program->gradients, param, element, t), t, n);
}

/* Elements [*begin, *end) of the full parameter whose optimizer states this rank owns. */
static bool owned(const struct exec *x, int param, int64_t *begin, int64_t *end)
{
    const struct place *p = &x->program->layout.place[param];
    if (!x->program->state)
        return false;
    *begin = p->begin + x->program->state[param].begin - p->at;
    *end = p->begin + x->program->state[param].end - p->at;
    return *begin < *end;
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

static void init_range(const struct param *p, int64_t seed, int64_t begin, int64_t end, float *out)
{
    for (int k = 0; k < p->n_pieces; k++) {
        const struct piece *s = &p->piece[k];
        const int64_t stop = s->offset + s->n_elements, from = s->offset > begin ? s->offset : begin,
                      to = stop < end ? stop : end;
        if (from >= to)
            continue;
        struct init_job j = { p, s, seed, s->at + from - s->offset, to - from, out + from - begin };
        pool_run((j.n + INIT_BLOCK - 1) / INIT_BLOCK, init_task, &j);
    }
}

/* The exact weights of elements [begin, begin + n), which lie inside [p->begin, p->end): rounded for the kernels,
 * and whole for the master where this rank owns it. */
static void put_weights(struct exec *x, int param, int64_t begin, int64_t n, const float *from)
{
    int64_t first, last;
    exec_put_floats(x, weight_ref(x, param, begin), plan_float(&x->program->plan), from, n);
    if (owned(x, param, &first, &last)) {
        const int64_t a = begin > first ? begin : first, b = begin + n < last ? begin + n : last;
        if (a < b)
            states_put_master(x, param, a - first, b - a, from + a - begin);
    }
}

typedef bool make_weights(void *context, int param, int64_t begin, int64_t end, float *out, struct err *e);
enum { PIECE = 1 << 26 }; /* elements that pass through the host at once */

/* Every weight of this rank, made in pieces. */
static bool fill_weights(struct exec *x, make_weights *make, void *context, struct err *e)
{
    bool ok = true;
    const struct param_list *list = &x->program->graph->params;
    float *room = NULL;
    for (int i = 0; i < list->n && ok; i++) {
        const struct place *p = &x->program->layout.place[i];
        for (int64_t at = p->begin; at < p->end && ok; at += PIECE) {
            const int64_t end = at + PIECE < p->end ? at + PIECE : p->end;
            room = room ? room : arena_slab((size_t)PIECE * sizeof *room);
            ok = make(context, i, at, end, room, e);
            if (ok)
                put_weights(x, i, at, end - at, room);
        }
    }
    arena_slab_free(room);
    return ok;
}

struct init_source {
    const struct param_list *list;
    int64_t seed;
};

static bool make_random(void *context, int param, int64_t begin, int64_t end, float *out, struct err *e)
{
    const struct init_source *s = context;
    (void)e;
    init_range(&s->list->item[param], s->seed, begin, end, out);
    return true;
}

/* Elements [begin, end) of a piece, made on the device; `low`: those whose master this rank owns. */
static void fill_piece(struct exec *x, int param, const struct piece *s, int64_t seed, int64_t begin,
                       int64_t end, struct ref *low)
{
    static const enum fill kinds[] = {
        [INIT_NORMAL] = FILL_NORMAL, [INIT_UNIFORM] = FILL_UNIFORM, [INIT_ONE] = FILL_ONE
    };
    const struct param *p = &x->program->graph->params.item[param];
    if (begin >= end)
        return;
    const struct rng_fill f = { kinds[p->init],       (uint64_t)seed,
                                hash_text(s->tensor), s->at + begin - s->offset,
                                end - begin,          p->init_scale };
    x->device->fill(exec_at(x, weight_ref(x, param, begin)), low ? exec_at(x, *low) : NULL,
                    x->program->plan.numbers.master, &f);
}

static void fill_on_device(struct exec *x, int64_t seed)
{
    for (int i = 0; i < x->program->graph->params.n; i++) {
        const struct param *p = &x->program->graph->params.item[i];
        const struct place *place = &x->program->layout.place[i];
        int64_t first = 0, last = 0;
        const bool own = owned(x, i, &first, &last) && x->program->plan.numbers.master != MASTER_NONE;
        for (int k = 0; k < p->n_pieces; k++) {
            const struct piece *s = &p->piece[k];
            const int64_t stop = s->offset + s->n_elements,
                          begin = s->offset > place->begin ? s->offset : place->begin,
                          end = stop < place->end ? stop : place->end;
            fill_piece(x, i, s, seed, begin, end, NULL);
            const int64_t from = begin > first ? begin : first, to = end < last ? end : last;
            struct ref low = own ? x->program->state[i].low : (struct ref){ .buffer = -1 };
            low.at_bytes += own ? plan_master_bytes(&x->program->plan, from - first) : 0;
            if (own)
                fill_piece(x, i, s, seed, from, to, &low);
        }
    }
}

void weights_init(struct exec *x, int64_t seed)
{
    if (x->device->fill) {
        fill_on_device(x, seed);
        return;
    }
    struct init_source s = { &x->program->graph->params, seed };
    struct err e = { 0 };
    fill_weights(x, make_random, &s, &e);
}

struct file_source {
    const struct param_list *list;
    const struct ckpt *c;
    bool exact; /* the master where there is one */
};

static bool make_stored(void *context, int param, int64_t begin, int64_t end, float *out, struct err *e)
{
    const struct file_source *s = context;
    const struct param *p = &s->list->item[param];
    return s->exact ? ckpt_read_state(s->c, p, begin, end, out, NULL, NULL, e)
                    : ckpt_read_weight(s->c, p, begin, end, out, e);
}

bool weights_load(struct exec *x, const struct ckpt *c, struct err *e)
{
    struct file_source s = { &x->program->graph->params, c, false };
    return fill_weights(x, make_stored, &s, e);
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

static bool load_moments(struct exec *x, const struct ckpt *c, int i, struct err *e)
{
    const struct param *p = &x->program->graph->params.item[i];
    int64_t first, last;
    if (!owned(x, i, &first, &last))
        return true;
    const int64_t n = last - first;
    float *room = arena_slab((size_t)(3 * n) * sizeof *room);
    const bool ok = ckpt_read_state(c, p, first, last, room, room + n, room + 2 * n, e);
    if (ok) {
        states_put_moment(x, x->program->state[i].exp_avg, n, room + n, true);
        states_put_moment(x, x->program->state[i].exp_avg_sq, n, room + 2 * n, false);
    }
    arena_slab_free(room);
    return ok;
}

/* Weights are read in full precision: every rank needs the exact values of all that it holds. */
bool weights_load_state(struct exec *x, const struct ckpt *c, struct err *e)
{
    struct file_source s = { &x->program->graph->params, c, true };
    bool ok = fill_weights(x, make_stored, &s, e);
    for (int i = 0; i < s.list->n && ok; i++)
        ok = load_moments(x, c, i, e);
    return ok;
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

const float *weights_read(void *context, enum ckpt_part part, int64_t index, int64_t at, int64_t n,
                          float *room)
{
    const struct weights_source *s = context;
    const struct exec *x = s->exec;
    if (part == CKPT_WEIGHT) {
        const struct ckpt_range *r = &s->holding->weights[index];
        const struct ref from = weight_ref(x, r->param, r->begin + at);
        if (x->device->backend == CPU)
            return exec_at(x, from);
        exec_get_floats(x, room, from, plan_float(&x->program->plan), n);
        return room;
    }
    const struct ckpt_range *r = &s->holding->states[index];
    int64_t first, last;
    CHECK(owned(x, r->param, &first, &last) && r->begin >= first && r->end <= last, "parameter %d", r->param);
    at += r->begin - first;
    if (part == CKPT_MASTER)
        return states_master(x, r->param, at, n, room);
    const struct state *own = &x->program->state[r->param];
    return states_moment(x, part == CKPT_EXP_AVG ? own->exp_avg : own->exp_avg_sq, last - first, at, n,
                         part == CKPT_EXP_AVG, room);
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
