/* lanes.c - see lanes.h. */
#include "sched/lanes.h"
#include "sched/access.h"

struct maker {
    const struct program *p;
    struct instr *item; /* of the list */
    struct section section;
    struct access *access; /* of all instructions of the list */
    int *at;               /* by instruction: its first one */
    int *side, n_side;     /* of the section: those beside, so far */
    int waited;            /* by compute: instructions beside below this index have ended */
    int head, loop_side;   /* of the loop: where it begins, and the last beside; -1: outside */
    int due;               /* what the next instruction of compute waits for, whatever it does; -1: nothing */
    int reduced;           /* the last that nobody may need for long; -1: none */
};

static bool goes_beside(enum instr_kind kind)
{
    switch (kind) {
    case RUN_ROUTE:
    case RUN_SEND:
    case RUN_RETURN:
    case RUN_TENSOR_GATHER:
    case RUN_TENSOR_SCATTER:
    case RUN_REDUCE:
    case RUN_MIRROR:
    case RUN_SUM_ENDS:
    case RUN_GATHER:
        return true;
    default: /* the host passes messages and sums norms itself */
        return false;
    }
}

static bool lingers(enum instr_kind kind)
{
    return kind == RUN_REDUCE || kind == RUN_MIRROR || kind == RUN_GATHER;
}

int lanes_sections(const struct program *p, enum list_kind which, struct section *out)
{
    int n = 0;
    if (p->plan.stages == 1 || which == LIST_UPDATE || which == LIST_TREE) {
        out[0] = (struct section){ 0, p->list[which].n };
        return 1;
    }
    for (int c = 0; c < p->plan.chunks; c++)
        out[n++] = which == LIST_EVAL ? p->eval[c] : p->forward[c];
    for (int c = p->plan.chunks - 1; c >= 0 && which == LIST_MICRO; c--)
        out[n++] = p->backward[c];
    return n;
}

static bool conflict(const struct maker *m, int i, int k)
{
    return access_conflict(m->access + m->at[i], m->at[i + 1] - m->at[i], m->access + m->at[k],
                           m->at[k + 1] - m->at[k]);
}

/* What runs in the first round alone may be held back by nothing else of the loop, nor hold it back: it is not there in
 * the other rounds. */
static void check_once(const struct maker *m, int tail)
{
    for (int i = m->head; i < tail; i++)
        for (int k = m->head; m->item[i].once && k < tail; k++)
            CHECK(m->item[k].once || !conflict(m, i, k), "%s needs %s, which runs in every round",
                  m->item[i].name, m->item[k].name);
}

/* In some micro-batches alone (offload.h): nobody may wait by it for what every micro-batch needs. */
static bool is_rare(const struct instr *in)
{
    return !in->beside && (in->start || in->last);
}

/* The instruction of compute in front of it that is there as often, at least. */
static void order_beside(struct maker *m, int i)
{
    struct instr *in = &m->item[i];
    int k = i - 1;
    while (k >= m->section.from &&
           (m->item[k].beside || is_rare(&m->item[k]) || (m->item[k].once && !in->once))) {
        CHECK(!is_rare(&m->item[k]) || !conflict(m, i, k), "%s needs %s, which is not always there", in->name,
              m->item[k].name);
        k--;
    }
    in->after = k < m->section.from ? 0 : k + 1;
    m->side[m->n_side++] = i;
    CHECK(!in->last || m->head < 0, "%s: the last time alone, inside a loop", in->name);
    if (m->head >= 0 && !in->once)
        m->loop_side = i;
    if (!lingers(in->kind) || in->last)
        return;
    m->due = m->reduced;
    m->reduced = i;
}

static void order_compute(struct maker *m, int i)
{
    struct instr *in = &m->item[i];
    int last = in->kind == RUN_ROUND_END ? m->loop_side : -1;
    if (!in->once && !is_rare(in) && m->due > last)
        last = m->due;
    for (int k = m->n_side - 1; k >= 0 && m->side[k] >= m->waited && m->side[k] > last; k--)
        if (conflict(m, i, m->side[k])) {
            CHECK(!m->item[m->side[k]].last, "%s needs %s, which runs the last time alone", in->name,
                  m->item[m->side[k]].name);
            last = m->side[k];
        }
    in->after = last < m->waited ? 0 : last + 1;
    if (in->once || is_rare(in))
        return;
    m->due = -1;
    if (last >= m->waited)
        m->waited = last + 1;
}

static void order_section(struct maker *m)
{
    m->n_side = 0;
    m->waited = m->section.from;
    m->head = m->loop_side = m->due = m->reduced = -1;
    for (int i = m->section.from; i < m->section.to; i++) {
        struct instr *in = &m->item[i];
        if (in->beside)
            order_beside(m, i);
        else
            order_compute(m, i);
        if (in->kind == RUN_ROUND)
            m->head = i;
        if (in->kind != RUN_ROUND_END)
            continue;
        check_once(m, i);
        m->head = m->loop_side = -1;
    }
}

static void set_marks(struct program *p, struct list *list)
{
    for (int i = 0; i < list->n; i++) {
        const int after = list->item[i].after;
        if (after && !list->item[after - 1].mark)
            list->item[after - 1].mark = ++p->n_marks;
    }
}

static void list_accesses(struct arena *a, const struct program *p, const struct list *list, struct maker *m)
{
    struct access one[ACCESSES];
    int capacity = 0;
    m->at = ARENA_NEW(a, int, list->n + 1);
    for (int i = 0; i < list->n; i++)
        capacity += access_list(p, &list->item[i], one);
    m->access = ARENA_NEW(a, struct access, capacity + ACCESSES);
    for (int i = 0; i < list->n; i++)
        m->at[i + 1] = m->at[i] + access_list(p, &list->item[i], m->access + m->at[i]);
}

void lanes_make(struct program *p, struct arena *a)
{
    struct section section[2 * PLAN_CHUNKS];
    for (int k = 0; p->plan.overlap && k < LISTS; k++) {
        struct list *list = &p->list[k];
        bool any = false;
        for (int i = 0; i < list->n; i++)
            any |= list->item[i].beside = goes_beside(list->item[i].kind);
        if (!any)
            continue;
        struct maker m = { .p = p, .item = list->item, .side = ARENA_NEW(a, int, list->n) };
        list_accesses(a, p, list, &m);
        const int n = lanes_sections(p, (enum list_kind)k, section);
        for (int s = 0; s < n; s++) {
            m.section = section[s];
            order_section(&m);
        }
        set_marks(p, list);
    }
}

/* Whether `waiting`, where it runs at all, holds compute back until instruction i beside has ended. */
static bool ends(const struct instr *item, int i, int waiting)
{
    return !item[waiting].beside && item[waiting].after > i && !is_rare(&item[waiting]) &&
           (item[i].once || !item[waiting].once);
}

struct span *lanes_spans(struct arena *a, const struct program *p, enum list_kind which)
{
    const struct list *list = &p->list[which];
    struct section section[2 * PLAN_CHUNKS];
    struct span *out = ARENA_NEW(a, struct span, list->n + 1);
    const int n = lanes_sections(p, which, section);
    for (int i = 0; i < list->n; i++)
        out[i] = (struct span){ i, i };
    for (int s = 0; s < n; s++)
        for (int i = section[s].from; i < section[s].to; i++) {
            const struct instr *in = &list->item[i];
            if (!in->beside)
                continue;
            out[i].first = in->after ? in->after : section[s].from;
            while (out[i].last + 1 < section[s].to && !ends(list->item, i, out[i].last + 1))
                out[i].last++;
        }
    return out;
}
