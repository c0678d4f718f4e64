/* stretch.c - see stretch.h. */
#include "run/stretch.h"
#include <stdio.h>

enum { FEWEST = 8 }; /* instructions: shorter ones gain nothing */

static bool launches_only(const struct instr *in)
{
    return in->kind == RUN_OP || in->kind == RUN_ZERO;
}

static int end_of(const struct list *list, int from)
{
    while (from < list->n && launches_only(&list->item[from]))
        from++;
    return from;
}

static void find(struct arena *a, struct exec *x, enum list_kind which)
{
    const struct list *list = &x->program->list[which];
    x->stretches[which] = ARENA_NEW(a, struct stretch, list->n / FEWEST + 1);
    for (int i = 0, to; i<list->n; i = to> i ? to : i + 1) {
        to = end_of(list, i);
        if (to - i >= FEWEST)
            x->stretches[which][x->n_stretches[which]++] = (struct stretch){ .from = i, .to = to };
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
        exec_launch(x, which, i);
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

static struct stretch *at(const struct exec *x, enum list_kind which, int from)
{
    for (int i = 0; i < x->n_stretches[which]; i++)
        if (x->stretches[which][i].from == from)
            return &x->stretches[which][i];
    return NULL;
}

int stretch_run(struct exec *x, enum list_kind which, int from)
{
    struct stretch *s = x->replays && !x->spent[which] ? at(x, which, from) : NULL;
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
