/* price.c - what an instruction takes (predict.h). */
#include "plan/uneven.h"
#include "sched/predict.h"
#include <math.h>
#include <string.h>

static double output_bytes(const struct graph *g, const struct instr *in)
{
    const struct anno *a = g->nodes[in->node].anno;
    int64_t n = 0;
    for (int j = a->n_inputs; j < a->n_args; j++)
        n += anno_elements(a, j, in->dim);
    return (double)n * sizeof(float); /* as records count */
}

void sched_cost(const struct graph *g, const struct instr *in, double *flops, double *bytes)
{
    double f[2], b[2];
    if (in->again && in->op->again[CPU]) {
        *flops = 0;
        *bytes = output_bytes(g, in);
        return;
    }
    op_cost(in->op, in->dim, in->attr, f, b);
    const double part = in->again && in->op->saved_again[CPU] ? in->op->saved_again_part : 1;
    *flops = part * f[in->backward] + (in->both ? f[0] : 0);
    *bytes = part * b[in->backward] + (in->both ? b[0] : 0);
}

/* Attributes that say nothing about the time: where the elements of a call stand among all. */
static bool is_position(const char *attrs, int index)
{
    const char *at = attrs ? attrs : "";
    for (int i = 0; i < index && at; i++)
        at = (at = strchr(at, ' ')) ? at + 1 : NULL;
    return at && strcmp(at, "first") == 0;
}

void sched_call(const struct instr *in, struct rates_call *out)
{
    const enum way way = in->both ? WAY_BOTH : in->backward ? WAY_BWD : in->again ? WAY_AGAIN : WAY_FWD;
    *out = (struct rates_call){ .op = in->op->name, .way = way, .wide = in->wide };
    memcpy(out->dim, in->dim, sizeof out->dim);
    for (int i = 0; i < OP_ATTRS; i++)
        out->attr[i] = is_position(in->op->attrs, i) ? 0 : in->attr[i];
    for (int i = 0; i < OP_ARGS; i++) {
        out->args |= (uint32_t)(in->arg[i].buffer >= 0) << i;
        out->grads |= (uint32_t)(in->grad[i].buffer >= 0) << i;
    }
}

static int64_t dim_named(const struct node *n, int letter)
{
    return letter >= 0 ? n->dim[letter] : 0;
}

/* Rows sorted by expert that a call really has. Its sizes are capacities. */
struct sorted {
    int letter; /* of the rows; -1: it has none */
    int64_t rows, n_experts;
};

/* Routing being even: those of the tokens, and half a tile for each segment, or the part of those of a round that is under way
 * with others. */
static struct sorted even_rows(const struct program *p, const struct instr *in)
{
    const struct node *n = in->node >= 0 ? &p->graph->nodes[in->node] : NULL;
    for (int j = 0; n && j < n->anno->n_args; j++)
        for (int k = 0; k < n->anno->arg[j].n_dims; k++) {
            const struct anno_dim *d = &n->anno->arg[j].dim[k];
            if (d->rows_of < 0 || strcmp(n->anno->letter[d->rows_of], "n") == 0)
                continue;
            const int64_t experts = dim_named(n, d->rows_of);
            const int64_t pads = p->plan.tile > 1 ? experts * p->plan.tile / 2 : 0;
            const int64_t tokens_of = layout_is_tensor(&p->layout, in->node) ? p->plan.tensor_parallel : 1;
            return (struct sorted){ .letter = d->letter,
                                    .rows = (n->dim[d->letter] / plan_workers(&p->plan) * tokens_of + pads) /
                                            plan_at_once(&p->plan),
                                    .n_experts = experts };
        }
    return (struct sorted){ .letter = -1 };
}

/* Of n ranks, so many share a core or a GPU: what is uneven among them evens out, for one that waits leaves its part to the
 * others. */
static double sharing(int n, const struct cluster *c)
{
    return fmin(n, fmax(1, c->ranks_per_core));
}

