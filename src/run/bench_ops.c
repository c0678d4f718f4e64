/* bench_ops.c - `bench ops`: every distinct operator call of a model's training step, by itself: time, the floor that its
 * FLOPs and bytes set at the rates that this device reaches, and the error against the CPU's kernels. Calls are those
 * of the instruction lists, timed where they stand in them, so that their inputs are those of training. On CUDA products
 * run between the batches that are timed: a GPU that had a rest is quicker than one at its power limit, as in training. */
#include "base/blas.h"
#include "base/file.h"
#include "base/rng.h"
#include "graph/registry.h"
#include "ops/adamw.h"
#include "run/bench.h"
#include "run/bench_error.h"
#include "run/links.h"
#include "run/step.h"
#include "run/weights.h"
#include "sched/predict.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCHES = 15, MOST_CALLS = 50, MOST_ROWS = 256 };
/* Calls between two waits take about so long: on the CPU less, so that few batches are interrupted. */
static const double batch_seconds[BACKENDS] = { [CPU] = 1e-3, [CUDA] = 3e-3 };
static const double all_seconds = 1; /* of the batches of a call; no further ones */
/* Of products before a batch, and before the first of all: the limit takes hold within some tenths. */
static const double warm_seconds[BACKENDS] = { [CPU] = 0, [CUDA] = 12e-3 }, first_seconds = 1.5;

struct row { /* a distinct call */
    enum list_kind list;
    const struct instr *first;
    int64_t calls; /* of it in the lists */
    double seconds, flops, bytes;
    double least_seconds, cost_bytes; /* of the batches; of the record */
    struct bench_error error;
};

struct dense_product { /* square */
    const struct device *device;
    struct call c;
    double seconds; /* of one, about; 0: not known */
};

struct ops {
    struct setup setup;
    struct plan plan;
    struct engine engine;
    struct batches batches;
    struct stepper stepper;
    struct dense_product product;
    double flops_per_s, bytes_per_s; /* reached here: the product, a copy (read and written bytes) */
    int n;
    struct row rows[MOST_ROWS];
};

static bool same_call(const struct instr *x, const struct instr *y)
{
    struct rates_call a, b;
    sched_call(x, &a);
    sched_call(y, &b);
    return rates_same_call(&a, &b);
}

