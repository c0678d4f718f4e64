/* memory.c - lifetimes of buffers -> offsets in one slab. Buffers that live throughout come first; the others
 * are placed largest first at the lowest offset that is free during their whole life. */
#include "base/str.h"
#include "sched/lanes.h"
#include "sched/life.h"
#include "sched/place.h"
#include "sched/sched.h"
#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum { SLAB_ALIGN = 256 }; /* what libraries ask of a workspace */

static int64_t aligned(int64_t bytes)
{
    return (bytes + SLAB_ALIGN - 1) / SLAB_ALIGN * SLAB_ALIGN;
}

int64_t sched_room(const struct buffer *b)
{
    return b->lodges ? 0 : aligned(b->bytes) * (b->slots ? b->slots : 1);
}

static void list_ref(struct ref r, int *out, int *n)
{
    if (r.buffer >= 0)
        out[(*n)++] = r.buffer;
}

int sched_buffers(const struct instr *i, int out[INSTR_BUFFERS])
{
    int n = 0;
    for (int j = 0; j < OP_ARGS; j++) {
        list_ref(i->arg[j], out, &n);
        list_ref(i->grad[j], out, &n);
    }
    for (int j = 0; j < INSTR_REFS; j++)
        list_ref(i->ref[j], out, &n);
    list_ref(i->work, out, &n);
    return n;
}

void life_touch(struct life *l, int at)
{
    l->first = l->first < 0 || at < l->first ? at : l->first;
    l->last = at > l->last ? at : l->last;
}

int life_each(struct arena *a, const struct program *p, life_touched *f, void *context)
{
    int begin = 1, named[INSTR_BUFFERS];
    for (int k = 0; k < LISTS; k++) {
        const struct span *span = lanes_spans(a, p, (enum list_kind)k);
        for (int i = 0; i < p->list[k].n; i++)
            for (int n = sched_buffers(&p->list[k].item[i], named); n > 0; n--) {
                f(context, named[n - 1], begin + span[i].first);
                if (span[i].last != span[i].first)
                    f(context, named[n - 1], begin + span[i].last);
            }
        begin += p->list[k].n;
    }
    return begin;
}

struct loop *life_loops(struct arena *a, const struct program *p)
{
    struct loop *loop = ARENA_NEW(a, struct loop, p->n_moments);
    int at = 1;
    for (int k = 0, begin = 0; k < LISTS; k++)
        for (int i = 0; i < p->list[k].n; i++, at++) {
            if (p->list[k].item[i].kind == RUN_ROUND)
                begin = at;
            for (int t = begin; p->list[k].item[i].kind == RUN_ROUND_END && t <= at; t++)
                loop[t] = (struct loop){ begin, at };
        }
    return loop;
}

static void widen_over(struct life *l, struct loop loop)
{
    if (loop.end == 0 || (l->first > loop.begin && l->last < loop.end))
        return;
    l->first = l->first > loop.begin ? loop.begin : l->first;
    l->last = l->last < loop.end ? loop.end : l->last;
}

struct life life_widened(struct life l, const struct loop *loop, int n_moments)
{
    if (l.first < 0)
        return l;
    widen_over(&l, loop[l.first]);
    if (l.last < n_moments)
        widen_over(&l, loop[l.last]);
    return l;
}

/* Slots are in use whenever any micro-batch is under way. */
static void widen_slots(struct program *p)
{
    for (int i = 0; i < p->n_buffers; i++) {
        struct buffer *b = &p->buffers[i];
        b->slot_bytes = aligned(b->bytes);
        if (b->slots == 0 || b->last == INT_MAX)
            continue;
        b->first = 1;
        b->last = b->last > p->list[LIST_MICRO].n ? b->last : p->list[LIST_MICRO].n;
    }
}

static void touch(void *context, int buffer, int at)
{
    struct buffer *b = &((struct program *)context)->buffers[buffer];
    struct life l = { b->first, b->last };
    life_touch(&l, at);
    b->first = l.first;
    b->last = l.last;
}

void sched_lifetimes(struct program *p, struct arena *a)
{
    p->n_moments = life_each(a, p, touch, p);
    widen_slots(p);
    const struct loop *loop = life_loops(a, p);
    for (int i = 0; i < p->n_buffers; i++) {
        struct buffer *b = &p->buffers[i];
        const struct life l = life_widened((struct life){ b->first, b->last }, loop, p->n_moments);
        b->first = l.first;
        b->last = l.last;
    }
}

struct item { /* to be placed */
    int64_t bytes;
    int buffer;
};

static int larger_first(const void *x, const void *y)
{
    const struct item *i = x, *j = y;
    if (i->bytes != j->bytes)
        return i->bytes < j->bytes ? 1 : -1;
    return i->buffer < j->buffer ? -1 : i->buffer > j->buffer;
}

