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

bool layout_is_expert(const struct graph *g, int param)
{
    for (int i = 0; i < g->n_nodes; i++) {
        const struct node *n = &g->nodes[i];
        for (int j = 0; j < n->anno->n_inputs; j++)
            if (g->values[n->arg[j]].param == param && first_letter(n, j) >= 0)
                for (int k = 0; k < n->anno->n_inputs; k++)
                    if (rows_of(n, k) >= 0 && rows_of(n, k) == first_letter(n, j))
                        return true;
    }
    return false;
}

int layout_fine_of(const struct flat *f, int member)
{
    return member % f->n_shards * (f->n_ranks / f->n_shards) + member / f->n_shards;
}

void layout_coarse(const struct flat *f, int member, int64_t *begin, int64_t *end)
{
    const int per_shard = f->n_ranks / f->n_shards, shard = member % f->n_shards;
    *begin = f->cut[shard * per_shard];
    *end = f->cut[(shard + 1) * per_shard];
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

static void place_params(struct arena *a, const struct graph *g, const struct plan *p, struct layout *l)
{
    l->place = ARENA_NEW(a, struct place, g->params.n);
    for (int i = 0; i < g->params.n; i++) {
        const struct param *w = &g->params.item[i];
        struct place *at = &l->place[i];
        const bool expert = layout_is_expert(g, i);
        const int64_t share = expert ? w->n_elements / p->expert_parallel : w->n_elements;
        at->flat = expert ? EXPERT : DENSE;
        at->unit = expert ? w->n_elements / w->shape[0] : w->n_elements;
        at->begin = expert ? share * l->ep_index : 0;
        at->end = at->begin + share;
        at->at = l->flat[at->flat].n_elements;
        l->flat[at->flat].n_elements = (at->at + share + ALIGN - 1) / ALIGN * ALIGN;
    }
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
    for (int i = 0; i < l->n_chunks; i++)
        while (l->chunk[i].flat == which && next < f->n_ranks &&
               l->chunk[i].at >= f->n_elements * next / f->n_ranks)
            f->cut[next++] = l->chunk[i].at;
    while (next <= f->n_ranks)
        f->cut[next++] = f->n_elements;
}

void layout_make(struct arena *a, const struct graph *g, const struct plan *p, int rank, struct layout *l)
{
    const int ep = p->expert_parallel;
    *l = (struct layout){ .rank = rank, .ep_index = rank % ep };
    l->flat[DENSE] =
        (struct flat){ .n_ranks = p->n_ranks, .index = rank, .stride = 1, .n_shards = p->zero_ranks };
    l->flat[EXPERT] = (struct flat){ .n_ranks = p->n_ranks / ep,
                                     .index = rank / ep,
                                     .first_rank = rank % ep,
                                     .stride = ep,
                                     .n_shards = p->zero_ranks > ep ? p->zero_ranks / ep : 1 };
    place_params(a, g, p, l);
    list_chunks(a, g, l);
    for (int i = 0; i < FLATS; i++)
        cut_flat(a, l, i, &l->flat[i]);
}
