/* ckpt_assign.c - which rank writes which tensor into which file. Every rank computes the same. */
#include "ckpt/ckpt_impl.h"
#include <stdlib.h>
#include <string.h>

struct place { /* a piece of a parameter, while tensors are collected */
    const struct piece *piece;
    struct part part;
};

static int by_tensor(const void *x, const void *y)
{
    const struct place *a = x, *b = y;
    const int order = name_compare(a->piece->tensor, b->piece->tensor);
    return order ? order : (a->piece->at > b->piece->at) - (a->piece->at < b->piece->at);
}

static struct place *collect_pieces(struct arena *a, const struct param_list *params, int64_t *n)
{
    *n = 0;
    for (int i = 0; i < params->n; i++)
        *n += params->item[i].n_pieces;
    struct place *place = ARENA_NEW(a, struct place, *n), *at = place;
    for (int i = 0; i < params->n; i++)
        for (int k = 0; k < params->item[i].n_pieces; k++)
            *at++ = (struct place){ &params->item[i].piece[k], { i, k } };
    if (*n > 1)
        qsort(place, (size_t)*n, sizeof *place, by_tensor);
    return place;
}

/* One tensor from its n places, which must cover it exactly. */
static void add_tensor(struct arena *a, const struct ckpt_job *job, const struct place *place, int64_t n,
                       struct assignment *out)
{
    const struct piece *first = place->piece;
    struct stored_tensor *t = &out->tensor[out->n];
    const enum dtype stored = job->stored[place->part.param];
    struct safetensor *x = &out->list[out->n++];
    int64_t end = 0;
    *x = safetensors_entry(first->tensor, stored, first->n_dims, first->shape);
    t->n_parts = (int)n;
    t->part = ARENA_NEW(a, struct part, n);
    t->order = order_of(job, place->part.param);
    CHECK(n == 1 || t->order.slices == 1, "tensor %s: sliced, and of several parameters", first->tensor);
    for (int64_t i = 0; i < n; i++) {
        const struct piece *p = place[i].piece;
        CHECK(p->at == end, "tensor %s: a piece begins at %lld, expected %lld", p->tensor, (long long)p->at,
              (long long)end);
        CHECK(job->stored[place[i].part.param] == stored, "tensor %s: parts of two dtypes", p->tensor);
        t->part[i] = place[i].part;
        CHECK(order_fits(&t->order, p->offset) && order_fits(&t->order, p->n_elements),
              "tensor %s: slices do not divide it", p->tensor);
        end += p->n_elements;
    }
    CHECK(end == x->n_elements, "tensor %s: pieces of %lld elements, expected %lld", x->name, (long long)end,
          (long long)x->n_elements);
}

static void collect_tensors(struct arena *a, const struct ckpt_job *job, struct assignment *out)
{
    int64_t n, last;
    const struct place *place = collect_pieces(a, job->params, &n);
    out->list = ARENA_NEW(a, struct safetensor, n);
    out->tensor = ARENA_NEW(a, struct stored_tensor, n);
    for (int64_t i = 0; i < n; i = last) {
        for (last = i + 1; last < n && !strcmp(place[last].piece->tensor, place[i].piece->tensor); last++)
            ;
        add_tensor(a, job, place + i, last - i, out);
    }
}

const struct ckpt_range *range_at(const struct ckpt_range *ranges, int n, int param, int64_t element)
{
    int lo = 0, hi = n; /* the last range that begins at or before it */
    while (lo < hi) {
        const int middle = lo + (hi - lo) / 2;
        const struct ckpt_range *r = &ranges[middle];
        if (r->param < param || (r->param == param && r->begin <= element))
            lo = middle + 1;
        else
            hi = middle;
    }
    const struct ckpt_range *r = &ranges[lo - 1];
    return lo > 0 && r->param == param && element < r->end ? r : NULL;
}

static bool holds(const struct ckpt_job *job, int rank, const struct stored_tensor *t)
{
    const struct ckpt_holding *h = &job->holding[rank];
    if (t->order.slices > 1)
        return false;
    for (int i = 0; i < t->n_parts; i++) {
        const struct piece *p = &job->params->item[t->part[i].param].piece[t->part[i].piece];
        for (int64_t at = p->offset; at < p->offset + p->n_elements;) {
            const struct ckpt_range *r = range_at(h->weights, h->n_weights, t->part[i].param, at);
            if (!r)
                return false;
            at = r->end;
        }
    }
    return true;
}

struct candidate {
    int64_t tensor, n_holders;
    size_t bytes;
};

/* Those with the least choice first, then large ones. */
static int by_freedom(const void *x, const void *y)
{
    const struct candidate *a = x, *b = y;
    if (a->n_holders != b->n_holders)
        return a->n_holders < b->n_holders ? -1 : 1;
    if (a->bytes != b->bytes)
        return a->bytes > b->bytes ? -1 : 1;
    return (a->tensor > b->tensor) - (a->tensor < b->tensor);
}

static struct candidate *sort_candidates(struct arena *a, const struct ckpt_job *job,
                                         const struct assignment *x)
{
    struct candidate *c = ARENA_NEW(a, struct candidate, x->n);
    for (int64_t i = 0; i < x->n; i++) {
        c[i] = (struct candidate){ .tensor = i, .bytes = x->list[i].bytes };
        for (int r = 0; r < job->n_ranks; r++)
            c[i].n_holders += holds(job, r, &x->tensor[i]);
    }
    if (x->n > 1)
        qsort(c, (size_t)x->n, sizeof *c, by_freedom);
    return c;
}

