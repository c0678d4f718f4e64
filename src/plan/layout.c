/* layout.c - see layout.h. */
#include "plan/layout.h"
#include <string.h>

/* Letter of argument `arg` at the first dimension of its value; n counts as its first dimension. */
static int first_letter(const struct node *n, int arg)
{
    const struct anno_arg *f = &n->anno->arg[arg];
    return f->n_dims ? f->dim[0].letter : -1;
}

static int rows_of(const struct node *n, int arg)
{
    const struct anno_arg *f = &n->anno->arg[arg];
    return f->n_dims ? f->dim[0].rows_of : -1;
}

/* The batch axis starts at the inputs and follows the annotations; the expert axis is the letter e of nodes
 * with rows r(e). */
void layout_split(struct arena *a, const struct graph *g, struct node_split *out)
{
    bool *split = ARENA_NEW(a, bool, g->n_values); /* first dimension on the batch axis */
    for (int v = 0; v < g->n_values; v++)
        split[v] = g->values[v].kind == VALUE_INPUT;
    for (int i = 0; i < g->n_nodes; i++) {
        const struct node *n = &g->nodes[i];
        out[i] = (struct node_split){ -1, -1 };
        for (int j = 0; j < n->anno->n_inputs; j++) {
            const int of = rows_of(n, j), letter = first_letter(n, j);
            if (of >= 0 && strcmp(n->anno->letter[of], "n") != 0)
                out[i].expert = of;
            else if (split[n->arg[j]])
                out[i].batch = of >= 0 ? of : letter;
        }
        for (int j = n->anno->n_inputs; j < n->anno->n_args; j++) {
            const int of = rows_of(n, j), letter = first_letter(n, j);
            split[n->arg[j]] =
                (out[i].batch >= 0 && (letter == out[i].batch || of == out[i].batch)) || out[i].expert >= 0;
        }
    }
}

/* Does the node split its argument j by expert: rows r(e), and e first in j? */
static bool is_expert_arg(const struct node *n, int j)
{
    for (int k = 0; k < n->anno->n_inputs; k++)
        if (first_letter(n, j) >= 0 && rows_of(n, k) == first_letter(n, j))
            return true;
    return false;
}

bool *layout_experts(struct arena *a, const struct graph *g)
{
    bool *expert = ARENA_NEW(a, bool, g->params.n);
    for (int i = 0; i < g->n_nodes; i++)
        for (int j = 0; j < g->nodes[i].anno->n_inputs; j++) {
            const int param = g->values[g->nodes[i].arg[j]].param;
            if (param >= 0 && is_expert_arg(&g->nodes[i], j))
                expert[param] = true;
        }
    return expert;
}

int layout_fine_of(const struct flat *f, int member)
{
    return member % f->n_shards * (f->n_ranks / f->n_shards) + member / f->n_shards;
}

int layout_tree_place(const struct flat *f, int member)
{
    return member % f->together * (f->n_ranks / f->together) + member / f->together;
}

void layout_coarse(const struct flat *f, int member, int64_t *begin, int64_t *end)
{
    const int per_shard = f->n_ranks / f->n_shards, shard = member % f->n_shards;
    *begin = f->cut[shard * per_shard];
    *end = f->cut[(shard + 1) * per_shard];
}

int layout_fullest_rank(const struct layout *l, const struct plan *p)
{
    int64_t most = -1;
    int fullest = 0;
    for (int w = 0; w < plan_workers(p); w++) {
        int64_t own = 0, begin, end;
        for (int i = 0; i < FLATS; i++) {
            layout_coarse(&l->flat[i], w / l->flat[i].stride, &begin, &end);
            own += end - begin;
        }
        fullest = own > most ? w : fullest;
        most = own > most ? own : most;
    }
    return l->stage * plan_workers(p) + fullest;
}

enum { ALIGN = 16 }; /* elements between the starts of parameters */

/* Elements per chunk of the gradient norm: a function of the model only. */
static int64_t chunk_elements(const struct graph *g)
{
    int64_t total = 0, n = 1 << 14;
    for (int i = 0; i < g->params.n; i++)
        total += g->params.item[i].n_elements;
    while (n < total / 16384)
        n *= 2;
    return n;
}

static int64_t chunks_of(int64_t unit, int64_t per_chunk)
{
    return (unit + per_chunk - 1) / per_chunk;
}

/* Elements of the chunks of one unit: equal ones, a power of two of them, where that divides it; so that a whole
 * parameter is summed in one call. */
static int64_t chunk_of_unit(int64_t unit, int64_t per_chunk)
{
    int64_t n = 1;
    while (unit > n * per_chunk)
        n *= 2;
    return unit % (16 * n) == 0 ? unit / n : per_chunk;
}

int64_t layout_run(const struct place *p, int64_t held, int64_t *stored)
{
    *stored = held;
    if (p->slices == 1)
        return p->end - held;
    const int64_t each = p->n_elements / p->slices;
    const int64_t slice = held / each, outer = held % each / p->run, at = held % p->run;
    *stored = (outer * p->slices + slice) * p->run + at;
    return p->run - at;
}

