/* ckpt_write.c - what stands in the files of one rank: its share of the model, and its optimizer state. */
#include "ckpt/ckpt_impl.h"
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

/* Elements [first, last) of a tensor of the model. */
static bool put_weights(const struct mine *m, int64_t tensor, int64_t first, int64_t last,
                        struct safetensors_writer *w, struct err *e)
{
    const struct ckpt_holding *h = &m->job->holding[m->rank];
    const struct stored_tensor *t = &m->x->tensor[tensor];
    const struct safetensor *entry = &m->x->list[tensor];
    for (int i = 0; i < t->n_parts; i++) {
        const struct piece *p = &m->job->params->item[t->part[i].param].piece[t->part[i].piece];
        const int64_t begin = p->at > first ? p->at : first,
                      stop = p->at + p->n_elements < last ? p->at + p->n_elements : last;
        const int64_t end = p->offset + stop - p->at;
        for (int64_t at = p->offset + begin - p->at; at < end;) {
            const struct ckpt_range *r = range_at(h->weights, h->n_weights, t->part[i].param, at);
            const int64_t until = r->end < end ? r->end : end;
            if (!put_range(m, CKPT_WEIGHT, r - h->weights, at - r->begin, until - at, entry->name,
                           p->at + at - p->offset, entry->dtype, w, e))
                return false;
            at = until;
        }
    }
    return true;
}

bool weight_put(void *context, int64_t tensor, struct safetensors_writer *w, struct err *e)
{
    const struct mine *m = context;
    return put_weights(m, tensor, 0, m->x->list[tensor].n_elements, w, e);
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

static void seek(struct safetensors_writer *w, int64_t entry, int64_t byte)
{
    if (w)
        safetensors_seek(w, entry, (uint64_t)byte);
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Bytes [from, to) of what a segment's codes become: the codes, and then the floats of their blocks. */
static bool put_codes(const struct mine *m, const struct segment *s, enum ckpt_part part, const char *name,
                      int64_t from, int64_t to, struct safetensors_writer *w, int64_t entry, struct err *e)
{
    const int64_t n = s->end - s->begin, last = least(to, n), last_block = to > n ? (to - n + 3) / 4 : 0;
    const int64_t first = (m->job->holding[m->rank].states[s->from].skip + s->offset) / CKPT_BLOCK;
    seek(w, entry, least(from, n));
    for (int64_t i = from, k; i < last; i += k) {
        k = least(last - i, CKPT_PIECE);
        m->job->read_codes(m->job->context, part, s->from, s->offset + i, k, (unsigned char *)m->room);
        if (w && !safetensors_put(w, m->room, (size_t)k, e))
            return false;
    }
    const int64_t first_block = from > n ? (from - n) / 4 : 0;
    seek(w, entry, n + 4 * first_block);
    for (int64_t i = first_block, k; i < last_block; i += k) {
        k = least(last_block - i, CKPT_PIECE);
        m->job->read_scales(m->job->context, part, s->from, first + i, k, m->room);
        if (w && !put_scales(w, name, m->room, i, k, e))
            return false;
    }
    return true;
}

/* What a rank's optimizer file holds. */
struct optimizer {
    struct segment *segment;
    struct run *run;
    struct state { /* by entry of the file */
        const struct run *run;
        int kind;
    } * state;
};

/* Bytes [from, to) of an entry of the optimizer's file. */
static bool put_state(const struct mine *m, const struct optimizer *o, const char *name, int64_t entry,
                      int64_t from, int64_t to, struct safetensors_writer *w, struct err *e)
{
    static const enum ckpt_part parts[] = {
        [EXP_AVG] = CKPT_EXP_AVG, [EXP_AVG_SQ] = CKPT_EXP_AVG_SQ, [MASTER] = CKPT_MASTER
    };
    const int kind = o->state[entry].kind;
    const struct run *r = o->state[entry].run;
    const struct segment *s = o->segment + r->first;
    if (as_codes(m, kind))
        return put_codes(m, s, parts[kind], name, from, to, w, entry, e);
    const int64_t first = r->begin + from / 4, last = r->begin + (to + 3) / 4;
    seek(w, entry, from / 4 * 4);
    for (; s < o->segment + r->first + r->n; s++) {
        const int64_t begin = s->begin > first ? s->begin : first, end = least(s->end, last);
        if (begin < end && !put_range(m, parts[kind], s->from, s->offset + begin - s->begin, end - begin,
                                      name, begin - r->begin, F32, w, e))
            return false;
    }
    return true;
}

bool content_put(const struct mine *m, const struct content *c, int64_t i, uint64_t from, uint64_t to,
                 struct safetensors_writer *w, struct err *e)
{
    const int64_t item = (int64_t)num_dtype_bytes(c->list[i].dtype);
    if (c->optimizer)
        return put_state(m, c->optimizer, c->list[i].name, i, (int64_t)from, (int64_t)to, w, e);
    seek(w, i, (int64_t)from / item * item);
    return put_weights(m, c->order[i], (int64_t)from / item, ((int64_t)to + item - 1) / item, w, e);
}

static void optimizer_plan(struct arena *a, const struct mine *m, struct content *c)
{
    struct optimizer *o = ARENA_NEW(a, struct optimizer, 1);
    const int64_t n_segments = segments_make(a, m->job, m->x, m->rank, &o->segment);
    o->run = ARENA_NEW(a, struct run, n_segments + 1);
    const int64_t n_runs = join(m->job, o->segment, n_segments, o->run);
    o->state = ARENA_NEW(a, struct state, n_runs * STATE_KINDS);
    *c = (struct content){ .name = optimizer_file(a, m->rank, m->job->n_ranks), .optimizer = o };
    c->list = ARENA_NEW(a, struct safetensor, n_runs * STATE_KINDS);
    for (int64_t i = 0; i < n_runs; i++)
        for (int k = 0; k < n_kinds(&m->x->list[o->run[i].tensor]); k++) {
            o->state[c->n] = (struct state){ &o->run[i], k };
            c->list[c->n++] = entry_of(a, m, o->segment, &o->run[i], k);
        }
}

struct content *contents_make(struct arena *a, const struct mine *m, int64_t *n_contents)
{
    const struct shards *s = &m->x->shards;
    const int64_t first = s->first[m->rank], n = s->first[m->rank + 1] - first;
    struct content *c = ARENA_NEW(a, struct content, n + 1);
    for (int64_t i = 0; i < n; i++) {
        const int64_t *order = s->order + s->begin[first + i];
        c[i] = (struct content){ .name = s->name[first + i], .order = order };
        c[i].n = s->begin[first + i + 1] - s->begin[first + i];
        c[i].list = ARENA_NEW(a, struct safetensor, c[i].n);
        for (int64_t k = 0; k < c[i].n; k++)
            c[i].list[k] = m->x->list[order[k]];
    }
    optimizer_plan(a, m, &c[n]);
    *n_contents = n + 1;
    return c;
}

void ckpt_visit(const struct ckpt_job *job, int rank)
{
    struct arena *a = arena_new("checkpoint");
    struct assignment x;
    int64_t n;
    struct err none = { 0 };
    assignment_make(a, job, &x);
    struct mine m = { job, &x, rank, NULL };
    const struct content *c = contents_make(a, &m, &n);
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < c[i].n; k++)
            content_put(&m, &c[i], k, 0, c[i].list[k].bytes, NULL, &none);
    shared_visit(a, &m);
    arena_free(a);
}
