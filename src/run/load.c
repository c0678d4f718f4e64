/* load.c - the weights and states of a rank from random numbers or files. Threads make windows of a parameter in
 * the form that the device keeps; a window passes through host memory from which the device reads fastest. */
#include "base/hash.h"
#include "base/pool.h"
#include "base/rng.h"
#include "run/moments.h"
#include "run/states.h"
#include "run/weights.h"
#include <string.h>

enum { TASK = 1 << 18, WINDOW = 1 << 24 }; /* elements of one thread, of all threads at once */
_Static_assert(TASK % ADAMW_BLOCK == 0 && WINDOW % TASK == 0, "blocks are whole in tasks");

/* -- random weights -- */
static float initial(const struct param *p, int64_t seed, uint64_t stream, int64_t element)
{
    switch (p->init) {
    case INIT_NORMAL:
        return (float)(p->init_scale * rng_normal((uint64_t)seed, stream, (uint64_t)element));
    case INIT_UNIFORM:
        return (float)(p->init_scale * (2 * rng_uniform((uint64_t)seed, stream, (uint64_t)element) - 1));
    case INIT_ONE:
        break;
    }
    return 1;
}

struct weights_from { /* where weights come from */
    const struct param_list *list;
    const struct layout *layout; /* NULL: elements are counted as in the parameter */
    int64_t seed;
    const struct ckpt *c; /* NULL = random */
    bool exact;           /* the master where there is one */
};

static void make_random(const struct weights_from *f, int param, int64_t begin, int64_t end, float *out)
{
    const struct param *p = &f->list->item[param];
    for (int k = 0; k < p->n_pieces; k++) {
        const struct piece *s = &p->piece[k];
        const uint64_t stream = hash_text(s->tensor);
        const int64_t stop = s->offset + s->n_elements, from = s->offset > begin ? s->offset : begin,
                      to = stop < end ? stop : end;
        for (int64_t i = from; i < to; i++)
            out[i - begin] = initial(p, f->seed, stream, s->at + i - s->offset);
    }
}

struct random_job {
    const struct weights_from *from;
    int64_t begin, end;
    int param;
    float *out;
};
enum { RANDOM_BLOCK = 1 << 14 };

static void random_task(void *context, int64_t task)
{
    const struct random_job *j = context;
    const int64_t begin = j->begin + task * RANDOM_BLOCK,
                  end = begin + RANDOM_BLOCK < j->end ? begin + RANDOM_BLOCK : j->end;
    make_random(j->from, j->param, begin, end, j->out + begin - j->begin);
}

void weights_initial(const struct param_list *list, int param, int64_t seed, int64_t begin, int64_t end,
                     float *out)
{
    const struct weights_from f = { .list = list, .seed = seed };
    struct random_job j = { &f, begin, end, param, out };
    pool_run((end - begin + RANDOM_BLOCK - 1) / RANDOM_BLOCK, random_task, &j);
}

typedef bool make_run(const struct weights_from *f, int param, int64_t begin, int64_t end, float *out,
                      struct err *e);

/* Elements [begin, end) in held order: what are neighbours in the parameter at once. */
static bool make_runs(const struct weights_from *f, int param, int64_t begin, int64_t end, float *out,
                      make_run *make, struct err *e)
{
    int64_t stored, n;
    for (; begin < end; begin += n, out += n) {
        n = layout_run(&f->layout->place[param], begin, &stored);
        n = n < end - begin ? n : end - begin;
        if (!make(f, param, stored, stored + n, out, e))
            return false;
    }
    return true;
}

static bool make_weights(const struct weights_from *f, int param, int64_t begin, int64_t end, float *out,
                         struct err *e)
{
    const struct param *p = &f->list->item[param];
    if (f->c)
        return f->exact ? ckpt_read_state(f->c, p, begin, end, out, NULL, NULL, e)
                        : ckpt_read_weight(f->c, p, begin, end, out, e);
    make_random(f, param, begin, end, out);
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
    x->device->fill(exec_at(x, weights_ref(x, param, begin)), low ? exec_at(x, *low) : NULL,
                    x->program->plan.numbers.master, &f);
}

