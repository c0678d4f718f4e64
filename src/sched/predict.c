/* predict.c - see predict.h. */
#include "sched/predict.h"
#include <math.h>
#include <string.h>

void sched_cost(const struct instr *in, double *flops, double *bytes)
{
    double f[2] = { 0 }, b[2] = { 0 };
    struct call call = { 0 };
    memcpy(call.dim, in->dim, sizeof call.dim);
    memcpy(call.attr, in->attr, sizeof call.attr);
    in->op->cost(&call, f, b);
    const double part = in->again && in->op->saved_again[CPU] ? in->op->saved_again_part : 1;
    *flops = part * f[in->backward] + (in->both ? f[0] : 0);
    *bytes = part * b[in->backward] + (in->both ? b[0] : 0);
}

static int64_t dim_named(const struct node *n, int letter)
{
    return letter >= 0 ? n->dim[letter] : 0;
}

/* Rows sorted by expert that a call really has, routing being even: those of the tokens, and half a tile for each
 * segment. Its sizes are capacities. Letter of the rows, or -1. */
static int real_rows(const struct program *p, const struct instr *in, int64_t *rows)
{
    const struct node *n = in->node >= 0 ? &p->graph->nodes[in->node] : NULL;
    for (int j = 0; n && j < n->anno->n_args; j++)
        for (int k = 0; k < n->anno->arg[j].n_dims; k++) {
            const struct anno_dim *d = &n->anno->arg[j].dim[k];
            if (d->rows_of < 0 || strcmp(n->anno->letter[d->rows_of], "n") == 0)
                continue;
            const int64_t pads = p->plan.tile > 1 ? dim_named(n, d->rows_of) * p->plan.tile / 2 : 0;
            *rows = n->dim[d->letter] / plan_workers(&p->plan) + pads;
            return d->letter;
        }
    return -1;
}

/* Of all rounds together. */
static double op_us(const struct program *p, const struct instr *in, const struct cluster *c)
{
    double flops, bytes;
    int64_t rows;
    struct instr real = *in;
    const int letter = real_rows(p, in, &rows);
    const double capacity = letter >= 0 ? (double)in->dim[letter] : 0;
    if (letter >= 0)
        real.dim[letter] = rows;
    const double rounds = p->plan.expert_parallel > 1 && letter >= 0 ? ceil((double)rows / capacity) : 1;
    sched_cost(&real, &flops, &bytes);
    const double compute = flops / c->flops_per_s, memory = bytes / c->memory_bytes_per_s;
    return 1e6 * (compute > memory ? compute : memory) + rounds * c->call_us;
}

static double link_us(double bytes, int messages, const struct link *l, enum transfer kind)
{
    return 1e6 * bytes / l->bytes_per_s[kind] + messages * l->latency_us;
}

/* Links of the groups of `members` ranks at a distance of `stride`. */
static const struct link *links_of(const struct program *p, const struct cluster *c, int members, int stride)
{
    return cluster_link(c, (int64_t)members * stride, p->plan.n_ranks);
}

/* Routing is assumed even: the rows that leave a rank are (ep-1)/ep of its copies. */
static double exchange_us(const struct program *p, const struct instr *in, const struct cluster *c)
{
    const int ep = p->plan.expert_parallel;
    int64_t rows = 0;
    if (real_rows(p, in, &rows) < 0)
        rows = p->plan.row_capacity;
    const double rounds = ceil((double)rows / (double)p->plan.row_capacity),
                 bytes = (double)rows * (double)in->row_bytes;
    return 1e6 * 2 * bytes / c->memory_bytes_per_s +
           link_us(bytes * (ep - 1) / ep, (int)rounds * (ep - 1), links_of(p, c, ep, 1), TRANSFER_EXCHANGE);
}