struct by_class {
    int64_t bytes[MEM_CLASSES];
};

/* Bytes by class at the moment when most is alive; the rest of the slab (gaps) counts as activations. */
static void classes_at_peak(struct program *p, struct arena *a)
{
    struct by_class *change = ARENA_NEW(a, struct by_class, p->n_moments + 1), live = { 0 };
    int64_t best = -1;
    for (int i = 0; i < p->n_buffers; i++) {
        const struct buffer *b = &p->buffers[i];
        if (b->first < 0)
            continue;
        change[b->first].bytes[b->class] += sched_room(b);
        if (b->last < p->n_moments)
            change[b->last + 1].bytes[b->class] -= sched_room(b);
    }
    for (int t = 0; t < p->n_moments; t++) {
        int64_t sum = 0;
        for (int k = 0; k < MEM_CLASSES; k++)
            sum += live.bytes[k] += change[t].bytes[k];
        if (sum > best) {
            best = sum;
            memcpy(p->memory.class_bytes, live.bytes, sizeof live.bytes);
        }
    }
    p->memory.class_bytes[MEM_ACTIVATIONS] += p->memory.peak_bytes - best;
}

int64_t sched_alive_bytes(struct arena *a, const struct program *p)
{
    int64_t *change = ARENA_NEW(a, int64_t, p->n_moments + 1), most = 0, alive = 0;
    for (int i = 0; i < p->n_buffers; i++) {
        const struct buffer *b = &p->buffers[i];
        if (b->first < 0)
            continue;
        change[b->first] += sched_room(b);
        if (b->last < p->n_moments)
            change[b->last + 1] -= sched_room(b);
    }
    for (int t = 0; t < p->n_moments; t++) {
        alive += change[t];
        most = alive > most ? alive : most;
    }
    return most;
}

void sched_assign(struct program *p, struct arena *a)
{
    struct item *order = ARENA_NEW(a, struct item, p->n_buffers);
    int n = 0;
    int64_t base = 0, top;
    for (int i = 0; i < p->n_buffers; i++) {
        struct buffer *b = &p->buffers[i];
        if (b->last == INT_MAX) {
            b->at = base;
            base += sched_room(b);
        } else if (b->first >= 0 && !b->lodges) {
            order[n++] = (struct item){ sched_room(b), i };
        }
    }
    qsort(order, (size_t)n, sizeof *order, larger_first);
    top = base;
    struct places *places = places_new(a, p->n_moments, base);
    for (int i = 0; i < n; i++) {
        struct buffer *b = &p->buffers[order[i].buffer];
        b->at = places_put(places, order[i].bytes, b->first, b->last);
        top = b->at + order[i].bytes > top ? b->at + order[i].bytes : top;
    }
    for (int i = 0; i < p->n_buffers; i++)
        if (p->buffers[i].lodges)
            p->buffers[i].at = p->buffers[p->buffers[i].lodges - 1].at + p->buffers[i].lodges_at;
    p->memory.peak_bytes = top;
    classes_at_peak(p, a);
}

const char *const sched_kind_name[] = { "op",         "zero",          "route",          "round",
                                        "round end",  "send",          "return",         "pack",
                                        "unpack",     "tensor gather", "tensor scatter", "parts",
                                        "reduce",     "mirror",        "sum of ends",    "pass out",
                                        "pass in",    "norm",          "to host",        "from host",
                                        "await host", "gather" };

static void print_ref(const struct program *p, struct str *out, const char *label, struct ref r)
{
    if (r.buffer >= 0)
        str_addf(out, " %s@%lld", label, (long long)p->buffers[r.buffer].at + r.at_bytes);
}

void sched_print(const struct program *p, struct str *out)
{
    static const char *const list_name[LISTS] = { "micro", "update", "eval", "tree" };
    for (int k = 0; k < LISTS; k++)
        for (int i = 0; i < p->list[k].n; i++) {
            const struct instr *x = &p->list[k].item[i];
            str_addf(out, "%s %d%s %s%s %s", list_name[k], i,
                     x->beside ? " beside"
                     : x->once ? " once"
                               : "",
                     x->op ? x->op->name : sched_kind_name[x->kind],
                     x->op && x->op->bwd[CPU] ? (x->both       ? ".both"
                                                 : x->backward ? ".bwd"
                                                               : ".fwd")
                                              : "",
                     x->name);
            for (int j = 0; j < OP_ARGS; j++) {
                print_ref(p, out, "a", x->arg[j]);
                print_ref(p, out, "g", x->grad[j]);
            }
            for (int j = 0; j < INSTR_REFS; j++)
                print_ref(p, out, "r", x->ref[j]);
            if (x->after)
                str_addf(out, " after %d", x->after - 1);
            str_add(out, "\n");
        }
}
