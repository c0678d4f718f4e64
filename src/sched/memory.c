/* memory.c - lifetimes of buffers -> offsets in one slab. Buffers that live throughout come first; the others
 * are placed largest first at the lowest offset that is free during their whole life. */
#include "base/str.h"
#include "sched/lanes.h"
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

/* All slots of a buffer. */
static int64_t room_of(const struct buffer *b)
{
    return aligned(b->bytes) * (b->slots ? b->slots : 1);
}

static void touch(struct program *p, struct ref r, int at)
{
    if (r.buffer < 0)
        return;
    struct buffer *b = &p->buffers[r.buffer];
    if (b->first < 0 || at < b->first)
        b->first = at;
    if (at > b->last)
        b->last = at;
}

static void touch_instr(struct program *p, const struct instr *i, int at)
{
    for (int j = 0; j < OP_ARGS; j++) {
        touch(p, i->arg[j], at);
        touch(p, i->grad[j], at);
    }
    for (int j = 0; j < 5; j++)
        touch(p, i->ref[j], at);
    touch(p, i->work, at);
}

/* A buffer of a loop that also lives outside it must survive all rounds. */
static void widen_over_loop(struct program *p, int begin, int end)
{
    for (int i = 0; i < p->n_buffers; i++) {
        struct buffer *b = &p->buffers[i];
        if (b->first < 0 || b->last < begin || b->first > end || (b->first > begin && b->last < end))
            continue;
        b->first = b->first > begin ? begin : b->first;
        b->last = b->last < end ? end : b->last;
    }
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

/* Of all instructions; what is under way beside others has its buffers for as long as it may be. */
static int touch_all(struct program *p, struct arena *a)
{
    int begin = 1;
    for (int k = 0; k < LISTS; k++) {
        const struct span *span = lanes_spans(a, p, (enum list_kind)k);
        for (int i = 0; i < p->list[k].n; i++) {
            touch_instr(p, &p->list[k].item[i], begin + span[i].first);
            if (span[i].last != span[i].first)
                touch_instr(p, &p->list[k].item[i], begin + span[i].last);
        }
        begin += p->list[k].n;
    }
    return begin;
}

static int lifetimes(struct program *p, struct arena *a)
{
    const int n = touch_all(p, a);
    int at;
    widen_slots(p);
    at = 1;
    for (int k = 0, begin = 0; k < LISTS; k++)
        for (int i = 0; i < p->list[k].n; i++, at++) {
            if (p->list[k].item[i].kind == RUN_ROUND)
                begin = at;
            else if (p->list[k].item[i].kind == RUN_ROUND_END)
                widen_over_loop(p, begin, at);
        }
    return n;
}

static const struct buffer *sorting; /* qsort has no context; lowering runs in one thread */

static int larger_first(const void *x, const void *y)
{
    const int i = *(const int *)x, j = *(const int *)y;
    const int64_t x_bytes = room_of(&sorting[i]), y_bytes = room_of(&sorting[j]);
    if (x_bytes != y_bytes)
        return x_bytes < y_bytes ? 1 : -1;
    return i < j ? -1 : i > j;
}

struct by_class {
    int64_t bytes[MEM_CLASSES];
};

/* Bytes by class at the moment when most is alive; the rest of the slab (gaps) counts as activations. */
static void classes_at_peak(struct program *p, struct arena *a, int n_times)
{
    struct by_class *change = ARENA_NEW(a, struct by_class, n_times + 1), live = { 0 };
    int64_t best = -1;
    for (int i = 0; i < p->n_buffers; i++) {
        const struct buffer *b = &p->buffers[i];
        if (b->first < 0)
            continue;
        change[b->first].bytes[b->class] += room_of(b);
        if (b->last < n_times)
            change[b->last + 1].bytes[b->class] -= room_of(b);
    }
    for (int t = 0; t < n_times; t++) {
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

void sched_assign(struct program *p, struct arena *a)
{
    const int n_times = lifetimes(p, a);
    int *order = ARENA_NEW(a, int, p->n_buffers), n = 0;
    int64_t base = 0, top;
    for (int i = 0; i < p->n_buffers; i++) {
        struct buffer *b = &p->buffers[i];
        if (b->last == INT_MAX) {
            b->at = base;
            base += room_of(b);
        } else if (b->first >= 0) {
            order[n++] = i;
        }
    }
    sorting = p->buffers;
    qsort(order, (size_t)n, sizeof *order, larger_first);
    top = base;
    struct places *places = places_new(a, n_times, base);
    for (int i = 0; i < n; i++) {
        struct buffer *b = &p->buffers[order[i]];
        b->at = places_put(places, room_of(b), b->first, b->last);
        top = b->at + room_of(b) > top ? b->at + room_of(b) : top;
    }
    p->memory.peak_bytes = top;
    classes_at_peak(p, a, n_times);
}

const char *const sched_kind_name[] = { "op",     "zero",   "route",         "round",          "round end",
                                        "send",   "return", "tensor gather", "tensor scatter", "parts",
                                        "reduce", "mirror", "pass out",      "pass in",        "norm",
                                        "gather" };

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
            for (int j = 0; j < 5; j++)
                print_ref(p, out, "r", x->ref[j]);
            if (x->after)
                str_addf(out, " after %d", x->after - 1);
            str_add(out, "\n");
        }
}