/* Bytes that one member moves: everything it holds once out and once in, in the worst of the collectives. */
static double collective_us(const struct program *p, const struct instr *in, const struct cluster *c)
{
    const struct flat *f = &p->layout.flat[in->flat];
    const bool gather = in->kind == RUN_GATHER;
    const enum dtype t = gather ? plan_float(&p->plan) : p->plan.numbers.gradient;
    const int64_t n = in->kind == RUN_MIRROR ? f->n_elements : in->n_elements;
    const double bytes = (double)n * (double)num_dtype_bytes(t);
    const int members = in->kind == RUN_REDUCE ? f->n_ranks : gather ? f->n_shards : f->n_ranks / f->n_shards;
    const int stride = in->kind == RUN_MIRROR ? f->stride * f->n_shards : f->stride;
    return link_us(bytes * (members - 1) / members, members - 1, links_of(p, c, members, stride),
                   in->kind == RUN_REDUCE ? TRANSFER_REDUCE : TRANSFER_GATHER) +
           (in->kind == RUN_REDUCE ? 1e6 * 2 * bytes / c->memory_bytes_per_s : 0);
}

/* Bytes that one member receives (gather) or sends (scatter): those of all others' tokens. */
static double tensor_us(const struct program *p, const struct instr *in, const struct cluster *c)
{
    const int others = p->plan.tensor_parallel - 1;
    const bool gather = in->kind == RUN_TENSOR_GATHER;
    const size_t each = gather ? 1 : in->wide ? sizeof(float) : num_dtype_bytes(plan_float(&p->plan));
    return link_us((double)in->n * (double)each * others, others, links_of(p, c, others + 1, 1),
                   gather ? TRANSFER_GATHER : TRANSFER_REDUCE);
}

static void add(const struct program *p, const struct cluster *c, enum list_kind which, double times,
                struct plan_cost *out)
{
    for (int i = 0; i < p->list[which].n; i++) {
        const struct instr *in = &p->list[which].item[i];
        switch (in->kind) {
        case RUN_OP:
            *(which == LIST_UPDATE ? &out->optimizer_us : &out->compute_us) += times * op_us(p, in, c);
            break;
        case RUN_ZERO:
            out->optimizer_us += times * 1e6 * (double)in->n / c->memory_bytes_per_s;
            break;
        case RUN_SEND:
        case RUN_RETURN:
            out->exchange_us += times * exchange_us(p, in, c);
            break;
        case RUN_ROUTE:
            out->exchange_us +=
                times * link_us((double)in->n * 4, p->plan.expert_parallel - 1,
                                links_of(p, c, p->plan.expert_parallel, 1), TRANSFER_EXCHANGE);
            break;
        case RUN_REDUCE:
        case RUN_MIRROR:
        case RUN_GATHER:
            out->reduce_us += times * collective_us(p, in, c);
            break;
        case RUN_NORM_SUM:
            if (p->plan.n_ranks > 1)
                out->reduce_us += times * link_us((double)in->n * 8, p->plan.n_ranks - 1,
                                                  links_of(p, c, p->plan.n_ranks, 1), TRANSFER_GATHER);
            break;
        case RUN_TENSOR_GATHER:
        case RUN_TENSOR_SCATTER:
            out->exchange_us += times * tensor_us(p, in, c);
            break;
        case RUN_PARTS:
            out->optimizer_us += times * 1e6 * (double)in->n * 4 * in->n_parts / c->memory_bytes_per_s;
            break;
        case RUN_PASS_IN:
            out->exchange_us += times * link_us((double)in->n, 1, links_of(p, c, 2, plan_workers(&p->plan)),
                                                TRANSFER_EXCHANGE);
            break;
        case RUN_PASS_OUT:
        case RUN_ROUND:
        case RUN_ROUND_END:
            break;
        }
    }
}

void sched_predict(const struct program *p, const struct cluster *c, struct plan_cost *out)
{
    *out = (struct plan_cost){ 0 };
    add(p, c, LIST_MICRO, (double)p->plan.accumulation, out);
    add(p, c, LIST_UPDATE, 1, out);
    /* The first micro-batch reaches the last stage, and the last one comes back, while others wait. */
    out->bubble_us = (out->compute_us + out->exchange_us) * (p->plan.stages - 1) /
                     (double)(p->plan.accumulation * p->plan.chunks);
    out->step_us = out->compute_us + out->exchange_us + out->reduce_us + out->optimizer_us + out->bubble_us;
}