/* By parameter: the dimension that the tensor group splits; -1 = none. */
static int *sliced_dims(struct arena *a, const struct graph *g, const struct layout *l)
{
    int *dim = ARENA_NEW(a, int, g->params.n);
    for (int v = 0; v < g->n_values; v++)
        if (g->values[v].param >= 0)
            dim[g->values[v].param] = l->tensor.dim[v];
    return dim;
}

static void place_sliced(const struct param *w, int dim, int tensor, int index, struct place *at)
{
    at->flat = TENSOR;
    at->slices = tensor;
    at->unit = w->n_elements / tensor;
    at->run = w->shape[dim] / tensor;
    for (int k = dim + 1; k < w->n_dims; k++)
        at->run *= w->shape[k];
    at->begin = at->unit * index;
    at->end = at->begin + at->unit;
}

/* Of all elements, or of a slice of each expert: the experts of the rank. */
static void place_expert(const struct param *w, int parallel, int index, struct place *at)
{
    const int64_t share = (at->end - at->begin) / parallel;
    at->flat = EXPERT;
    at->unit = (at->end - at->begin) / w->shape[0];
    at->begin += share * index;
    at->end = at->begin + share;
}

/* Which parameters the nodes of a stage read. */
static bool *params_of_stage(struct arena *a, const struct graph *g, const struct plan *p, int stage)
{
    bool *held = ARENA_NEW(a, bool, g->params.n);
    for (int node = 0; node < g->n_nodes; node++) {
        const bool mine = plan_part_of(p, node) % p->stages == stage;
        for (int j = 0; mine && j < g->nodes[node].anno->n_inputs; j++)
            if (g->values[g->nodes[node].arg[j]].param >= 0)
                held[g->values[g->nodes[node].arg[j]].param] = true;
    }
    return held;
}

/* Does a node of [0, node) read the parameter? */
static bool is_read_before(const struct graph *g, int node, int param)
{
    for (int i = 0; i < node; i++)
        for (int j = 0; j < g->nodes[i].anno->n_inputs; j++)
            if (g->values[g->nodes[i].arg[j]].param == param)
                return true;
    return false;
}

bool layout_gradient_is_apart(const struct graph *g, const struct layout *l, int node, int param)
{
    return l->apart && l->place[param].flat == SHARED && !is_read_before(g, node, param);
}

/* By parameter: do two stages read it? Under --reproducible: would they, if there were two? */
static bool *shared_params(struct arena *a, const struct graph *g, const struct plan *p)
{
    bool *shared = ARENA_NEW(a, bool, g->params.n);
    int *reader = ARENA_NEW(a, int, g->params.n); /* 1 + stage of the first one */
    for (int node = 0; node < g->n_nodes; node++) {
        const int here = plan_part_of(p, node) % p->stages + 1;
        for (int j = 0; j < g->nodes[node].anno->n_inputs; j++) {
            const int param = g->values[g->nodes[node].arg[j]].param;
            if (param < 0)
                continue;
            if (reader[param] && (p->stages > 1 ? reader[param] != here : p->reproducible))
                shared[param] = true;
            reader[param] = reader[param] ? reader[param] : here;
        }
    }
    return shared;
}

static void place_params(struct arena *a, const struct graph *g, const struct plan *p, struct layout *l)
{
    const bool *held = params_of_stage(a, g, p, l->stage);
    const int *dims = sliced_dims(a, g, l);
    const bool *expert = layout_experts(a, g), *shared = shared_params(a, g, p);
    l->place = ARENA_NEW(a, struct place, g->params.n);
    for (int i = 0; i < g->params.n; i++) {
        const struct param *w = &g->params.item[i];
        struct place *at = &l->place[i];
        const int dim = dims[i];
        *at = (struct place){ .flat = DENSE,
                              .n_elements = w->n_elements,
                              .end = w->n_elements,
                              .unit = w->n_elements,
                              .slices = 1,
                              .run = w->n_elements };
        if (dim >= 0)
            place_sliced(w, dim, p->tensor_parallel, l->tensor_index, at);
        if (expert[i])
            place_expert(w, p->expert_parallel, l->ep_index, at);
        if (shared[i] && !expert[i]) {
            at->flat = SHARED;
            l->tied = true;
        }
        at->at = l->flat[at->flat].n_elements;
        if (!held[i])
            at->end = at->begin;
        l->flat[at->flat].n_elements = (at->at + at->end - at->begin + ALIGN - 1) / ALIGN * ALIGN;
    }
    l->home = l->stage == p->stages - 1;
    l->apart = l->tied && p->stages == 1;
}

enum { BUCKETS = 64 }; /* of a flat space, about */