/* Elements [begin, end) in held order, neighbours in the parameter from `stored` on. */
static void fill_run(struct exec *x, int param, int64_t seed, int64_t begin, int64_t end, int64_t stored)
{
    const struct param *p = &x->program->graph->params.item[param];
    int64_t first = 0, last = 0;
    const bool own = weights_owned(x, param, &first, &last) && x->program->plan.numbers.master != MASTER_NONE;
    for (int k = 0; k < p->n_pieces; k++) {
        const struct piece *s = &p->piece[k];
        const int64_t shift = begin - stored, stop = s->offset + s->n_elements + shift,
                      from = s->offset + shift > begin ? s->offset + shift : begin,
                      to = stop < end ? stop : end;
        const struct piece here = { .tensor = s->tensor, .at = s->at, .offset = s->offset + shift };
        fill_piece(x, param, &here, seed, from, to, NULL);
        const int64_t a = from > first ? from : first, b = to < last ? to : last;
        struct ref low = own ? x->program->state[param].low : (struct ref){ .buffer = -1 };
        low.at_bytes += own ? plan_master_bytes(&x->program->plan, a - first) : 0;
        if (own)
            fill_piece(x, param, &here, seed, a, b, &low);
    }
}

static void fill_on_device(struct exec *x, int64_t seed)
{
    for (int i = 0; i < x->program->graph->params.n; i++) {
        int64_t begin, end, stored, n;
        weights_held(x, i, &begin, &end);
        for (; begin < end; begin += n) {
            n = layout_run(&x->program->layout.place[i], begin, &stored);
            n = n < end - begin ? n : end - begin;
            fill_run(x, i, seed, begin, begin + n, stored);
        }
    }
}

/* -- windows: made by threads, then put on the device -- */
struct room { /* host memory for a window; all NULL on the CPU, where threads write to the buffers */
    float *floats;
    char *bytes, *low; /* in the form of the device */
};

static char *host_memory(const struct exec *x, int64_t each)
{
    return x->device->host_allocate((size_t)(WINDOW * each));
}

static void room_new(const struct exec *x, struct room *r)
{
    *r = (struct room){ 0 };
    if (x->device->backend == CPU)
        return;
    r->floats = arena_slab((size_t)WINDOW * sizeof *r->floats);
    r->bytes = host_memory(x, 4);
    r->low = host_memory(x, 4);
}

static void room_free(const struct exec *x, struct room *r)
{
    arena_slab_free(r->floats);
    if (r->bytes)
        x->device->host_release(r->bytes);
    if (r->low)
        x->device->host_release(r->low);
}

struct window {
    struct exec *x;
    const struct weights_from *from;
    const struct room *room;
    int param;
    int64_t begin, n;    /* elements of the full parameter (weights), of the owned part (moments) */
    int64_t first, last; /* elements of the window whose master this rank owns */
    bool is_signed;      /* of moments */
    const float *values; /* of 8-bit moments */
    struct err err[WINDOW / TASK];
    bool ok[WINDOW / TASK];
};

static struct span {
    int64_t from, to;
} span_of(const struct window *w, int64_t task)
{
    const int64_t end = (task + 1) * TASK;
    return (struct span){ task * TASK, end < w->n ? end : w->n };
}

static bool run_window(struct window *w, pool_task *f, struct err *e)
{
    const int64_t n = (w->n + TASK - 1) / TASK;
    pool_run(n, f, w);
    for (int64_t i = 0; i < n; i++)
        if (!w->ok[i])
            return err_code(e, w->err[i].code, "%s", w->err[i].text);
    return true;
}

/* Weights rounded for the kernels. Those of a split master have its rounding of ties also where another rank owns it: the
 * replicas are equal. */
static void weight_forms(const struct window *w, struct span s, const float *x)
{
    const enum master master = w->x->program->plan.numbers.master;
    const int64_t n = s.to - s.from, first = s.from > w->first ? s.from : w->first,
                  last = s.to < w->last ? s.to : w->last;
    uint16_t *weight = (uint16_t *)w->room->bytes;
    if (master == MASTER_SPLIT) {
        states_split(weight + s.from, (uint16_t *)w->room->low + s.from, x, n);
        return;
    }
    num_from_float(weight + s.from, x, BF16, n);
    if (master == MASTER_FLOAT && first < last)
        memcpy((float *)w->room->low + first, x + first - s.from, (size_t)(last - first) * sizeof *x);
}