void assignment_make(struct arena *a, const struct ckpt_job *job, struct assignment *out)
{
    *out = (struct assignment){ 0 };
    collect_tensors(a, job, out);
    int *owner = ARENA_NEW(a, int, out->n);
    size_t *load_bytes = ARENA_NEW(a, size_t, job->n_ranks);
    const struct candidate *c = sort_candidates(a, job, out);
    for (int64_t i = 0; i < out->n; i++) {
        int best = -1;
        for (int r = 0; r < job->n_ranks; r++)
            if ((best < 0 || load_bytes[r] < load_bytes[best]) && holds(job, r, &out->tensor[c[i].tensor]))
                best = r;
        out->tensor[c[i].tensor].shared = best < 0;
        owner[c[i].tensor] = best < 0 ? job->n_ranks : best;
        if (best >= 0)
            load_bytes[best] += c[i].bytes;
    }
    shards_plan(a, out->list, out->n, owner, job->n_ranks + 1, job->max_shard_bytes, &out->shards);
}

/* The first piece of a parameter that ends behind `element`. */
static int piece_at(const struct param *p, int64_t element)
{
    int lo = 0, hi = p->n_pieces;
    while (lo < hi) {
        const int middle = lo + (hi - lo) / 2;
        if (p->piece[middle].offset + p->piece[middle].n_elements <= element)
            lo = middle + 1;
        else
            hi = middle;
    }
    return lo;
}

static int by_element(const void *x, const void *y)
{
    const struct segment *a = x, *b = y;
    if (a->tensor != b->tensor)
        return a->tensor < b->tensor ? -1 : 1;
    return (a->begin > b->begin) - (a->begin < b->begin);
}

/* Cuts one state range at the borders of slices and tensors; out = NULL only counts. A slice of a parameter is a slice
 * of each of its tensors. */
static int64_t cut_state(const struct ckpt_job *job, const struct name_table *names,
                         const struct ckpt_range *r, int from, struct segment *out)
{
    const struct param *p = &job->params->item[r->param];
    const int64_t slices = order_of(job, r->param).slices, unit = p->n_elements / slices;
    int64_t n = 0;
    for (int64_t at = r->begin, end; at < r->end; at = end, n++) {
        const int64_t slice = at / unit, inside = at % unit;
        const struct piece *s = &p->piece[piece_at(p, inside * slices)];
        const int64_t stop = slice * unit + (s->offset + s->n_elements) / slices;
        const int64_t first = s->at + slice * (s->n_elements / slices) + inside - s->offset / slices;
        end = stop < r->end ? stop : r->end;
        if (out)
            out[n] = (struct segment){ name_table_find(names, s->tensor), first, first + end - at, from,
                                       at - r->begin };
    }
    return n;
}

int64_t segments_make(struct arena *a, const struct ckpt_job *job, const struct assignment *x, int rank,
                      struct segment **out)
{
    const struct ckpt_holding *h = &job->holding[rank];
    struct name_table names = name_table_new(a, x->n);
    for (int64_t i = 0; i < x->n; i++)
        name_table_add(&names, x->list[i].name, i);
    int64_t n = 0;
    for (int i = 0; i < h->n_states; i++)
        n += cut_state(job, &names, &h->states[i], i, NULL);
    struct segment *s = *out = ARENA_NEW(a, struct segment, n);
    for (int i = 0; i < h->n_states; i++)
        s += cut_state(job, &names, &h->states[i], i, s);
    if (n > 1)
        qsort(*out, (size_t)n, sizeof **out, by_element);
    return n;
}

static int by_param(const void *x, const void *y)
{
    const struct ckpt_range *a = x, *b = y;
    if (a->param != b->param)
        return a->param < b->param ? -1 : 1;
    return (a->begin > b->begin) - (a->begin < b->begin);
}

void assignment_check_states(const struct ckpt_job *job)
{
    struct arena *a = arena_new("states");
    int64_t n = 0, i = 0;
    for (int r = 0; r < job->n_ranks; r++)
        n += job->holding[r].n_states;
    struct ckpt_range *all = ARENA_NEW(a, struct ckpt_range, n), *to = all;
    for (int r = 0; r < job->n_ranks; r++)
        for (int k = 0; k < job->holding[r].n_states; k++)
            *to++ = job->holding[r].states[k];
    if (n > 1)
        qsort(all, (size_t)n, sizeof *all, by_param);
    for (int p = 0; p < job->params->n; p++) {
        int64_t end = 0;
        for (; i < n && all[i].param == p; end = all[i++].end)
            CHECK(all[i].begin == end && all[i].begin < all[i].end, "states of %s: [%lld, %lld) after %lld",
                  job->params->item[p].name, (long long)all[i].begin, (long long)all[i].end, (long long)end);
        CHECK(end == job->params->item[p].n_elements, "states of %s end at %lld", job->params->item[p].name,
              (long long)end);
    }
    CHECK(i == n, "a state range of parameter %d of %d", i < n ? all[i].param : 0, job->params->n);
    arena_free(a);
}
