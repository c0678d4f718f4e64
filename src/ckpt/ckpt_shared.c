/* ckpt_shared.c - tensors of the model that no rank holds whole: their files are written by several ranks together. What
 * lies where is the same computation on every rank; each writes the elements whose states it has, from the pieces that
 * it holds. Checksums are made when all have written. */
#include "ckpt/ckpt_impl.h"
#include <string.h>

int64_t shared_count(const struct ckpt_job *job, const struct assignment *x)
{
    return x->shards.first[job->n_ranks + 1] - x->shards.first[job->n_ranks];
}

/* The rank that writes the header of the i-th shared file, and its checksum. */
static int owner_of(const struct ckpt_job *job, int64_t i)
{
    return (int)(i % job->n_ranks);
}

/* n floats of a tensor in held order from `held` on: as many places of the file as they have neighbours. */
static bool put_held(const struct mine *m, int64_t tensor, const float *from, int64_t held, int64_t n,
                     struct safetensors_writer *w, int64_t entry, struct err *e)
{
    const struct safetensor *t = &m->x->list[tensor];
    for (int64_t i = 0, k, stored; i < n; i += k) {
        k = order_stored(&m->x->tensor[tensor].order, t->n_elements, held + i, &stored);
        k = k < n - i ? k : n - i;
        safetensors_seek(w, entry, (uint64_t)stored * num_dtype_bytes(t->dtype));
        if (!put_floats(w, t->name, from + i, stored, k, t->dtype, e))
            return false;
    }
    return true;
}

/* The weights of a segment, into entry `entry` of a file; w NULL: only visits. */
static bool put_segment(const struct mine *m, const struct segment *s, struct safetensors_writer *w,
                        int64_t entry, struct err *e)
{
    const struct ckpt_holding *h = &m->job->holding[m->rank];
    const struct ckpt_range *state = &h->states[s->from];
    const int64_t n = s->end - s->begin, first = state->begin + s->offset;
    const struct ckpt_range *r = range_at(h->weights, h->n_weights, state->param, first);
    CHECK(r && first + n <= r->end, "%s: states without their weights", m->x->list[s->tensor].name);
    for (int64_t i = 0; i < n; i += CKPT_PIECE) {
        const int64_t k = n - i < CKPT_PIECE ? n - i : CKPT_PIECE;
        const float *x =
            m->job->read(m->job->context, CKPT_WEIGHT, r - h->weights, first - r->begin + i, k, m->room);
        if (w && !put_held(m, s->tensor, x, s->begin + i, k, w, entry, e))
            return false;
    }
    return true;
}

void shared_visit(struct arena *a, const struct mine *m)
{
    struct segment *segment;
    struct err none = { 0 };
    const int64_t n = segments_make(a, m->job, m->x, m->rank, &segment);
    for (int64_t i = 0; i < n; i++)
        if (m->x->tensor[segment[i].tensor].shared)
            put_segment(m, &segment[i], NULL, 0, &none);
}

static bool put_segments(const struct mine *m, const struct segment *segment, int64_t n, const int64_t *entry,
                         struct safetensors_writer *w, struct err *e)
{
    for (int64_t i = 0; i < n; i++)
        if (entry[segment[i].tensor] >= 0 && !put_segment(m, &segment[i], w, entry[segment[i].tensor], e))
            return false;
    return true;
}

bool shared_write(struct arena *a, const struct mine *m, const char *dir, int64_t i, struct err *e)
{
    const struct shards *s = &m->x->shards;
    const int64_t shard = s->first[m->job->n_ranks] + i, first = s->begin[shard],
                  n = s->begin[shard + 1] - first;
    struct safetensor *list = ARENA_NEW(a, struct safetensor, n);
    int64_t *entry = ARENA_NEW(a, int64_t, m->x->n); /* by tensor; -1 = not in this file */
    struct segment *segment;
    for (int64_t k = 0; k < m->x->n; k++)
        entry[k] = -1;
    for (int64_t k = 0; k < n; k++) {
        list[k] = m->x->list[s->order[first + k]];
        entry[s->order[first + k]] = k;
    }
    const int64_t n_segments = segments_make(a, m->job, m->x, m->rank, &segment);
    struct safetensors_writer *w =
        safetensors_share(path_in(a, dir, s->name[shard]), list, n, owner_of(m->job, i) == m->rank, e);
    if (!w)
        return false;
    if (put_segments(m, segment, n_segments, entry, w, e))
        return safetensors_leave(w, e);
    safetensors_drop(w);
    return false;
}

bool ckpt_has_shared(const struct ckpt_job *job)
{
    struct arena *a = arena_new("checkpoint");
    struct assignment x;
    assignment_make(a, job, &x);
    const bool shared = shared_count(job, &x) > 0;
    arena_free(a);
    return shared;
}

bool ckpt_seal(const struct ckpt_job *job, int rank, struct err *e)
{
    struct arena *a = arena_new("checkpoint");
    struct assignment x;
    struct manifest seals = { .n_ranks = job->n_ranks };
    const char *dir = temporary_name(a, job->directory);
    bool sealed = true;
    assignment_make(a, job, &x);
    for (int64_t i = 0; i < shared_count(job, &x) && sealed; i++)
        if (owner_of(job, i) == rank)
            sealed = manifest_add_file(a, &seals, dir, x.shards.name[x.shards.first[job->n_ranks] + i], e);
    if (sealed && seals.n)
        sealed = manifest_write(path_in(a, dir, seals_file(a, rank)), &seals, e);
    arena_free(a);
    return sealed;
}