static void weight_task(void *context, int64_t task)
{
    struct window *w = context;
    const struct span s = span_of(w, task);
    const bool in_place = w->x->device->backend == CPU;
    float *x = in_place ? (float *)exec_at(w->x, weights_ref(w->x, w->param, w->begin)) + s.from
                        : w->room->floats + s.from;
    w->err[task] = (struct err){ 0 };
    w->ok[task] =
        make_runs(w->from, w->param, w->begin + s.from, w->begin + s.to, x, make_weights, &w->err[task]);
    if (w->ok[task] && !in_place)
        weight_forms(w, s, x);
}

static void put_weights(const struct window *w)
{
    struct exec *x = w->x;
    int64_t own, end;
    exec_put(x, weights_ref(x, w->param, w->begin), w->room->bytes, w->n * 2);
    if (w->first >= w->last || x->program->plan.numbers.master == MASTER_NONE)
        return;
    weights_owned(x, w->param, &own, &end);
    const int64_t each = plan_master_bytes(&x->program->plan, 1);
    exec_put(x, states_low_at(x, w->param, w->begin + w->first - own), w->room->low + w->first * each,
             (w->last - w->first) * each);
}

static bool fill_param(struct window *w, int param, struct err *e)
{
    int64_t own = 0, end = 0, stop;
    const bool owned = weights_owned(w->x, param, &own, &end);
    w->param = param;
    for (weights_held(w->x, param, &w->begin, &stop); w->begin < stop; w->begin += WINDOW) {
        w->n = stop - w->begin < WINDOW ? stop - w->begin : WINDOW;
        w->first = owned && own > w->begin ? own - w->begin : 0;
        w->last = owned ? end - w->begin : 0;
        w->last = w->last < w->n ? w->last : w->n;
        if (!run_window(w, weight_task, e))
            return false;
        if (w->x->device->backend != CPU)
            put_weights(w);
    }
    return true;
}

static bool fill_weights(struct exec *x, const struct weights_from *f, struct err *e)
{
    bool ok = true;
    struct room room;
    room_new(x, &room);
    struct window w = { .x = x, .from = f, .room = &room };
    for (int i = 0; i < f->list->n && ok; i++)
        ok = fill_param(&w, i, e);
    room_free(x, &room);
    return ok;
}

/* -- moments -- */
static bool make_exp_avg(const struct weights_from *f, int param, int64_t begin, int64_t end, float *out,
                         struct err *e)
{
    return ckpt_read_state(f->c, &f->list->item[param], begin, end, NULL, out, NULL, e);
}

static bool make_exp_avg_sq(const struct weights_from *f, int param, int64_t begin, int64_t end, float *out,
                            struct err *e)
{
    return ckpt_read_state(f->c, &f->list->item[param], begin, end, NULL, NULL, out, e);
}

static bool read_moment(const struct window *w, int64_t begin, int64_t end, float *out, struct err *e)
{
    return make_runs(w->from, w->param, begin, end, out, w->is_signed ? make_exp_avg : make_exp_avg_sq, e);
}

static bool read_codes(const struct window *w, int64_t begin, int64_t end, unsigned char *codes,
                       float *scales, struct err *e)
{
    const struct place *p = &w->from->layout->place[w->param];
    const struct ckpt_order order = { p->slices, p->run };
    return ckpt_read_codes(w->from->c, &w->from->list->item[w->param], &order, begin, end,
                           w->is_signed ? CKPT_EXP_AVG : CKPT_EXP_AVG_SQ, codes, scales, e);
}

/* Codes and scales of elements [s.from, s.to) of the window: as they were saved where a block has them. */
static bool make_codes(const struct window *w, struct span s, struct err *e)
{
    int64_t own, end;
    bool all = true;
    weights_owned(w->x, w->param, &own, &end);
    own += w->begin;
    unsigned char *codes = (unsigned char *)w->room->bytes + s.from;
    float *scales = (float *)w->room->low + s.from / ADAMW_BLOCK;
    if (!read_codes(w, own + s.from, own + s.to, codes, scales, e))
        return false;
    for (int64_t at = 0; at < s.to - s.from; at += ADAMW_BLOCK)
        all &= scales[at / ADAMW_BLOCK] >= 0;
    if (all)
        return true;
    float *x = w->room->floats + s.from;
    if (!read_moment(w, own + s.from, own + s.to, x, e))
        return false;
    for (int64_t at = 0; at < s.to - s.from; at += ADAMW_BLOCK) {
        const int64_t left = s.to - s.from - at, n = left < ADAMW_BLOCK ? left : ADAMW_BLOCK;
        if (scales[at / ADAMW_BLOCK] < 0)
            scales[at / ADAMW_BLOCK] = moments_encode(w->values, w->is_signed, x + at, n, codes + at);
    }
    return true;
}

