/* measure.c - see measure.h. On the CPU whole steps are run, and each instruction's time is taken. On CUDA, where the host runs ahead
 * of the device, each call is repeated where it stands in the lists; products run between the batches that are timed, for a
 * GPU that had a rest is quicker than one at its power limit, as in training. */
#include "run/measure.h"
#include "base/rng.h"
#include "graph/registry.h"
#include "ops/adamw.h"
#include "run/measure_steps.h"
#include "run/weights.h"
#include "sched/predict.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BATCHES = 15, MOST_CALLS = 50, ACCUMULATION = 2 };
static const double steps_seconds = 5, layout_seconds = 2; /* no further steps; of one layout */
/* Calls between two waits take about so long: on the CPU less, so that few batches are interrupted. */
static const double batch_seconds[BACKENDS] = { [CPU] = 1e-3, [CUDA] = 3e-3 };
static const double longer_together =
    5; /* times, with several ranks: none begins and ends just with the others */
static const double all_seconds = 1; /* of the batches of a call; no further ones */
/* Of products before a batch, and before the first of all: the limit takes hold within some tenths. */
static const double warm_seconds[BACKENDS] = { [CPU] = 0, [CUDA] = 12e-3 }, first_seconds = 1.5;

static bool same_call(const struct instr *x, const struct instr *y)
{
    struct rates_call a, b;
    sched_call(x, &a);
    sched_call(y, &b);
    return rates_same_call(&a, &b);
}

struct measured *measure_find(struct measure *m, enum list_kind list, const struct instr *in)
{
    for (int i = 0; i < m->n; i++)
        if (m->call[i].list == list && same_call(m->call[i].first, in))
            return &m->call[i];
    CHECK(m->n < MEASURE_MOST, "more than %d distinct calls", MEASURE_MOST);
    m->call[m->n] = (struct measured){ .list = list, .first = in };
    return &m->call[m->n++];
}

/* AdamW's states have formats of their own: weight and states are read and written, the gradient is read. */
static double adamw_bytes(const struct anno *a, const struct instr *in)
{
    const int64_t n = in->dim[0];
    const int moments = (int)anno_attr(a, in->attr, "moments", 0),
              master = (int)anno_attr(a, in->attr, "master", 0);
    return (double)(2 * (2 * n + adamw_low_bytes(master, n) + 2 * adamw_state_bytes(moments, n)) +
                    n * (in->wide >> 3 & 1 ? 4 : 2));
}

/* Least memory traffic: every argument and gradient once (one that is added to: twice), but no more than the record's
 * own count, which is in float32 and knows what is not read whole. */
static double least_bytes(const struct measure *m, const struct instr *in, double cost_bytes)
{
    struct anno a;
    double actual = 0, as_float = 0;
    const double model = (double)num_dtype_bytes(plan_float(&m->plan));
    anno_parse(in->op, &a);
    if (in->op == &op_adamw && m->plan.numbers.backend == CUDA)
        return adamw_bytes(&a, in);
    for (int i = 0; i < a.n_args; i++) {
        const double n = (double)anno_elements(&a, i, in->dim),
                     each = a.arg[i].model_float ? model : (double)num_dtype_bytes(a.arg[i].dtype),
                     grad = in->wide >> i & 1 ? 4 : each, times = in->add >> i & 1 ? 2 : 1;
        if (in->arg[i].buffer >= 0) {
            actual += n * (in->wide >> i & 1 && !in->backward ? 4 : each);
            as_float += n * fmax(each, 4);
        }
        if (in->grad[i].buffer >= 0) {
            actual += n * grad * times;
            as_float += n * 4 * times;
        }
    }
    return fmin(actual, cost_bytes * actual / fmax(as_float, 1));
}

static int ascending(const void *x, const void *y)
{
    const double a = *(const double *)x, b = *(const double *)y;
    return a < b ? -1 : a > b;
}

typedef void again(void *context);