static struct row *row_of(struct ops *o, enum list_kind list, const struct instr *in)
{
    for (int i = 0; i < o->n; i++)
        if (o->rows[i].list == list && same_call(o->rows[i].first, in))
            return &o->rows[i];
    CHECK(o->n < MOST_ROWS, "more than %d distinct calls", MOST_ROWS);
    o->rows[o->n] = (struct row){ .list = list, .first = in, .error = { -1, -1 } };
    return &o->rows[o->n++];
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
static double least_bytes(const struct ops *o, const struct instr *in, double cost_bytes)
{
    struct anno a;
    double actual = 0, as_float = 0;
    const double model = (double)num_dtype_bytes(plan_float(&o->plan));
    anno_parse(in->op, &a);
    if (in->op == &op_adamw && o->plan.numbers.backend == CUDA)
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

static double time_of(const struct device *d, again *f, void *context, int64_t calls)
{
    d->wait();
    const double begin = exec_now();
    for (int64_t i = 0; i < calls; i++)
        f(context);
    d->wait();
    return (exec_now() - begin) / (double)calls;
}

struct batch_times {
    double median, least;
};

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

/* Seconds of a call over batches of calls, after one that is not counted. */
static struct batch_times time_batches(struct ops *o, again *f, void *context)
{
    const struct device *d = o->setup.device;
    double each[BATCHES], spent = 0;
    int n = 0;
    f(context);
    const double one = time_of(d, f, context, 1), batch = batch_seconds[d->backend];
    const int64_t calls = one >= batch ? 1 : (int64_t)fmin(MOST_CALLS, batch / one + 1);
    while (n < BATCHES && spent < all_seconds) {
        warm_up(&o->product, warm_seconds[d->backend]);
        each[n] = time_of(d, f, context, calls);
        spent += each[n++] * (double)calls;
    }
    qsort(each, (size_t)n, sizeof *each, ascending);
    return (struct batch_times){ each[n / 2], each[0] };
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

/* Runs the list in its order; the first of equal calls is repeated where it stands. */
static void time_list(struct ops *o, enum list_kind list)
{
    const struct list *l = &o->engine.program.list[list];
    for (int i = 0; i < l->n; i++) {
        const struct instr *in = &l->item[i];
        struct at at = { &o->engine.exec, list, i };
        if (in->kind == RUN_ZERO)
            launch(&at);
        if (in->kind != RUN_OP)
            continue;
        struct row *r = row_of(o, list, in);
        if (r->calls++ == 0) {
            sched_cost(in, &r->flops, &r->bytes);
            r->cost_bytes = r->bytes;
            r->bytes = least_bytes(o, in, r->bytes);
            const struct batch_times t = time_batches(o, launch, &at);
            r->seconds = t.median;
            r->least_seconds = t.least;
        } else {
            launch(&at);
        }
    }
    o->setup.device->wait();
}

static void copy(void *context)
{
    const struct dense_product *p = context;
    p->device->copy(p->c.arg[1], p->c.arg[0], (size_t)(p->c.dim[0] * p->c.dim[1] * 2));
}

static void product_new(struct ops *o)
{
    const struct device *d = o->setup.device;
    const int64_t n = d->backend == CUDA ? 8192 : 1024, elements = n * n;
    struct dense_product *p = &o->product;
    size_t work[2] = { 0, 0 };
    *p = (struct dense_product){ d, { .dim = { n, n, n }, .stream = d->stream() }, 0 };
    if (op_linear.work[d->backend])
        op_linear.work[d->backend](&p->c, work);
    for (int i = 0; i < 3; i++)
        p->c.arg[i] = d->allocate((size_t)elements * 4);
    p->c.work = d->allocate(work[0] + 1);
    for (int i = 0; i < 2; i++)
        d->copy(p->c.arg[i], exec_at(&o->engine.exec, o->engine.program.weights[0]),
                (size_t)fmin((double)elements * 2,
                             (double)o->engine.program.buffers[o->engine.program.weights[0].buffer].bytes));
    multiply(p);
}

static void product_free(struct dense_product *p)
{
    for (int i = 0; i < 3; i++)
        p->device->release(p->c.arg[i]);
    p->device->release(p->c.work);
}

/* What this device reaches in this call: a square product, and a copy of its operand. */
static void measure_ceilings(struct ops *o)
{
    struct dense_product *p = &o->product;
    const double elements = (double)(p->c.dim[0] * p->c.dim[1]);
    p->seconds = time_of(o->setup.device, multiply, p, 1);
    warm_up(p, warm_seconds[o->setup.backend] > 0 ? first_seconds : 0);
    p->seconds = time_batches(o, multiply, p).median;
    o->flops_per_s = 2 * elements * (double)p->c.dim[2] / p->seconds;
    o->bytes_per_s = 4 * elements / time_batches(o, copy, p).median;
}

/* One error per operator; the arguments that have gradients are those of its calls in the lists. */
static void find_errors(struct ops *o)
{
    for (int i = 0; i < o->n; i++) {
        struct row *r = &o->rows[i];
        const struct op *op = r->first->op;
        uint32_t of = 0, by = 0;
        struct anno a;
        if (r->list != LIST_MICRO || r->error.output >= 0 || r->error.gradient >= 0)
            continue;
        anno_parse(op, &a);
        for (int k = 0; k < o->n; k++)
            for (int j = 0; j < a.n_args && o->rows[k].first->op == op; j++)
                if (o->rows[k].first->grad[j].buffer >= 0)
                    *(j < a.n_inputs ? &by : &of) |= 1u << j;
        const struct bench_error e = bench_error(o->setup.device, op, of, by);
        for (int k = i; k < o->n; k++)
            if (o->rows[k].first->op == op)
                o->rows[k].error = e;
    }
}

static double floor_of(const struct ops *o, const struct row *r)
{
    return fmax(r->flops / o->flops_per_s, r->bytes / o->bytes_per_s);
}

static const char *way_of(const struct instr *in)
{
    return in->both ? "both" : in->backward ? "bwd" : in->again ? "again" : "fwd";
}

static void add_sizes(struct str *s, const struct instr *in)
{
    struct anno a;
    anno_parse(in->op, &a);
    for (int i = 0; i < a.n_letters; i++)
        str_addf(s, "%s%s %lld", i ? " " : "", a.letter[i], (long long)in->dim[i]);
}

static double error_of(const struct row *r)
{
    return r->first->backward ? r->error.gradient : r->error.output;
}

static void print_text(const struct ops *o, struct arena *a)
{
    const struct plan *p = &o->plan;
    double all = 0, floors = 0;
    printf("micro-batch %lld x %lld, %lld layers; reached here: %.3g TFLOP/s (square product), %.4g GB/s "
           "(copy)\n"
           "floor: the larger of FLOPs and bytes at these rates; error: relative L2 against the CPU's "
           "kernels%s\n",
           (long long)p->micro_batch, (long long)p->sequence, (long long)o->setup.model.layers,
           o->flops_per_s / 1e12, o->bytes_per_s / 1e9,
           p->numbers.backend == CPU ? " (this is the CPU)" : "");
    printf("%-12s %-5s %6s %10s %10s %7s %-6s %9s  %s\n", "operator", "", "calls", "us", "floor us", "share",
           "bound", "error", "sizes");
    for (int i = 0; i < o->n; i++) {
        const struct row *r = &o->rows[i];
        const double floor = floor_of(o, r);
        struct str s = str_new(a, 4096);
        add_sizes(&s, r->first);
        printf("%-12s %-5s %6lld %10.1f %10.1f %6.1f%% %-6s ", r->first->op->name, way_of(r->first),
               (long long)r->calls, 1e6 * r->seconds, 1e6 * floor, 100 * floor / r->seconds,
               r->flops / o->flops_per_s > r->bytes / o->bytes_per_s ? "flops" : "bytes");
        if (error_of(r) < 0)
            printf("%9s  %s\n", "-", s.text);
        else
            printf("%9.1e  %s\n", error_of(r), s.text);
        all += r->seconds * (double)r->calls;
        floors += floor * (double)r->calls;
    }
    printf("sum of all calls %.2f ms, of their floors %.2f ms (%.1f %%)\n", 1e3 * all, 1e3 * floors,
           100 * floors / all);
}

static void print_json(const struct ops *o, struct arena *a)
{
    printf("{\"micro_batch\": %lld, \"sequence\": %lld, \"layers\": %lld, \"flops_per_s\": %.6g, "
           "\"bytes_per_s\": %.6g, \"operators\": [",
           (long long)o->plan.micro_batch, (long long)o->plan.sequence, (long long)o->setup.model.layers,
           o->flops_per_s, o->bytes_per_s);
    for (int i = 0; i < o->n; i++) {
        const struct row *r = &o->rows[i];
        struct str s = str_new(a, 4096);
        add_sizes(&s, r->first);
        printf(
            "%s\n{\"name\": \"%s\", \"way\": \"%s\", \"sizes\": \"%s\", \"calls\": %lld, \"seconds\": %.6g, "
            "\"floor_seconds\": %.6g, \"flops\": %.6g, \"bytes\": %.6g, \"error\": ",
            i ? "," : "", r->first->op->name, way_of(r->first), s.text, (long long)r->calls, r->seconds,
            floor_of(o, r), r->flops, r->bytes);
        if (error_of(r) < 0)
            printf("null}");
        else
            printf("%.3g}", error_of(r));
    }
    printf("]}\n");
}

/* Random tokens: sizes, not the text, decide the time, and the routing of random weights is near to even. */
static void make_batch(struct ops *o, struct arena *a, const struct config *c)
{
    struct dataset *d = ARENA_NEW(a, struct dataset, 1);
    const int64_t n = o->plan.micro_batch * o->plan.sequence;
    int32_t *tokens = ARENA_NEW(a, int32_t, n);
    for (int64_t i = 0; i < n; i++)
        tokens[i] = (int32_t)(rng_u64((uint64_t)c->seed, 0, (uint64_t)i) % (uint64_t)o->setup.model.vocab);
    *d = (struct dataset){ .n_sequences = o->plan.micro_batch,
                           .sequence_length = o->plan.sequence,
                           .vocab_size = o->setup.model.vocab,
                           .tokens = tokens };
    batches_new(a, d, d->n_sequences, c->seed, -1, &o->batches);
    step_new(a, &o->engine, &o->batches, 0, &o->stepper);
}

static bool start(struct ops *o, struct arena *a, const struct config *c, struct err *e)
{
    const struct adamw adamw = { 0.9, 0.95, 1e-8, 0 };
    if (!setup_open(a, c, &o->setup, e))
        return false;
    const int64_t all_kinds = o->setup.model.experts ? o->setup.model.first_dense + 1 : 1,
                  layers = c->layers ? c->layers : all_kinds;
    if (layers < o->setup.model.layers)
        o->setup.model.layers = layers;
    setup_small_plan(&o->setup, c->micro_batch_size, c->sequence_length, &o->plan);
    if (c->sequence_length > o->setup.model.max_positions)
        return err_code(e, EXIT_MISMATCH,
                        "--sequence_length %lld: max_position_embeddings of the model is %lld",
                        (long long)c->sequence_length, (long long)o->setup.model.max_positions);
    if (!setup_measure(&o->setup, &o->plan, e))
        return false;
    if (o->plan.memory.peak_bytes > o->setup.cluster.memory_bytes)
        return err_code(e, EXIT_MEMORY, "%lld bytes are needed, %lld are there: a smaller --micro_batch_size",
                        (long long)o->plan.memory.peak_bytes, (long long)o->setup.cluster.memory_bytes);
    engine_build(&o->setup, &o->plan, true, false, &adamw, &o->engine);
    weights_init(&o->engine.exec, c->seed);
    make_batch(o, a, c);
    o->engine.exec.control = (struct step_control){ 1e-5, 0.9, 0.95, 1.0, 1, 0 };
    step_train(&o->stepper, 0, 0, o->plan.global_batch); /* libraries choose their kernels */
    return true;
}

/* What the device reaches, and every call. */
static bool measure_all(struct ops *o, struct arena *a, const struct config *c, struct err *e)
{
    if (!start(o, a, c, e))
        return false;
    product_new(o);
    measure_ceilings(o);
    time_list(o, LIST_MICRO);
    time_list(o, LIST_UPDATE);
    product_free(&o->product);
    exec_free(&o->engine.exec);
    return true;
}

/* The quickest batch: what else the machine does belongs to no operator. */
static bool write_table(const struct ops *o, struct arena *a, const char *path, struct err *e)
{
    struct rates_entry *all = ARENA_NEW(a, struct rates_entry, o->n);
    struct str s = str_new(a, 64u << 20);
    for (int i = 0; i < o->n; i++) {
        const struct row *r = &o->rows[i];
        all[i] =
            (struct rates_entry){ .seconds = r->least_seconds, .flops = r->flops, .bytes = r->cost_bytes };
        sched_call(r->first, &all[i].call);
    }
    rates_write(&(struct rates){ .backend = o->setup.backend, .n_entries = o->n, .entry = all }, &s);
    return file_write(path, s.text, s.bytes, e);
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static bool write_cluster(const struct cluster *c, struct arena *a, const char *table, const char *path,
                          struct err *e)
{
    struct str s = str_new(a, 1u << 20);
    cluster_write(c, table, &s);
    return file_write(path, s.text, s.bytes, e);
}

/* What one rank reaches, and its operators; the links are those of the cluster, until several ranks measure them. */
static bool profile_operators(struct ops *o, struct arena *a, const struct config *c, struct err *e)
{
    const size_t n = strlen(c->output), ending = n > 5 && strcmp(c->output + n - 5, ".json") == 0 ? 5 : 0;
    const char *table = arena_printf(a, "%.*s.rates.json", (int)(n - ending), c->output);
    if (!measure_all(o, a, c, e))
        return false;
    struct cluster here = o->setup.cluster;
    here.flops_per_s = o->flops_per_s;
    here.memory_bytes_per_s = o->bytes_per_s;
    if (!write_table(o, a, table, e) || !write_cluster(&here, a, base_name(table), c->output, e))
        return false;
    printf("%d calls measured, written to %s and %s\n", o->n, c->output, table);
    return true;
}

/* Into the description that one rank wrote before. */
static bool profile_links(struct ops *o, struct arena *a, const struct config *c, struct err *e)
{
    struct cluster here;
    if (!setup_open(a, c, &o->setup, e) || !setup_connect(&o->setup, c, NULL, e))
        return false;
    if (!file_exists(c->output))
        return err_code(e, EXIT_USAGE,
                        "%s: not found; several ranks measure links, into the description that "
                        "'moec profile' on one rank writes first",
                        c->output);
    if (!cluster_read(a, c->output, &here, e))
        return false;
    links_measure(a, o->setup.device, &here);
    here.memory_bytes = o->setup.cluster.memory_bytes; /* the machine's, shared by its ranks */
    if (comm_rank() != 0)
        return true;
    const char *table = !here.rates                       ? NULL
                        : rates_builtin(here.rates->name) ? here.rates->name
                                                          : base_name(here.rates->name);
    if (!write_cluster(&here, a, table, c->output, e))
        return false;
    printf("links between %d ranks, %d to a machine: inside %.2f GB/s, %.1f us a message; written to %s\n",
           comm_ranks(), here.ranks_per_node, here.inside.bytes_per_s[TRANSFER_EXCHANGE] / 1e9,
           here.inside.latency_us, c->output);
    if (comm_ranks() > here.ranks_per_node)
        printf("between machines %.2f GB/s, %.1f us a message\n",
               here.between.bytes_per_s[TRANSFER_EXCHANGE] / 1e9, here.between.latency_us);
    return true;
}

bool bench_profile(struct arena *a, const struct config *c, struct err *e)
{
    struct ops *o = ARENA_NEW(a, struct ops, 1);
    blas_warm_up();
    return comm_ranks() > 1 ? profile_links(o, a, c, e) : profile_operators(o, a, c, e);
}

bool bench_ops(struct arena *a, const struct config *c, struct err *e)
{
    struct ops *o = ARENA_NEW(a, struct ops, 1);
    blas_warm_up();
    if (comm_ranks() > 1)
        return err_code(e, EXIT_USAGE, "bench ops runs on one rank, %d were started", comm_ranks());
    if (!measure_all(o, a, c, e))
        return false;
    if (o->setup.backend != CPU)
        find_errors(o);
    if (c->json)
        print_json(o, a);
    else
        print_text(o, a);
    return true;
}
