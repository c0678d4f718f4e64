/* ckpt_write.c - the files of one rank: its share of the model, its optimizer state, and their checksums. Several
 * threads take one file after the other. */
#include "base/pool.h"
#include "ckpt/ckpt_impl.h"
#include <stdatomic.h>
#include <string.h>

/* n elements from `at` of a range, which are those from `first` on of the tensor that is written. */
static bool put_range(const struct mine *m, enum ckpt_part part, int64_t range, int64_t at, int64_t n,
                      const char *tensor, int64_t first, enum dtype t, struct safetensors_writer *w,
                      struct err *e)
{
    for (int64_t i = 0; i < n; i += CKPT_PIECE) {
        const int64_t k = n - i < CKPT_PIECE ? n - i : CKPT_PIECE;
        const float *x = m->job->read(m->job->context, part, range, at + i, k, m->room);
        if (w && !put_floats(w, tensor, x, first + i, k, t, e))
            return false;
    }
    return true;
}

bool weight_put(void *context, int64_t tensor, struct safetensors_writer *w, struct err *e)
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

/* Adjoining segments of one tensor become one tensor of the file, unless their blocks of codes begin anew. */
struct run {
    int64_t tensor, begin, end, first, n; /* segments first ... first + n - 1 */
};

static int64_t join(const struct ckpt_job *job, const struct segment *s, int64_t n, struct run *out)
{
    int64_t n_runs = 0;
    for (int64_t i = 0; i < n; i++) {
        struct run *last = &out[n_runs - 1];
        if (n_runs && !job->read_codes && last->tensor == s[i].tensor && last->end == s[i].begin) {
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

static bool as_codes(const struct mine *m, int kind)
{
    return m->job->read_codes && kind != MASTER;
}

/* Elements of its first block that lie before a segment. */
static int skip_of(const struct mine *m, const struct segment *s)
{
    return (int)((m->job->holding[m->rank].states[s->from].skip + s->offset) % CKPT_BLOCK);
}

/* The entry of one run and kind. */
static struct safetensor entry_of(struct arena *a, const struct mine *m, const struct segment *s,
                                  const struct run *r, int kind)
{
    const struct safetensor *t = &m->x->list[r->tensor];
    const struct ckpt_order order = m->x->tensor[r->tensor].order;
    const bool codes = as_codes(m, kind),
               whole = r->begin == 0 && r->end == t->n_elements && !codes && order.slices == 1;
    const int skip = codes ? skip_of(m, &s[r->first]) : 0;
    const struct state_name name = { t->name, r->begin, whole ? -1 : r->end, (enum state_kind)kind,
                                     skip,    order };
    int64_t *n = ARENA_NEW(a, int64_t, 1);
    *n = r->end - r->begin;
    *n += codes ? blocks_of(skip, *n) * (int64_t)sizeof(float) : 0;
    return safetensors_entry(state_name_print(a, &name), codes ? U8 : F32, whole ? t->n_dims : 1,
                             whole ? t->shape : n);
}

static bool put_scales(struct safetensors_writer *w, const char *tensor, const float *scales, int64_t first,
                       int64_t n, struct err *e)
{
    const int64_t bad = num_first_nonfinite(scales, n);
    if (bad >= 0)
        return err_code(e, EXIT_NONFINITE,
                        "tensor %s: the float of block %lld is %g, which a checkpoint "
                        "cannot store",
                        tensor, (long long)first + bad, (double)scales[bad]);
    return safetensors_put(w, scales, (size_t)n * sizeof *scales, e);
}

/* Codes and then floats of a segment. */
static bool put_codes(const struct mine *m, const struct segment *s, enum ckpt_part part, const char *name,
                      struct safetensors_writer *w, struct err *e)
{
    const int64_t n = s->end - s->begin, blocks = blocks_of(skip_of(m, s), n);
    const int64_t first = (m->job->holding[m->rank].states[s->from].skip + s->offset) / CKPT_BLOCK;
    for (int64_t i = 0; i < n; i += CKPT_PIECE) {
        const int64_t k = n - i < CKPT_PIECE ? n - i : CKPT_PIECE;
        m->job->read_codes(m->job->context, part, s->from, s->offset + i, k, (unsigned char *)m->room);
        if (w && !safetensors_put(w, m->room, (size_t)k, e))
            return false;
    }
    for (int64_t i = 0; i < blocks; i += CKPT_PIECE) {
        const int64_t k = blocks - i < CKPT_PIECE ? blocks - i : CKPT_PIECE;
        m->job->read_scales(m->job->context, part, s->from, first + i, k, m->room);
        if (w && !put_scales(w, name, m->room, i, k, e))
            return false;
    }
    return true;
}

static bool put_run(const struct mine *m, const struct segment *s, const struct run *r, int kind,
                    const char *name, struct safetensors_writer *w, struct err *e)
{
    static const enum ckpt_part parts[] = {
        [EXP_AVG] = CKPT_EXP_AVG, [EXP_AVG_SQ] = CKPT_EXP_AVG_SQ, [MASTER] = CKPT_MASTER
    };
    if (as_codes(m, kind))
        return put_codes(m, s + r->first, parts[kind], name, w, e);
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

/* What a rank's optimizer file holds. */
struct optimizer {
    struct segment *segment;
    struct run *run;
    struct safetensor *list;
    int64_t n_runs, n; /* n: entries of the list */
};

static void optimizer_plan(struct arena *a, const struct mine *m, struct optimizer *o)
{
    const int64_t n_segments = segments_make(a, m->job, m->x, m->rank, &o->segment);
    o->run = ARENA_NEW(a, struct run, n_segments + 1);
    o->n_runs = join(m->job, o->segment, n_segments, o->run);
    o->list = ARENA_NEW(a, struct safetensor, o->n_runs * STATE_KINDS);
    o->n = 0;
    for (int64_t i = 0; i < o->n_runs; i++)
        for (int k = 0; k < n_kinds(&m->x->list[o->run[i].tensor]); k++)
            o->list[o->n++] = entry_of(a, m, o->segment, &o->run[i], k);
}

static bool write_optimizer(struct arena *a, const struct mine *m, const char *dir, struct manifest *sums,
                            struct err *e)
{
    struct optimizer o;
    uint64_t bytes, hash;
    optimizer_plan(a, m, &o);
    const char *name = optimizer_file(a, m->rank, m->job->n_ranks);
    struct safetensors_writer *w = safetensors_create(path_in(a, dir, name), o.list, o.n, e);
    if (!w)
        return false;
    if (!put_runs(m, o.segment, o.run, o.n_runs, o.list, w, e)) {
        safetensors_drop(w);
        return false;
    }
    if (!safetensors_publish(w, &bytes, &hash, e))
        return false;
    manifest_add(a, sums, name, bytes, hash);
    return true;
}

void ckpt_visit(const struct ckpt_job *job, int rank)
{
    struct arena *a = arena_new("checkpoint");
    struct assignment x;
    struct optimizer o;
    struct err none = { 0 };
    assignment_make(a, job, &x);
    struct mine m = { job, &x, rank, NULL };
    for (int64_t s = x.shards.first[rank]; s < x.shards.first[rank + 1]; s++)
        for (int64_t i = x.shards.begin[s]; i < x.shards.begin[s + 1]; i++)
            weight_put(&m, x.shards.order[i], NULL, &none);
    shared_visit(a, &m);
    optimizer_plan(a, &m, &o);
    put_runs(&m, o.segment, o.run, o.n_runs, o.list, NULL, &none);
    arena_free(a);
}

/* The files of a rank as tasks: its shards of the model, the shared ones, then the optimizer's file. */
struct crew {
    const struct ckpt_job *job;
    const struct assignment *x;
    const char *dir;
    int rank;
    int64_t n_own, n_tasks;
    atomic_int_fast64_t next;
    atomic_bool failed;
    struct done { /* by task */
        struct arena *arena;
        struct manifest sums;
        struct err err;
        bool ok;
    } * done;
};
struct hand { /* one thread */
    struct crew *crew;
    struct worker worker;
    void *room;
};

static bool write_one(struct crew *c, int64_t task, struct done *d, void *room)
{
    struct mine m = { c->job, c->x, c->rank, room };
    if (task == c->n_tasks - 1)
        return write_optimizer(d->arena, &m, c->dir, &d->sums, &d->err);
    return task < c->n_own
               ? shards_write_one(d->arena, c->dir, c->x->list, &c->x->shards,
                                  c->x->shards.first[c->rank] + task, weight_put, &m, &d->sums, &d->err)
               : shared_write(d->arena, &m, c->dir, task - c->n_own, &d->err);
}

static void take_files(void *context)
{
    struct hand *h = context;
    struct crew *c = h->crew;
    void *room = h->room ? h->room : arena_slab(CKPT_ROOM);
    for (int64_t i; !atomic_load(&c->failed) && (i = atomic_fetch_add(&c->next, 1)) < c->n_tasks;) {
        struct done *d = &c->done[i];
        d->arena = arena_new("file of a checkpoint");
        d->ok = write_one(c, i, d, room);
        if (!d->ok)
            atomic_store(&c->failed, true);
    }
    if (!h->room)
        arena_slab_free(room);
}

static void work_together(struct crew *c)
{
    struct hand hand[CKPT_THREADS] = { 0 };
    const int most = c->job->n_threads > 1 ? c->job->n_threads : 1,
              n = c->n_tasks < most ? (int)c->n_tasks : most;
    CHECK(most <= CKPT_THREADS, "%d threads", most);
    for (int i = 0; i < most; i++)
        hand[i] = (struct hand){ .crew = c, .room = c->job->room[i] };
    for (int i = 1; i < n; i++)
        worker_start(&hand[i].worker, take_files, &hand[i]);
    take_files(&hand[0]);
    for (int i = 1; i < n; i++)
        worker_join(&hand[i].worker);
}

/* Sums of all files in order, or the error of the first that failed. */
static bool collect(struct arena *a, const struct crew *c, struct manifest *sums, struct err *e)
{
    bool ok = true;
    for (int64_t i = 0; i < c->n_tasks; i++) {
        const struct done *d = &c->done[i];
        if (d->arena && !d->ok)
            ok = err_code(e, d->err.code, "%s", d->err.text);
        for (int64_t k = 0; k < d->sums.n && ok; k++) {
            manifest_add(a, sums, d->sums.file[k].name, 0, 0);
            const char *name = sums->file[sums->n - 1].name;
            sums->file[sums->n - 1] = d->sums.file[k];
            sums->file[sums->n - 1].name = name;
        }
        arena_free(d->arena);
    }
    return ok;
}

bool ckpt_write(const struct ckpt_job *job, int rank, struct err *e)
{
    struct arena *a = arena_new("checkpoint");
    struct assignment x;
    const char *dir = temporary_name(a, job->directory);
    struct manifest sums = { .n_ranks = job->n_ranks };
    assignment_make(a, job, &x);
    struct crew c = { .job = job, .x = &x, .dir = dir, .rank = rank };
    c.n_own = x.shards.first[rank + 1] - x.shards.first[rank];
    c.n_tasks = c.n_own + shared_count(job, &x) + 1;
    c.done = ARENA_NEW(a, struct done, c.n_tasks);
    work_together(&c);
    const bool written =
        collect(a, &c, &sums, e) && manifest_write(path_in(a, dir, sums_file(a, rank)), &sums, e);
    arena_free(a);
    return written;
}
