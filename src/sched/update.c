/* update.c - the list that ends a step: sum the gradients over the replicas, take the norm, update the owned
 * ranges, send them to the others. Gradients stay: the next step writes over them.
 * The sums do not depend on the layout: gradients are added in a fixed binary tree over the ranks that
 * computed them, the norm is the sum of one double per chunk, each computed by exactly one rank. */
#include "graph/registry.h"
#include "sched/lower.h"
#include "sched/offload.h"

/* Per member of the group. On CUDA more, because a block costs the host some dozen calls: with 4 MB from each of two members
 * a step of V2-Lite had 7,500 blocks, and the host was what took the time. Behind the micro-batches there is much room. */
static int64_t staging_elements(const struct program *p, enum list_kind which, int members)
{
    const int64_t least = 1 << 18, all = which == LIST_UPDATE ? 1 << 26 : 1 << 24;
    return p->plan.numbers.backend == CPU || all / members < least ? least : all / members;
}

struct instr *lower_reduce(struct lower *l, enum list_kind which, const struct bucket *b, struct ref from,
                           struct ref to)
{
    struct program *p = l->p;
    const struct flat *f = &p->layout.flat[b->flat];
    struct instr *i = lower_emit(l, which, RUN_REDUCE, p->buffers[p->gradients[b->flat].buffer].name);
    int64_t most = 0;
    for (int m = 0; m < f->n_ranks; m++)
        most = f->cut[m + 1] - f->cut[m] > most ? f->cut[m + 1] - f->cut[m] : most;
    most = most < b->n_elements ? most : b->n_elements;
    i->flat = b->flat;
    i->first = b->first;
    i->n_elements = b->n_elements;
    i->ref[0] = from;
    i->ref[2] = to;
    i->n = most < staging_elements(p, which, f->n_ranks) ? most : staging_elements(p, which, f->n_ranks);
    i->ref[1] =
        (struct ref){ lower_buffer(l, "reduce staging", MEM_EXCHANGE,
                                   i->n * f->n_ranks * (int64_t)num_dtype_bytes(p->plan.numbers.gradient)),
                      0 };
    return i;
}

/* The sum of a node that reads a tied parameter, and that of the other one: over the ranks first, then of the two. */
static void add_apart(struct lower *l)
{
    struct program *p = l->p;
    const struct flat *f = &p->layout.flat[SHARED];
    const enum dtype t = p->plan.numbers.gradient;
    const int fine = layout_fine_of(f, f->index);
    if (f->n_ranks > 1)
        lower_reduce(l, LIST_UPDATE, &(struct bucket){ SHARED, 0, f->n_elements }, p->apart, p->apart);
    if (f->cut[fine] == f->cut[fine + 1])
        return;
    struct instr *i = lower_emit(l, LIST_UPDATE, RUN_PARTS, p->buffers[p->apart.buffer].name);
    i->n_parts = 1;
    i->add = 1;
    i->n = f->cut[fine + 1] - f->cut[fine];
    i->ref[0] = lower_at(p->apart, f->cut[fine], t);
    i->ref[1] = lower_at(p->gradients[SHARED], f->cut[fine], t);
}

/* In a pipeline the other one is at the other end. */
static void add_ends(struct lower *l)
{
    struct program *p = l->p;
    const struct flat *f = &p->layout.flat[SHARED];
    const int64_t n = f->n_elements, most = staging_elements(p, LIST_UPDATE, 2);
    struct instr *i = lower_emit(l, LIST_UPDATE, RUN_SUM_ENDS, p->buffers[p->gradients[SHARED].buffer].name);
    i->flat = SHARED;
    i->n_elements = n;
    i->n = n < most ? n : most;
    i->ref[0] = p->gradients[SHARED];
    i->ref[1] = (struct ref){ lower_buffer(l, "sum of ends, staging", MEM_EXCHANGE,
                                           i->n * 2 * (int64_t)num_dtype_bytes(p->plan.numbers.gradient)),
                              0 };
}

static void reduce_flat(struct lower *l, int which)
{
    struct program *p = l->p;
    const struct flat *f = &p->layout.flat[which];
    const struct ref all = p->gradients[which];
    if (f->n_elements == 0)
        return;
    if (f->n_ranks > 1 && ((!layout_shards_gradients(&p->plan, f) && !lower_reduces_early(l, which)) ||
                           lower_keeps_parts(l, which)))
        lower_reduce(l, LIST_UPDATE, &(struct bucket){ which, 0, f->n_elements }, all, all);
    if (which == SHARED)
        (p->layout.apart ? add_apart : add_ends)(l);
    if (f->n_ranks / f->n_shards > 1) {
        struct instr *i = lower_emit(l, LIST_UPDATE, RUN_MIRROR, p->buffers[all.buffer].name);
        i->flat = which;
        i->ref[0] = all;
    }
}

static void sum_parts(struct lower *l)
{
    const struct program *p = l->p;
    for (int k = 0; k < p->graph->params.n; k++) {
        const struct place *at = &p->layout.place[k];
        if (at->flat != EXPERT || at->begin == at->end)
            continue;
        struct instr *i = lower_emit(l, LIST_UPDATE, RUN_PARTS, p->graph->params.item[k].name);
        i->n_parts = l->n_parts;
        i->n = at->end - at->begin;
        i->ref[0] = l->parts[k];
        i->ref[1] = lower_at(p->gradients[EXPERT], at->at, p->plan.numbers.gradient);
    }
}

