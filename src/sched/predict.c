/* predict.c - see predict.h. */
#include "sched/predict.h"
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

static double op_us(const struct instr *in, const struct cluster *c)
{
    double flops, bytes;
    sched_cost(in, &flops, &bytes);
    const double compute = flops / c->flops_per_s, memory = bytes / c->memory_bytes_per_s;
    return 1e6 * (compute > memory ? compute : memory) + c->call_us;
}

static double link_us(double bytes, int messages, const struct cluster *c)
{
    return 1e6 * bytes / c->link_bytes_per_s + messages * c->link_latency_us;
}

/* Routing is assumed even: the rows that leave a rank are (ep-1)/ep of its copies; one round. */
static double exchange_us(const struct program *p, const struct instr *in, const struct cluster *c)
{
    const int ep = p->plan.expert_parallel;
    const double rows = (double)p->plan.row_capacity / 1.5;
    const double copy = 1e6 * 2 * rows * (double)in->row_bytes / c->memory_bytes_per_s;
    return copy + link_us(rows * (double)in->row_bytes * (ep - 1) / ep, ep - 1, c);
}

/* Bytes that one member moves: everything it holds once out and once in, in the worst of the collectives. */
static double collective_us(const struct program *p, const struct instr *in, const struct cluster *c)
{
    const struct flat *f = &p->layout.flat[in->flat];
    const double bytes = 4.0 * (double)(in->kind == RUN_MIRROR ? f->n_elements : in->n_elements);
    int members = in->kind == RUN_REDUCE   ? f->n_ranks
                  : in->kind == RUN_GATHER ? f->n_shards
                                           : f->n_ranks / f->n_shards;
    return link_us(bytes * (members - 1) / members, members - 1, c) +
           (in->kind == RUN_REDUCE ? 1e6 * 2 * bytes / c->memory_bytes_per_s : 0);
}

/* Bytes that one member receives (gather) or sends (scatter): those of all others' tokens. */
static double tensor_us(const struct program *p, const struct instr *in, const struct cluster *c)
{
    const int others = p->plan.tensor_parallel - 1;
    const size_t each = in->kind == RUN_TENSOR_GATHER ? 1
                        : in->wide                    ? sizeof(float)
                                                      : num_dtype_bytes(plan_float(&p->plan));
    return link_us((double)in->n * (double)each * others, others, c);
}

static void add(const struct program *p, const struct cluster *c, enum list_kind which, double times,
                struct plan_cost *out)
{
    for (int i = 0; i < p->list[which].n; i++) {
        const struct instr *in = &p->list[which].item[i];
        switch (in->kind) {
        case RUN_OP:
            *(which == LIST_UPDATE ? &out->optimizer_us : &out->compute_us) += times * op_us(in, c);
            break;
        case RUN_ZERO:
            out->optimizer_us += times * 1e6 * (double)in->n / c->memory_bytes_per_s;
            break;
        case RUN_SEND:
        case RUN_RETURN:
            out->exchange_us += times * exchange_us(p, in, c);
            break;
        case RUN_ROUTE:
            out->exchange_us += times * link_us((double)in->n * 4, p->plan.expert_parallel - 1, c);
            break;
        case RUN_REDUCE:
        case RUN_MIRROR:
        case RUN_GATHER:
            out->reduce_us += times * collective_us(p, in, c);
            break;
        case RUN_NORM_SUM:
            out->reduce_us +=
                times * (p->plan.n_ranks > 1 ? link_us((double)in->n * 8, p->plan.n_ranks - 1, c) : 0);
            break;
        case RUN_TENSOR_GATHER:
        case RUN_TENSOR_SCATTER:
            out->exchange_us += times * tensor_us(p, in, c);
            break;
        case RUN_PARTS:
            out->optimizer_us += times * 1e6 * (double)in->n * 4 * in->n_parts / c->memory_bytes_per_s;
            break;
        case RUN_PASS_IN:
            out->exchange_us += times * link_us((double)in->n, 1, c);
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
