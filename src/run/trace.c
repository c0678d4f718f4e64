/* trace.c - see trace.h. */
#include "run/trace.h"
#include "base/file.h"
#include "base/str.h"
#include <stdio.h>
#include <string.h>

enum { SHOWN_MICRO = 2, PIECE_BYTES = 1 << 16 };
enum row { ROW_COMPUTE, ROW_EXCHANGE, ROW_WAIT, ROWS };

struct hidden { /* micro-batches of a rank that are not shown */
    int64_t first, last;
    double begin_us, end_us;
};
struct trace {
    struct writer *file;
    struct str text;
    const struct program *const *program;
    int n_ranks;
    int64_t **live;      /* by rank: bytes by instruction */
    int64_t *live_shown; /* by rank */
    struct hidden *hidden;
    bool any;
    struct err err; /* of writing, told at the end */
};

static void flush(struct trace *t, size_t at_least)
{
    if (t->text.bytes < at_least)
        return;
    if (!t->err.code)
        file_put(t->file, t->text.text, t->text.bytes, &t->err);
    str_clear(&t->text);
}

static void begin_event(struct trace *t)
{
    flush(t, PIECE_BYTES);
    str_add(&t->text, t->any ? ",\n" : "\n");
    t->any = true;
}

static void name_rows(struct trace *t, int rank)
{
    static const char *const names[ROWS] = { "compute", "communication", "waiting" };
    begin_event(t);
    str_addf(&t->text,
             "{\"ph\": \"M\", \"name\": \"process_name\", \"pid\": %d, \"args\": {\"name\": \"rank %d\"}}",
             rank, rank);
    for (int i = 0; i < ROWS; i++) {
        begin_event(t);
        str_addf(&t->text,
                 "{\"ph\": \"M\", \"name\": \"thread_name\", \"pid\": %d, \"tid\": %d, \"args\": {\"name\": "
                 "\"%s\"}}",
                 rank, i, names[i]);
    }
}

struct trace *trace_open(struct arena *a, const char *path, const struct program *const *program, int n_ranks,
                         struct err *e)
{
    struct writer *file = file_create(path, e);
    if (!file)
        return NULL;
    struct trace *t = ARENA_NEW(a, struct trace, 1);
    *t = (struct trace){
        .file = file, .text = str_new(a, 16 * PIECE_BYTES), .program = program, .n_ranks = n_ranks
    };
    t->live = ARENA_NEW(a, int64_t *, n_ranks);
    t->live_shown = ARENA_NEW(a, int64_t, n_ranks);
    t->hidden = ARENA_NEW(a, struct hidden, n_ranks);
    str_add(&t->text, "{\"displayTimeUnit\": \"ms\", \"traceEvents\": [");
    for (int r = 0; r < n_ranks; r++) {
        const bool same = r > 0 && program[r] == program[r - 1];
        t->live[r] = same ? t->live[r - 1] : sched_live_bytes(a, program[r]);
        name_rows(t, r);
    }
    return t;
}

static const char *way_of(const struct instr *in)
{
    return in->both ? ".both" : in->backward ? ".bwd" : in->again ? ".again" : "";
}

static void add_bar(struct trace *t, int rank, enum row row, const char *name, double begin_us, double end_us)
{
    begin_event(t);
    str_addf(&t->text,
             "{\"ph\": \"X\", \"pid\": %d, \"tid\": %d, \"ts\": %.3f, \"dur\": %.3f, \"name\": ", rank,
             (int)row, begin_us, end_us - begin_us);
    str_add_json(&t->text, name, strlen(name));
    str_add(&t->text, "}");
}

static void add_memory(struct trace *t, int rank, int position, double at_us)
{
    const int64_t bytes = t->live[rank][position];
    if (bytes == t->live_shown[rank])
        return;
    t->live_shown[rank] = bytes;
    begin_event(t);
    str_addf(&t->text,
             "{\"ph\": \"C\", \"pid\": %d, \"ts\": %.3f, \"name\": \"memory\", \"args\": {\"bytes\": %lld}}",
             rank, at_us, (long long)bytes);
}

/* Is the event one of those that a single bar stands for? */
static bool hides(struct trace *t, const struct sim_event *e)
{
    struct hidden *h = &t->hidden[e->rank];
    const int64_t last = t->program[e->rank]->plan.accumulation - 1;
    if (t->program[e->rank]->plan.stages > 1)
        return false; /* they go to and fro */
    if (e->list == LIST_MICRO && e->micro >= SHOWN_MICRO && e->micro < last) {
        if (h->first == 0)
            *h = (struct hidden){ .first = e->micro, .begin_us = e->begin_us };
        h->last = e->micro;
        h->end_us = e->end_us > h->end_us ? e->end_us : h->end_us;
        return true;
    }
    if (h->first > 0) {
        char name[80];
        snprintf(name, sizeof name, "micro-batches %lld to %lld", (long long)h->first + 1,
                 (long long)h->last + 1);
        add_bar(t, e->rank, ROW_COMPUTE, name, h->begin_us, h->end_us);
        h->first = 0;
    }
    return false;
}

void trace_event(void *context, const struct sim_event *e)
{
    struct trace *t = context;
    if (e->rank >= t->n_ranks || hides(t, e))
        return;
    const struct program *p = t->program[e->rank];
    const struct instr *in = &p->list[e->list].item[e->index];
    char name[256];
    if (in->beside && e->waiting)
        return; /* compute goes on */
    snprintf(name, sizeof name, "%s%s %s", in->op ? in->op->name : sched_kind_name[in->kind],
             in->op ? way_of(in) : "", in->name);
    const enum cost_class class = sched_cost_class(in, e->list);
    const enum row row = e->waiting                                       ? ROW_WAIT
                         : class == COST_EXCHANGE || class == COST_REDUCE ? ROW_EXCHANGE
                                                                          : ROW_COMPUTE;
    int position = e->index; /* through all lists */
    for (int k = 0; k < (int)e->list; k++)
        position += p->list[k].n;
    add_memory(t, e->rank, position, e->begin_us);
    add_bar(t, e->rank, row, name, e->begin_us, e->end_us);
}

bool trace_publish(struct trace *t, struct err *e)
{
    str_add(&t->text, "\n]}\n");
    flush(t, 1);
    if (!t->err.code)
        return file_publish(t->file, e);
    file_drop(t->file);
    *e = t->err;
    return false;
}