/* From the first rank that begins to the last one that ends, where ranks share cores. */
static double time_of(const struct device *d, again *f, void *context, int64_t calls)
{
    d->wait();
    comm_barrier();
    const double begin = exec_now();
    for (int64_t i = 0; i < calls; i++)
        f(context);
    d->wait();
    comm_barrier();
    return comm_max(exec_now() - begin) / (double)calls;
}

static void multiply(void *context)
{
    const struct dense_product *p = context;
    op_linear.fwd[p->device->backend](&p->c);
}

static void warm_up(struct dense_product *p, double seconds)
{
    for (double left = seconds; p->seconds > 0 && left > 0; left -= p->seconds)
        multiply(p);
}

/* Seconds of a call over batches of calls, after one that is not counted: median and least. */
static void time_batches(struct measure *m, again *f, void *context, double *median, double *least)
{
    const struct device *d = m->setup.device;
    double each[BATCHES], spent = 0;
    int n = 0;
    f(context);
    const double one = time_of(d, f, context, 1),
                 batch = batch_seconds[d->backend] * (comm_ranks() > 1 ? longer_together : 1);
    const int64_t calls = one >= batch ? 1 : (int64_t)fmin(MOST_CALLS, batch / one + 1);
    while (n < BATCHES && spent < all_seconds) {
        warm_up(&m->product, warm_seconds[d->backend]);
        each[n] = time_of(d, f, context, calls);
        spent += each[n++] * (double)calls;
    }
    qsort(each, (size_t)n, sizeof *each, ascending);
    *median = each[n / 2];
    *least = each[0];
}

static bool is_call(const struct instr *in)
{
    return in->kind == RUN_OP;
}

static void find_calls_of(struct measure *m, enum list_kind which)
{
    const struct list *l = &m->engine.program.list[which];
    for (int i = 0; i < l->n; i++) {
        if (!is_call(&l->item[i]))
            continue;
        struct measured *r = measure_find(m, which, &l->item[i]);
        if (r->calls++ > 0)
            continue;
        sched_cost(m->engine.program.graph, r->first, &r->flops, &r->cost_bytes);
        r->bytes = least_bytes(m, r->first, r->cost_bytes);
    }
}

static void find_calls(struct measure *m)
{
    find_calls_of(m, LIST_MICRO);
    find_calls_of(m, LIST_UPDATE);
}

struct at { /* an instruction, for time_batches */
    struct exec *exec;
    enum list_kind list;
    int index;
};

static void launch(void *context)
{
    const struct at *at = context;
    exec_launch(at->exec, at->list, at->index, false);
}

/* Runs the list in its order; the first of equal calls is repeated where it stands, so that its inputs are those of training. */
static void time_list(struct measure *m, enum list_kind which)
{
    const struct list *l = &m->engine.program.list[which];
    for (int i = 0; i < l->n; i++) {
        struct at at = { &m->engine.exec, which, i };
        struct measured *r = is_call(&l->item[i]) ? measure_find(m, which, &l->item[i]) : NULL;
        if (r && r->first == &l->item[i])
            time_batches(m, launch, &at, &r->seconds, &r->least_seconds);
        else if (r || l->item[i].kind == RUN_ZERO)
            launch(&at);
    }
    m->setup.device->wait();
}

static void product_new(struct measure *m)
{
    const struct device *d = m->setup.device;
    const int64_t n = d->backend == CUDA ? 8192 : 1024, elements = n * n;
    struct dense_product *p = &m->product;
    size_t work[2] = { 0, 0 };
    *p = (struct dense_product){ d, { .dim = { n, n, n }, .stream = d->stream() }, 0 };
    if (op_linear.work[d->backend])
        op_linear.work[d->backend](&p->c, work);
    for (int i = 0; i < 3; i++)
        p->c.arg[i] = d->allocate((size_t)elements * 4);
    p->c.work = d->allocate(work[0] + 1);
    for (int i = 0; i < 2; i++)
        d->copy(p->c.arg[i], exec_at(&m->engine.exec, m->engine.program.weights[0]),
                (size_t)fmin((double)elements * 2,
                             (double)m->engine.program.buffers[m->engine.program.weights[0].buffer].bytes));
    multiply(p);
}