/* Of the rank for which the others of its expert group wait. */
static struct sorted real_rows(const struct program *p, const struct instr *in, const struct cluster *c)
{
    struct sorted s = even_rows(p, in);
    const int ep = p->plan.expert_parallel, apart = (int)round(ep / sharing(ep, c));
    s.rows = (int64_t)((double)s.rows * uneven_ranks(c->expert_load, s.n_experts, apart));
    return s;
}

/* Of the room that the letter has; without a letter, all. */
static double part_of_rows(const struct instr *in, struct sorted s)
{
    return s.letter >= 0 && in->dim[s.letter] > 0 ? (double)s.rows / (double)in->dim[s.letter] : 1;
}

double sched_rows_part(const struct program *p, const struct instr *in)
{
    return part_of_rows(in, even_rows(p, in));
}

/* Gradients of parameters that a call writes, and reads where it adds to them. */
static double gradient_bytes(const struct program *p, const struct instr *in)
{
    const struct node *n = in->node >= 0 ? &p->graph->nodes[in->node] : NULL;
    double sum = 0;
    for (int j = 0; n && in->backward && j < n->anno->n_inputs; j++)
        if (in->grad[j].buffer >= 0 && p->graph->values[n->arg[j]].param >= 0)
            sum += (double)anno_elements(n->anno, j, in->dim) * (in->add >> j & 1 ? 2 : 1) *
                   (double)(in->wide >> j & 1 ? sizeof(float) : num_dtype_bytes(plan_float(&p->plan)));
    return sum;
}

/* By the table of the device, with `calls` us that are apart from the work; part: of the rows of the call, that it has.
 * Negative: there is none, or it knows nothing. */
static double table_us(const struct program *p, const struct instr *in, double part, double flops,
                       double bytes, double calls, const struct cluster *c)
{
    struct rates_call call;
    if (!c->rates || c->rates->backend != p->plan.numbers.backend)
        return -1;
    sched_call(in, &call);
    const double measured = rates_measured(c->rates, &call);
    if (measured >= 0)
        return fmax(1e6 * measured * part, calls);
    const double us = 1e6 * rates_seconds(c->rates, &call, flops, bytes, gradient_bytes(p, in));
    return us < 0 || c->rates->n_entries > 0 ? us : us + calls;
}