static bool make_floats(const struct window *w, struct span s, struct err *e)
{
    int64_t own, end;
    weights_owned(w->x, w->param, &own, &end);
    own += w->begin;
    const bool in_place = w->x->device->backend == CPU;
    float *x = in_place ? (float *)exec_at(w->x, states_moment_at(w->x, w->param, w->is_signed, w->begin))
                        : w->room->floats;
    const enum dtype t = states_moment_dtype(w->x);
    if (!read_moment(w, own + s.from, own + s.to, x + s.from, e))
        return false;
    if (!in_place)
        num_from_float(w->room->bytes + s.from * (int64_t)num_dtype_bytes(t), x + s.from, t, s.to - s.from);
    return true;
}

static void moment_task(void *context, int64_t task)
{
    struct window *w = context;
    w->err[task] = (struct err){ 0 };
    w->ok[task] = (w->values ? make_codes : make_floats)(w, span_of(w, task), &w->err[task]);
}

static void put_moments(const struct window *w)
{
    struct exec *x = w->x;
    const struct ref to = states_moment_at(x, w->param, w->is_signed, w->begin);
    const int64_t each = w->values ? 1 : (int64_t)num_dtype_bytes(states_moment_dtype(x));
    exec_put(x, to, w->room->bytes, w->n * each);
    if (w->values)
        exec_put(x, states_scale_at(x, w->param, w->is_signed, w->begin / ADAMW_BLOCK), w->room->low,
                 (w->n + ADAMW_BLOCK - 1) / ADAMW_BLOCK * (int64_t)sizeof(float));
}

static bool fill_moment(struct window *w, int param, struct err *e)
{
    int64_t own, end;
    if (!weights_owned(w->x, param, &own, &end))
        return true;
    w->param = param;
    for (w->begin = 0; w->begin < end - own; w->begin += WINDOW) {
        w->n = end - own - w->begin < WINDOW ? end - own - w->begin : WINDOW;
        if (!run_window(w, moment_task, e))
            return false;
        if (w->x->device->backend != CPU)
            put_moments(w);
    }
    return true;
}

static bool fill_moments(struct exec *x, const struct weights_from *f, const float (*values)[256],
                         struct err *e)
{
    bool ok = true;
    struct room room;
    const bool bytes = x->program->plan.numbers.moments == MOMENTS_BYTE;
    room_new(x, &room);
    struct window w = { .x = x, .from = f, .room = &room };
    for (int which = 0; which < 2; which++) {
        w.is_signed = which == 0;
        w.values = bytes ? values[which] : NULL;
        for (int i = 0; i < f->list->n && ok; i++)
            ok = fill_moment(&w, i, e);
    }
    room_free(x, &room);
    return ok;
}

void weights_init(struct exec *x, int64_t seed)
{
    const struct weights_from f = { &x->program->graph->params, &x->program->layout, seed, NULL, false };
    struct err e = { 0 };
    if (x->device->fill)
        fill_on_device(x, seed);
    else
        fill_weights(x, &f, &e);
}

bool weights_load(struct exec *x, const struct ckpt *c, struct err *e)
{
    const struct weights_from f = { &x->program->graph->params, &x->program->layout, 0, c, false };
    return fill_weights(x, &f, e);
}

/* Weights are read in full precision: every rank needs the exact values of all that it holds. */
bool weights_load_state(struct exec *x, struct ckpt *c, struct err *e)
{
    float values[2][256];
    const struct weights_from f = { &x->program->graph->params, &x->program->layout, 0, c, true };
    moments_values(true, values[0]);
    moments_values(false, values[1]);
    ckpt_set_values(c, values[0], values[1]);
    const bool ok = fill_weights(x, &f, e) && fill_moments(x, &f, (const float(*)[256])values, e);
    ckpt_set_values(c, NULL, NULL);
    return ok;
}