static void product_free(struct dense_product *p)
{
    for (int i = 0; i < 3; i++)
        p->device->release(p->c.arg[i]);
    p->device->release(p->c.work);
}

struct stream {
    const struct device *device;
    char *from, *to; /* larger than caches */
};
enum { STREAM_BYTES = 128 << 20 };

static void copy(void *context)
{
    const struct stream *s = context;
    s->device->copy(s->to, s->from, STREAM_BYTES);
}

/* Read and written, a second. */
static double stream_rate(struct measure *m)
{
    const struct device *d = m->setup.device;
    struct stream s = { d, d->allocate(STREAM_BYTES), d->allocate(STREAM_BYTES) };
    double seconds, least;
    d->zero(s.from, STREAM_BYTES);
    time_batches(m, copy, &s, &seconds, &least);
    d->release(s.from);
    d->release(s.to);
    return 2.0 * STREAM_BYTES / seconds;
}

static double product_rate(struct measure *m)
{
    struct dense_product *p = &m->product;
    double least;
    p->seconds = time_of(m->setup.device, multiply, p, 1);
    warm_up(p, warm_seconds[m->setup.backend] > 0 ? first_seconds : 0);
    time_batches(m, multiply, p, &p->seconds, &least);
    return 2.0 * (double)(p->c.dim[0] * p->c.dim[1] * p->c.dim[2]) / p->seconds;
}

/* Random tokens: sizes, not the text, decide the time, and the routing of random weights is near to even. */
static void make_batch(struct measure *m, struct arena *a, const struct config *c)
{
    struct dataset *d = ARENA_NEW(a, struct dataset, 1);
    const int64_t n = m->plan.global_batch * m->plan.sequence;
    int32_t *tokens = ARENA_NEW(a, int32_t, n);
    for (int64_t i = 0; i < n; i++)
        tokens[i] = (int32_t)(rng_u64((uint64_t)c->seed, 0, (uint64_t)i) % (uint64_t)m->setup.model.vocab);
    *d = (struct dataset){ .n_sequences = m->plan.global_batch,
                           .sequence_length = m->plan.sequence,
                           .vocab_size = m->setup.model.vocab,
                           .tokens = tokens };
    batches_new(a, d, d->n_sequences, c->seed, -1, &m->batches);
    step_new(a, &m->engine, &m->batches, 0, &m->stepper);
}

/* Builds the plan's engine, runs its first step, in which libraries choose their kernels, and finds its calls. */
static void begin(struct measure *m, struct arena *a, const struct config *c)
{
    const struct adamw adamw = { 0.9, 0.95, 1e-8, 0 };
    engine_build(&m->setup, &m->plan, true, false, &adamw, &m->engine);
    weights_init(&m->engine.exec, c->seed);
    make_batch(m, a, c);
    m->engine.exec.control = (struct step_control){ 1e-5, 0.9, 0.95, 1.0, 1, 0 };
    step_train(&m->stepper, 0, 0, m->plan.global_batch);
    find_calls(m);
}

