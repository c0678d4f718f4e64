/* stretch.c - see stretch.h. */
#include "run/stretch.h"
#include <stdio.h>

enum { FEWEST = 8 }; /* instructions: shorter ones gain nothing */

static bool launches_only(const struct instr *in)
{
    return (in->kind == RUN_OP || in->kind == RUN_ZERO) && !in->anew;
}

/* Sections are run apart. */
static bool begins_section(const struct program *p, enum list_kind which, int at)
{
    for (int c = 0; c < p->plan.chunks; c++)
        if (which == LIST_MICRO ? at == p->forward[c].from || at == p->backward[c].from
                                : which == LIST_EVAL && at == p->eval[c].from)
            return p->plan.stages > 1;
    return false;
}

/* Waiting for the other lane comes in front of a stretch, what the other one waits for behind it; instructions of the first
 * round alone have their own. */
static bool goes_on(const struct program *p, enum list_kind which, int at)
{
    const struct instr *in = &p->list[which].item[at];
    return !begins_section(p, which, at) && !in->after && !in[-1].mark && in->once == in[-1].once;
}

static int end_of(const struct program *p, enum list_kind which, int from)
{
    const struct list *list = &p->list[which];
    int to = from;
    while (to < list->n && launches_only(&list->item[to]) && (to == from || goes_on(p, which, to)))
        to++;
    return to;
}

static bool begins_sums(const struct list *list, int from, int to)
{
    for (int i = from; i < to; i++)
        if (list->item[i].first_writes)
            return true;
    return false;
}

static void find(struct arena *a, struct exec *x, enum list_kind which)
{
    const struct list *list = &x->program->list[which];
    x->stretches[which] = ARENA_NEW(a, struct stretch, 2 * (list->n / FEWEST + 1) * x->n_slots[which]);
    for (int i = 0, to; i<list->n; i = to> i ? to : i + 1) {
        to = end_of(x->program, which, i);
        for (int64_t slot = 0; to - i >= FEWEST && slot < x->n_slots[which]; slot++)
            for (int first = 0; first <= (begins_sums(list, i, to) ? 1 : 0); first++)
                x->stretches[which][x->n_stretches[which]++] =
                    (struct stretch){ .from = i, .to = to, .slot = slot, .first = first };
    }
}

void stretch_new(struct arena *a, struct exec *x, bool must)
{
    if (!x->device->record_begin)
        return;
    for (int k = 0; k < LISTS; k++)
        find(a, x, (enum list_kind)k);
    x->replays = true;
    x->must_replay = must;
}

void stretch_free(struct exec *x)
{
    for (int k = 0; k < LISTS; k++)
        for (int i = 0; i < x->n_stretches[k]; i++)
            if (x->stretches[k][i].record)
                x->device->forget(x->stretches[k][i].record);
}

static void launch(struct exec *x, enum list_kind which, const struct stretch *s)
{
    for (int i = s->from; i < s->to; i++)
        exec_launch(x, which, i, s->first);
}

static void record(struct exec *x, enum list_kind which, struct stretch *s)
{
    struct err e = { 0 };
    const int64_t before = x->device->used();
    x->device->record_begin();
    launch(x, which, s);
    s->record = x->device->record_end(&e);
    if (s->record) {
        x->n_records++;
        x->record_bytes += x->device->used() - before;
        return;
    }
    if (x->must_replay)
        die("--graphs on: %s", e.text);
    s->fails = true;
    fprintf(stderr, "CUDA graphs: %s; %d instructions from %s on are launched one by one\n", e.text,
            s->to - s->from, x->program->list[which].item[s->from].name);
}

/* The one for the first micro-batch stands behind the other. */
static struct stretch *at(const struct exec *x, enum list_kind which, int from, bool first)
{
    struct stretch *found = NULL;
    for (int i = 0; i < x->n_stretches[which]; i++) {
        struct stretch *s = &x->stretches[which][i];
        if (s->from == from && s->slot == x->slot && (first || !s->first))
            found = s;
    }
    return found;
}

int stretch_run(struct exec *x, enum list_kind which, int from, bool first)
{
    struct stretch *s = x->replays && !x->spent[which] ? at(x, which, from, first) : NULL;
    if (!s)
        return from;
    if (s->ran && !s->record && !s->fails)
        record(x, which, s);
    if (s->record)
        x->device->replay(s->record);
    else
        launch(x, which, s);
    s->ran = true;
    return s->to;
}