static void list_buckets(struct arena *a, const struct graph *g, struct layout *l)
{
    int open[FLATS] = { -1, -1, -1, -1 };
    l->bucket_of = ARENA_NEW(a, int, g->params.n);
    l->bucket = ARENA_NEW(a, struct bucket, g->params.n);
    for (int i = 0; i < g->params.n; i++) {
        const struct place *at = &l->place[i];
        const int64_t end = (at->at + at->end - at->begin + ALIGN - 1) / ALIGN * ALIGN;
        l->bucket_of[i] = -1;
        if (at->begin == at->end)
            continue;
        if (open[at->flat] < 0) {
            open[at->flat] = l->n_buckets;
            l->bucket[l->n_buckets++] = (struct bucket){ at->flat, at->at, 0 };
        }
        struct bucket *b = &l->bucket[open[at->flat]];
        b->n_elements = end - b->first;
        l->bucket_of[i] = open[at->flat];
        if (b->n_elements >= l->flat[at->flat].n_elements / BUCKETS)
            open[at->flat] = -1;
    }
}

bool layout_shards_weights(const struct plan *p, const struct flat *f)
{
    return p->zero >= 3 && f->n_shards > 1;
}

bool layout_shards_gradients(const struct plan *p, const struct flat *f)
{
    return p->zero >= 2 && f->n_shards > 1 && !p->reproducible;
}

static void list_chunks(struct arena *a, const struct graph *g, struct layout *l)
{
    const int64_t largest = chunk_elements(g);
    int64_t id = 0, capacity = 0;
    for (int i = 0; i < g->params.n; i++)
        capacity += (l->place[i].end - l->place[i].begin) / l->place[i].unit *
                    chunks_of(l->place[i].unit, chunk_of_unit(l->place[i].unit, largest));
    l->chunk = ARENA_NEW(a, struct chunk, capacity);
    for (int i = 0; i < g->params.n; i++) {
        const struct place *at = &l->place[i];
        const int64_t per_chunk = chunk_of_unit(at->unit, largest);
        for (int64_t u = 0; u < g->params.item[i].n_elements / at->unit; u++)
            for (int64_t c = 0; c < at->unit; c += per_chunk, id++) {
                const int64_t first = u * at->unit + c, left = at->unit - c;
                if (first >= at->begin && first < at->end)
                    l->chunk[l->n_chunks++] = (struct chunk){ i, at->flat, at->at + first - at->begin,
                                                              left < per_chunk ? left : per_chunk, id };
            }
    }
    l->n_chunks_total = id;
}

/* Fine ranges: boundaries at chunks, balanced by elements. */
static void cut_flat(struct arena *a, const struct layout *l, int which, struct flat *f)
{
    f->cut = ARENA_NEW(a, int64_t, f->n_ranks + 1);
    int next = 1;
    int64_t wanted = f->n_ranks > 1 ? f->n_elements / f->n_ranks : 0; /* no ranks: a flat that is not there */
    for (int i = 0; i < l->n_chunks && next < f->n_ranks; i++)
        while (l->chunk[i].flat == which && next < f->n_ranks && l->chunk[i].at >= wanted) {
            f->cut[next++] = l->chunk[i].at;
            wanted = f->n_elements * next / f->n_ranks;
        }
    while (next <= f->n_ranks)
        f->cut[next++] = f->n_elements;
}

struct flat layout_flat(const struct plan *p, int rank, int which)
{
    const int shared = p->vocabulary_parallel > 1 ? p->tensor_parallel : 1, /* what is tied is its matrix */
        apart[FLATS] = { 1, p->expert_parallel * p->width_parallel, p->tensor_parallel, shared },
              stride = apart[which];
    const int worker = plan_worker(p, rank);
    return (struct flat){ .n_ranks = plan_workers(p) / stride,
                          .index = worker / stride,
                          .first_rank = rank - worker + worker % stride,
                          .stride = stride,
                          .together = p->shards && stride == 1 ? p->tensor_parallel : 1,
                          .n_shards = p->zero_ranks > stride ? p->zero_ranks / stride : 1 };
}

bool layout_is_tensor(const struct layout *l, int node)
{
    return l->tensor.letter[node] >= 0 || l->tensor.joined[node];
}

void layout_components(struct arena *a, const struct graph *g, const struct plan *p, struct components *out)
{
    struct node_split *split = ARENA_NEW(a, struct node_split, g->n_nodes);
    layout_split(a, g, split);
    components_find(a, g, split, p->tensor_parallel, plan_width(p), p->width_parallel > 1, out);
}

void layout_make(struct arena *a, const struct graph *g, const struct plan *p, int rank, struct layout *l)
{
    struct components tensor;
    layout_components(a, g, p, &tensor);
    layout_place(a, g, p, rank, &tensor, l);
}

void layout_place(struct arena *a, const struct graph *g, const struct plan *p, int rank,
                  const struct components *tensor, struct layout *l)
{
    const int worker = plan_worker(p, rank);
    *l = (struct layout){ .rank = rank,
                          .stage = plan_stage(p, rank),
                          .ep_index = worker / p->width_parallel % p->expert_parallel,
                          .tensor_index = worker % p->tensor_parallel,
                          .tensor = *tensor };
    for (int i = 0; i < FLATS; i++)
        l->flat[i] = layout_flat(p, rank, i);
    place_params(a, g, p, l);
    list_buckets(a, g, l);
    list_chunks(a, g, l);
    for (int i = 0; i < FLATS; i++)
        cut_flat(a, l, i, &l->flat[i]);
}