static bool start(struct measure *m, struct arena *a, const struct config *c, struct err *e)
{
    if (!setup_open(a, c, &m->setup, e))
        return false;
    if (comm_ranks() > 1 && !setup_connect(&m->setup, c, NULL, e))
        return false;
    const int64_t all_kinds = m->setup.model.experts ? m->setup.model.first_dense + 1 : 1,
                  layers = c->layers ? c->layers : all_kinds;
    if (layers < m->setup.model.layers)
        m->setup.model.layers = layers;
    setup_small_plan(&m->setup, c->micro_batch_size, c->sequence_length, &m->plan);
    if (c->sequence_length > m->setup.model.max_positions)
        return err_code(e, EXIT_MISMATCH,
                        "--sequence_length %lld: max_position_embeddings of the model is %lld",
                        (long long)c->sequence_length, (long long)m->setup.model.max_positions);
    if (m->setup.backend == CPU) { /* most of the calls add to gradients, as in training */
        m->plan.accumulation = ACCUMULATION;
        m->plan.global_batch *= ACCUMULATION;
    }
    if (!setup_measure(&m->setup, &m->plan, e))
        return false;
    if (m->plan.memory.peak_bytes > m->setup.cluster.memory_bytes)
        return err_code(e, EXIT_MEMORY, "%lld bytes are needed, %lld are there: a smaller --micro_batch_size",
                        (long long)m->plan.memory.peak_bytes, (long long)m->setup.cluster.memory_bytes);
    return begin(m, a, c), true;
}

/* The first of those that have most. */
static int rank_of_most(double x)
{
    return comm_ranks() - (int)comm_max(x == comm_max(x) ? comm_ranks() - comm_rank() : 0);
}

/* What the device reaches, and every call. */
bool measure_calls(struct measure *m, struct arena *a, const struct config *c, struct err *e)
{
    if (!start(m, a, c, e))
        return false;
    product_new(m);
    m->flops_per_s = product_rate(m);
    m->bytes_per_s = stream_rate(m);
    if (m->setup.backend == CPU) {
        m->slowest = rank_of_most(measure_steps(m, a, steps_seconds, NULL, NULL));
    } else {
        time_list(m, LIST_MICRO);
        time_list(m, LIST_UPDATE);
    }
    product_free(&m->product);
    exec_free(&m->engine.exec);
    return true;
}

static bool plan_layout(struct measure *m, const struct config *c, int experts, int tensors)
{
    struct search_result found;
    struct err e = { 0 };
    const int unit = experts * tensors;
    const int64_t micro_batch = c->micro_batch_size * experts;
    const struct plan_limits l = { .n_ranks = comm_ranks(),
                                   .unit_ranks = unit,
                                   .expert_parallel = experts,
                                   .keep_rows =
                                       KEEP_OFF, /* else calls that make them again would have no time */
                                   .tensor_parallel = tensors,
                                   .stages = 1,
                                   .chunks = 1,
                                   .micro_batch = micro_batch,
                                   .global_batch = micro_batch * (comm_ranks() / unit) * ACCUMULATION,
                                   .memory_bytes = m->setup.cluster.memory_bytes };
    if (!setup_plan(&m->setup, &l, c->sequence_length, &found, &e))
        return false;
    m->plan = found.best[0];
    return true;
}

/* Microseconds of a message, on the rank for which the others wait. */
static double wait_of(const struct measure *m, const struct waits *w)
{
    double us = comm_rank() == m->slowest && w->messages > 0 ? fmax(0, w->us / w->messages) : 0;
    comm_sum_doubles(&us, 1);
    return us;
}

/* Returns what a message waits. */
static double measure_layout(struct measure *m, struct arena *a, const struct config *c, int experts,
                             int tensors, const struct cluster *links)
{
    struct waits w = { 0, 0 };
    if (!plan_layout(m, c, experts, tensors))
        return 0; /* nobody can train it either */
    begin(m, a, c);
    measure_steps(m, a, layout_seconds, links, &w);
    exec_free(&m->engine.exec);
    return wait_of(m, &w);
}

void measure_layouts(struct measure *m, struct arena *a, const struct config *c, struct cluster *links)
{
    double wait_us = 0;
    for (int n = 2; n <= comm_ranks() && m->setup.backend == CPU; n++) {
        if (comm_ranks() % n)
            continue;
        if (m->setup.model.experts)
            measure_layout(m, a, c, n, 1, links);
        const double us = measure_layout(m, a, c, 1, n, links);
        wait_us = n == comm_local_ranks() ? us : wait_us;
    }
    links->inside.latency_us += wait_us;
}
