/* ckpt_write.c - the files of one rank: its share of the model, its optimizer state, and their checksums. */
#include "ckpt/ckpt_impl.h"
#include <string.h>

struct mine { /* what the callbacks need */
    const struct ckpt_job *job;
    const struct assignment *x;
    int rank;
    float *room; /* CKPT_PIECE */
};

/* n elements from `at` of a range, which are those from `first` on of the tensor that is written. */
static bool put_range(const struct mine *m, enum ckpt_part part, int64_t range, int64_t at, int64_t n,
                      const char *tensor, int64_t first, enum dtype t, struct safetensors_writer *w,
                      struct err *e)
{
    for (int64_t i = 0; i < n; i += CKPT_PIECE) {
        const int64_t k = n - i < CKPT_PIECE ? n - i : CKPT_PIECE;
        const float *x = m->job->read(m->job->context, part, range, at + i, k, m->room);
        if (!put_floats(w, tensor, x, first + i, k, t, e))
            return false;
    }
    return true;
}

/* The tensor's elements in order, from the ranges that the rank holds. */
static bool put_weight(void *context, int64_t tensor, struct safetensors_writer *w, struct err *e)
{
    const struct mine *m = context;
    const struct ckpt_holding *h = &m->job->holding[m->rank];
    const struct stored_tensor *t = &m->x->tensor[tensor];
    const struct safetensor *entry = &m->x->list[tensor];
    for (int i = 0; i < t->n_parts; i++) {
        const struct piece *p = &m->job->params->item[t->part[i].param].piece[t->part[i].piece];
        const int64_t end = p->offset + p->n_elements;
        for (int64_t at = p->offset; at < end;) {
            const struct ckpt_range *r = range_at(h->weights, h->n_weights, t->part[i].param, at);
            const int64_t stop = r->end < end ? r->end : end;
            if (!put_range(m, CKPT_WEIGHT, r - h->weights, at - r->begin, stop - at, entry->name,
                           p->at + at - p->offset, entry->dtype, w, e))
                return false;
            at = stop;
        }
    }
    return true;
}

/* Adjoining segments of one tensor become one tensor of the file. */
struct run {
    int64_t tensor, begin, end, first, n; /* segments first ... first + n - 1 */
};

static int64_t join(const struct segment *s, int64_t n, struct run *out)
{
    int64_t n_runs = 0;
    for (int64_t i = 0; i < n; i++) {
        struct run *last = &out[n_runs - 1];
        if (n_runs && last->tensor == s[i].tensor && last->end == s[i].begin) {
            last->end = s[i].end;
            last->n++;
        } else {
            out[n_runs++] = (struct run){ s[i].tensor, s[i].begin, s[i].end, i, 1 };
        }
    }
    return n_runs;
}

static int n_kinds(const struct safetensor *t)
{
    return t->dtype == F32 ? MASTER : STATE_KINDS;
}

/* The entry of one run and kind. */
static struct safetensor entry_of(struct arena *a, const struct safetensor *t, const struct run *r, int kind)
{
    const bool whole = r->begin == 0 && r->end == t->n_elements;
    const struct state_name name = { t->name, (enum state_kind)kind, r->begin, whole ? -1 : r->end };
    int64_t *n = ARENA_NEW(a, int64_t, 1);
    *n = r->end - r->begin;
    return safetensors_entry(state_name_print(a, &name), F32, whole ? t->n_dims : 1, whole ? t->shape : n);
}

static bool put_run(const struct mine *m, const struct segment *s, const struct run *r, int kind,
                    const char *name, struct safetensors_writer *w, struct err *e)
{
    static const enum ckpt_part parts[] = {
        [EXP_AVG] = CKPT_EXP_AVG, [EXP_AVG_SQ] = CKPT_EXP_AVG_SQ, [MASTER] = CKPT_MASTER
    };
    for (const struct segment *at = s + r->first; at < s + r->first + r->n; at++)
        if (!put_range(m, parts[kind], at->from, at->offset, at->end - at->begin, name, at->begin - r->begin,
                       F32, w, e))
            return false;
    return true;
}

static bool put_runs(const struct mine *m, const struct segment *s, const struct run *run, int64_t n,
                     const struct safetensor *list, struct safetensors_writer *w, struct err *e)
{
    for (int64_t i = 0; i < n; i++)
        for (int k = 0; k < n_kinds(&m->x->list[run[i].tensor]); k++, list++)
            if (!put_run(m, s, &run[i], k, list->name, w, e))
                return false;
    return true;
}

static bool write_optimizer(struct arena *a, const struct mine *m, const char *dir, struct manifest *sums,
                            struct err *e)
{
    struct segment *s;
    uint64_t bytes, hash;
    const int64_t n_segments = segments_make(a, m->job, m->x, m->rank, &s);
    struct run *run = ARENA_NEW(a, struct run, n_segments + 1);
    const int64_t n_runs = join(s, n_segments, run);
    struct safetensor *list = ARENA_NEW(a, struct safetensor, n_runs * STATE_KINDS);
    int64_t n = 0;
    for (int64_t i = 0; i < n_runs; i++)
        for (int k = 0; k < n_kinds(&m->x->list[run[i].tensor]); k++)
            list[n++] = entry_of(a, &m->x->list[run[i].tensor], &run[i], k);
    const char *name = optimizer_file(a, m->rank, m->job->n_ranks);
    struct safetensors_writer *w = safetensors_create(path_in(a, dir, name), list, n, e);
    if (!w)
        return false;
    if (!put_runs(m, s, run, n_runs, list, w, e)) {
        safetensors_drop(w);
        return false;
    }
    if (!safetensors_publish(w, &bytes, &hash, e))
        return false;
    manifest_add(a, sums, name, bytes, hash);
    return true;
}

bool ckpt_write(const struct ckpt_job *job, int rank, struct err *e)
{
    struct arena *a = arena_new("checkpoint");
    struct assignment x;
    const char *dir = temporary_name(a, job->directory);
    struct manifest sums = { .n_ranks = job->n_ranks };
    assignment_make(a, job, &x);
    struct mine m = { job, &x, rank, ARENA_NEW(a, float, CKPT_PIECE) };
    const bool written = shards_write(a, dir, x.list, &x.shards, rank, put_weight, &m, &sums, e) &&
                         write_optimizer(a, &m, dir, &sums, e) &&
                         manifest_write(path_in(a, dir, sums_file(a, rank)), &sums, e);
    arena_free(a);
    return written;
}