static bool mine(const struct layout *y, const struct chunk *c)
{
    const struct flat *f = &y->flat[c->flat];
    if (c->flat == SHARED && !y->home)
        return false;
    const int fine = layout_fine_of(f, f->index);
    return c->at >= f->cut[fine] && c->at < f->cut[fine + 1];
}

/* One call per run of chunks that are neighbours in memory and in the list of sums and have equal lengths. */
static void norm_sums(struct lower *l)
{
    const struct program *p = l->p;
    const struct layout *y = &p->layout;
    struct instr *i = lower_emit(l, LIST_UPDATE, RUN_ZERO, "norm sums");
    i->ref[0] = p->chunk_sums;
    i->n = y->n_chunks_total * (int64_t)sizeof(double);
    for (int k = 0, run; k < y->n_chunks; k += run) {
        const struct chunk *c = &y->chunk[k];
        run = 1;
        if (!mine(y, c))
            continue;
        while (k + run < y->n_chunks && c[run].n_elements == c->n_elements && c[run].flat == c->flat &&
               c[run].id == c->id + run && c[run].at == c->at + run * c->n_elements && mine(y, &c[run]))
            run++;
        i = lower_emit(l, LIST_UPDATE, RUN_OP, "gradient norm");
        i->op = &op_sqsum;
        i->arg[0] = lower_at(p->gradients[c->flat], c->at, p->plan.numbers.gradient);
        i->wide = p->plan.numbers.gradient == F32;
        i->arg[1] = p->chunk_sums;
        i->arg[1].at_bytes += c->id * (int64_t)sizeof(double);
        i->dim[0] = run;
        i->dim[1] = c->n_elements;
        i->attr[0] = (double)c->n_elements;
        lower_work(l, i);
    }
    i = lower_emit(l, LIST_UPDATE, RUN_NORM_SUM, "gradient norm");
    i->ref[0] = p->chunk_sums;
    i->ref[1] = p->control;
    i->n = y->n_chunks_total;
}

/* Of the first element of a parameter: the same number for every layout. */
static int64_t global_index(const struct graph *g, int param)
{
    enum { EVEN = 256 };
    int64_t index = 0;
    for (int i = 0; i < param; i++)
        index += (g->params.item[i].n_elements + EVEN - 1) / EVEN * EVEN;
    return index;
}

static void update_param(struct lower *l, int param, const struct adamw *o)
{
    const struct program *p = l->p;
    const struct place *at = &p->layout.place[param];
    const struct state *s = &p->state[param];
    if (s->begin >= s->end)
        return;
    struct instr *i = lower_emit(l, LIST_UPDATE, RUN_OP, p->graph->params.item[param].name);
    i->op = &op_adamw;
    const struct ref w = lower_at(p->weights[at->flat], s->begin, plan_float(&p->plan));
    const struct ref g = lower_at(p->gradients[at->flat], s->begin, p->plan.numbers.gradient);
    const struct ref low = p->plan.numbers.master == MASTER_NONE ? w : s->low;
    const struct ref arg[] = { w, s->exp_avg, s->exp_avg_sq, g,  p->control, low,
                               w, s->exp_avg, s->exp_avg_sq, low };
    for (int k = 0; k < (int)(sizeof arg / sizeof *arg); k++)
        i->arg[k] = arg[k];
    i->wide = p->plan.numbers.gradient == F32 ? 1u << 3 : 0;
    i->dim[0] = s->end - s->begin;
    i->dim[1] = 6;
    i->attr[0] = o->beta1;
    i->attr[1] = o->beta2;
    i->attr[2] = o->eps;
    i->attr[3] = p->graph->params.item[param].decay ? o->weight_decay : 0;
    i->attr[4] = (double)p->plan.numbers.master;
    i->attr[5] = (double)p->plan.numbers.moments;
    i->attr[6] = (double)(global_index(p->graph, param) + at->begin + s->begin - at->at);
    lower_work(l, i);
}

static bool is_gathered(const struct lower *l, int flat)
{
    const struct flat *f = &l->p->layout.flat[flat];
    return f->n_shards > 1 && f->n_elements && !layout_shards_weights(&l->p->plan, f);
}

/* What is gathered comes first: it travels while the rest is updated. */
static void update_flat(struct lower *l, int flat, const struct adamw *o)
{
    const struct program *p = l->p;
    offload_await(l, flat);
    for (int i = 0; i < p->graph->params.n; i++)
        if (p->layout.place[i].flat == flat) {
            update_param(l, i, o);
            offload_param(l, i);
        }
    if (!is_gathered(l, flat))
        return;
    struct instr *in = lower_emit(l, LIST_UPDATE, RUN_GATHER, p->buffers[p->weights[flat].buffer].name);
    in->flat = flat;
    in->n_elements = p->layout.flat[flat].n_elements;
    in->ref[0] = in->ref[1] = p->weights[flat];
}

void lower_update(struct lower *l, const struct adamw *o)
{
    if (l->n_parts > 1)
        sum_parts(l);
    for (int i = 0; i < FLATS; i++)
        reduce_flat(l, i);
    norm_sums(l);
    for (int i = 0; i < FLATS; i++)
        if (is_gathered(l, i))
            update_flat(l, i, o);
    for (int i = 0; i < FLATS; i++)
        if (!is_gathered(l, i))
            update_flat(l, i, o);
}