/* Of all rounds together. */
static double op_us(const struct program *p, const struct instr *in, const struct cluster *c)
{
    double flops, bytes;
    struct instr real = *in;
    const struct sorted s = real_rows(p, in, c);
    const double part = part_of_rows(in, s),
                 calls = (p->plan.expert_parallel > 1 && part > 1 ? ceil(part) : 1) * c->call_us;
    if (s.letter >= 0)
        real.dim[s.letter] = s.rows;
    sched_cost(p->graph, &real, &flops, &bytes);
    const double us = table_us(p, in, part, flops, bytes, calls, c);
    return us >= 0 ? fmax(us, calls)
                   : 1e6 * fmax(flops / c->flops_per_s, bytes / c->memory_bytes_per_s) + calls;
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

/* Rows that leave a rank are (ep-1)/ep of its copies, or what is different of them where it is packed first, which takes the
 * device's memory too; the fullest rank of experts receives as much more as it has rows. */
struct exchanged {
    double rounds, bytes, sent, packed; /* bytes: of all rows of the experts; packed: by the sender */
};

static struct exchanged exchanged(const struct program *p, const struct instr *in, const struct cluster *c)
{
    const int ep = p->plan.expert_parallel;
    const struct sorted s = real_rows(p, in, c);
    const int64_t rows = s.letter < 0 ? p->plan.row_capacity : s.rows;
    const double rounds = ceil((double)rows / (double)p->plan.row_capacity),
                 bytes = (double)rows * (double)in->row_bytes;
    const bool once = in->copies > 1 && rounds <= 1;
    if (in->twins && rounds > 1)
        return (struct exchanged){ 0 }; /* nobody asks for them */
    const double sent =
        once ? bytes / in->copies * plan_rows_once(&p->plan, in->copies) : bytes * (ep - 1) / ep;
    return (struct exchanged){ rounds, bytes, sent,
                               once ? sent * ep / (ep - 1) : 0 }; /* packed: this rank's own too */
}

/* What passes through the memory of a device is a part of it where one lane does all. */
static double exchange_us(const struct program *p, const struct instr *in, const struct cluster *c)
{
    const int ep = p->plan.expert_parallel;
    const struct exchanged x = exchanged(p, in, c);
    const double moved = p->plan.overlap ? 0 : x.bytes + x.packed;
    return 1e6 * 2 * moved / c->memory_bytes_per_s + link_us(x.sent, (int)x.rounds * (ep - 1),
                                                             links_of(p, c, ep, p->plan.width_parallel),
                                                             TRANSFER_EXCHANGE);
}

static double pack_us(const struct program *p, const struct instr *in, const struct cluster *c)
{
    const struct exchanged x = exchanged(p, in, c);
    const double moved = in->kind == RUN_PACK && in->copies ? x.packed : x.bytes;
    return 1e6 * 2 * moved / c->memory_bytes_per_s + (moved > 0 ? c->call_us : 0);
}

/* The numbers of one member go to all; before that, twins are looked for among the copies of each token. */
static double route_us(const struct program *p, const struct instr *in, const struct cluster *c)
{
    const int ep = p->plan.expert_parallel;
    const double look = in->copies ? (double)p->buffers[in->ref[2].buffer].bytes * (in->copies + 3) : 0;
    return 1e6 * look / c->memory_bytes_per_s + (in->copies ? c->call_us : 0) +
           link_us((double)route_counts(in->n, ep) * 4, ep - 1, links_of(p, c, ep, p->plan.width_parallel),
                   TRANSFER_EXCHANGE);
}

/* Elements that the busiest of a group receives, `mean` on average: it has more where a range belongs to few of them. */
static double busiest(double worst, double mean, int members, const struct cluster *c)
{
    return fmax(mean, worst / sharing(members, c));
}

/* Sums come to who owns the range, or to everybody in equal parts and from there to the owners. */
static double reduced(const struct instr *in, const struct flat *f, const struct cluster *c)
{
    const int m = f->n_ranks;
    const double n = (double)in->n_elements, mean = n * (m - 1) / m,
                 owned = fmin(n, (double)f->n_elements / m); /* by one of them */
    return in->spread ? mean + busiest(owned * (m - 1) / m, mean / m, m, c)
                      : busiest((m - 1) * owned, mean, m, c);
}

/* Who owns least of the range receives most. */
static double gathered(double n, const struct flat *f, int members, const struct cluster *c)
{
    const double all = (double)f->n_elements, owned = fmax(0, all / members - (all - n));
    return busiest(n - owned, n * (members - 1) / members, members, c);
}

/* What a member adds up, or copies of its own, passes through its memory. */
static double collective_us(const struct program *p, const struct instr *in, const struct cluster *c)
{
    const struct flat *f = &p->layout.flat[in->flat];
    const bool gather = in->kind == RUN_GATHER, reduce = in->kind == RUN_REDUCE;
    const double each = (double)num_dtype_bytes(gather ? plan_float(&p->plan) : p->plan.numbers.gradient),
                 n = (double)(in->kind == RUN_MIRROR ? f->n_elements : in->n_elements);
    const int members = reduce ? f->n_ranks : gather ? f->n_shards : f->n_ranks / f->n_shards;
    const int stride = in->kind == RUN_MIRROR ? f->stride * f->n_shards : f->stride;
    const double moved = reduce ? reduced(in, f, c) : gathered(n, f, members, c);
    const double passed = reduce                                             ? 2 * n
                          : gather && in->ref[0].buffer != in->ref[1].buffer ? 2 * n / members
                                                                             : 0;
    return link_us(moved * each, (in->spread ? 2 : 1) * (members - 1), links_of(p, c, members, stride),
                   reduce ? TRANSFER_REDUCE : TRANSFER_GATHER) +
           1e6 * passed * each / c->memory_bytes_per_s;
}

/* A member's range, evenly cut, once out and once in; it reads two and writes one. */
static double ends_us(const struct program *p, const struct instr *in, const struct cluster *c)
{
    const double bytes = (double)in->n_elements * (double)num_dtype_bytes(p->plan.numbers.gradient) /
                         p->layout.flat[in->flat].n_ranks;
    return link_us(bytes, 1, cluster_link(c, p->plan.n_ranks, p->plan.n_ranks), TRANSFER_REDUCE) +
           1e6 * 3 * bytes / c->memory_bytes_per_s;
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

enum cost_class sched_cost_class(const struct instr *in, enum list_kind which)
{
    switch (in->kind) {
    case RUN_ROUTE:
    case RUN_SEND:
    case RUN_RETURN:
    case RUN_PACK:
    case RUN_UNPACK:
    case RUN_TENSOR_GATHER:
    case RUN_TENSOR_SCATTER:
    case RUN_PASS_OUT:
    case RUN_PASS_IN:
    case RUN_ROUND:
    case RUN_ROUND_END:
        return COST_EXCHANGE;
    case RUN_REDUCE:
    case RUN_MIRROR:
    case RUN_SUM_ENDS:
    case RUN_GATHER:
    case RUN_NORM_SUM:
        return COST_REDUCE;
    default:
        return which == LIST_UPDATE || which == LIST_TREE ? COST_OPTIMIZER : COST_COMPUTE;
    }
}

bool sched_may_be_left(const struct program *p, const struct instr *in, const struct cluster *c)
{
    return in->anew && real_rows(p, in, c).rows <= p->plan.row_capacity;
}

double sched_instr_us(const struct program *p, const struct instr *in, const struct cluster *c)
{
    const int n = p->plan.n_ranks;
    if (p->plan.keep_rows && sched_may_be_left(p, in, c))
        return 0;
    switch (in->kind) {
    case RUN_OP:
        return op_us(p, in, c);
    case RUN_ZERO:
        return 1e6 * (double)in->n / c->memory_bytes_per_s;
    case RUN_SEND:
    case RUN_RETURN:
        return exchange_us(p, in, c);
    case RUN_PACK:
    case RUN_UNPACK:
        return pack_us(p, in, c);
    case RUN_ROUTE:
        return route_us(p, in, c);
    case RUN_REDUCE:
    case RUN_MIRROR:
    case RUN_GATHER:
        return collective_us(p, in, c);
    case RUN_SUM_ENDS:
        return ends_us(p, in, c);
    case RUN_NORM_SUM:
        return n > 1 ? link_us((double)in->n * 8, n - 1, links_of(p, c, n, 1), TRANSFER_GATHER) : 0;
    case RUN_TENSOR_GATHER:
    case RUN_TENSOR_SCATTER:
        return tensor_us(p, in, c);
    case RUN_PARTS:
        return 1e6 * (double)in->n * 4 * (in->n_parts + 1 + (in->add ? 1 : 0)) / c->memory_bytes_per_s;
    case RUN_PASS_IN:
        return link_us((double)in->n, 1, links_of(p, c, 2, plan_workers(&p->plan)), TRANSFER_EXCHANGE);
    case RUN_PASS_OUT:
    case RUN_ROUND:
    case RUN_ROUND_END:
    case RUN_TO_HOST: /* beside: predict_offload() */
    case RUN_FROM_HOST:
    case RUN_AWAIT_HOST:
        break;
    }
    return 0;
}
