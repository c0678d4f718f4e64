/* bench.c - `bench step`: real steps on real text from random weights: natural routing, every token kept, clipping
 * and AdamW inside the time. */
#include "run/bench.h"
#include "base/blas.h"
#include "base/hash.h"
#include "base/pool.h"
#include "run/step.h"
#include "run/weights.h"
#include "sched/predict.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct bench {
    struct setup setup;
    struct dataset data;
    struct plan plan;
    struct engine engine;
    struct batches batches;
    struct stepper stepper;
    int64_t done;   /* steps */
    double start_s; /* from the command to the first step */
    struct step_result last;
    int64_t outside_bytes[2]; /* exec_outside() at the start, after the first step */
    double replayed_s;        /* a step with recorded launches (stretch.h); 0 = none are recorded */
    double plain_s;           /* without */
    bool same;                /* both gave the same bits */
};

static bool make_plan(struct bench *b, const struct config *c, struct err *e)
{
    struct search_result found;
    const int64_t S = b->data.sequence_length;
    struct plan_limits l = {
        .n_ranks = comm_ranks(),
        .zero = -1,
        .global_batch = c->tokens / S,
        .micro_batch = config_given(c, "micro_batch_size") ? c->micro_batch_size : 0,
        .recompute = (int)c->recompute,
        .lodgers = (int)c->offload,
        .memory_bytes = (int64_t)(c->mem_constraint * 1e9),
        .reproducible = c->reproducible,
    };
    const int64_t most = S * b->data.n_sequences;
    if (c->tokens % S || l.global_batch > b->data.n_sequences)
        return err_code(e, EXIT_USAGE, "--tokens %lld: expected a multiple of %lld up to %lld (the dataset)",
                        (long long)c->tokens, (long long)S, (long long)most);
    setup_memory(&b->setup, &l);
    if (!setup_plan(&b->setup, &l, S, &found, e))
        return false;
    b->plan = found.best[0];
    return true;
}

static bool start(struct bench *b, struct arena *a, const struct config *c, struct err *e)
{
    const struct adamw o = { 0.9, 0.95, 1e-8, 0 };
    const double begin = exec_now();
    if (!setup_open(a, c, &b->setup, e) || !dataset_open(a, c->dataset_path, comm_rank() != 0, &b->data, e))
        return false;
    if (c->layers)
        b->setup.model.layers = c->layers;
    if (b->data.vocab_size > b->setup.model.vocab)
        return err_code(e, EXIT_MISMATCH, "%s: token ids up to %lld, but vocab_size of the model is %lld",
                        c->dataset_path, (long long)b->data.vocab_size - 1, (long long)b->setup.model.vocab);
    if (!setup_connect(&b->setup, c, NULL, e) || !make_plan(b, c, e))
        return false;
    comm_timeout(c->collective_timeout);
    engine_build(&b->setup, &b->plan, true, false, &o, &b->engine);
    b->outside_bytes[0] = exec_outside(&b->engine.exec);
    weights_init(&b->engine.exec, c->seed);
    batches_new(a, &b->data, b->data.n_sequences, c->seed, -1, &b->batches);
    step_new(a, &b->engine, &b->batches, 0, &b->stepper);
    b->engine.exec.device->wait();
    b->start_s = exec_now() - begin;
    return true;
}

static void one_step(struct bench *b)
{
    const int64_t G = b->plan.global_batch, per_epoch = b->data.n_sequences / G;
    b->done++;
    b->engine.exec.control = (struct step_control){ 1e-5, 0.9, 0.95, 1.0, b->done, 0 };
    b->last = step_train(&b->stepper, 0, (b->done - 1) % per_epoch * G, G);
    b->engine.exec.device->wait();
    if (b->done == 1)
        b->outside_bytes[1] = exec_outside(&b->engine.exec);
    CHECK(b->last.finite, "step %lld is not finite", (long long)b->done);
}

/* A hash of the losses and of the sums of squares of all gradients of one step that updates nothing. */
static uint64_t gradient_bits(struct bench *b)
{
    struct exec *x = &b->engine.exec;
    struct hash_state *h = hash_begin();
    const struct step_result r = step_gradients(&b->stepper, 0, 0, b->plan.global_batch);
    x->refuse = true;
    exec_run(x, LIST_UPDATE);
    x->refuse = false;
    hash_add(h, &r.loss, sizeof r.loss);
    hash_add(h, &r.aux, sizeof r.aux);
    hash_add(h, x->norm_sums, (size_t)b->engine.program.layout.n_chunks_total * sizeof *x->norm_sums);
    return hash_end(h);
}

enum { PLAIN_STEPS = 2 };

/* The same without recorded launches: time, and whether a bit differs. */
static void compare_plain(struct bench *b, double seconds)
{
    struct exec *x = &b->engine.exec;
    if (x->n_records == 0)
        return;
    b->replayed_s = seconds;
    const uint64_t replayed = gradient_bits(b);
    x->replays = false;
    b->same = gradient_bits(b) == replayed;
    const double begin = exec_now();
    for (int i = 0; i < PLAIN_STEPS; i++)
        one_step(b);
    b->plain_s = (exec_now() - begin) / PLAIN_STEPS;
    x->replays = true;
}

/* One line of the table: an operator, forward ("fwd"), backward ("bwd") or both in one call ("both"). */
struct line {
    const char *name, *way;
    double seconds, flops;
    int64_t calls;
};

static const char *name_of(const struct instr *in)
{
    static const char *const kind[] = { [RUN_ZERO] = "(zero)",
                                        [RUN_ROUTE] = "(route)",
                                        [RUN_ROUND] = "(rounds)",
                                        [RUN_ROUND_END] = "(rounds)",
                                        [RUN_SEND] = "(send)",
                                        [RUN_RETURN] = "(return)",
                                        [RUN_PACK] = "(pack)",
                                        [RUN_UNPACK] = "(unpack)",
                                        [RUN_PARTS] = "(parts)",
                                        [RUN_REDUCE] = "(reduce)",
                                        [RUN_MIRROR] = "(mirror)",
                                        [RUN_SUM_ENDS] = "(ends)",
                                        [RUN_TENSOR_GATHER] = "(tensor gather)",
                                        [RUN_TENSOR_SCATTER] = "(tensor scatter)",
                                        [RUN_PASS_OUT] = "(pass)",
                                        [RUN_PASS_IN] = "(pass)",
                                        [RUN_NORM_SUM] = "(norm)",
                                        [RUN_TO_HOST] = "(host)",
                                        [RUN_FROM_HOST] = "(host)",
                                        [RUN_AWAIT_HOST] = "(host)",
                                        [RUN_GATHER] = "(gather)" };
    return in->kind == RUN_OP ? in->op->name : kind[in->kind];
}

static const char *way_of(const struct instr *in)
{
    return in->both ? "both" : in->backward ? "bwd" : "fwd";
}

static struct line *line_of(struct line *lines, int *n, const char *name, const char *way)
{
    for (int i = 0; i < *n; i++)
        if (strcmp(lines[i].way, way) == 0 && strcmp(lines[i].name, name) == 0)
            return &lines[i];
    lines[*n] = (struct line){ .name = name, .way = way };
    return &lines[(*n)++];
}

static int slowest_first(const void *x, const void *y)
{
    const struct line *a = x, *b = y;
    return a->seconds < b->seconds ? 1 : a->seconds > b->seconds ? -1 : 0;
}

static double flops_of(const struct graph *g, const struct instr *in)
{
    double flops = 0, bytes = 0;
    if (in->kind == RUN_OP)
        sched_cost(g, in, &flops, &bytes);
    return flops;
}

/* One more step in which every instruction is waited for. */
static int profile(struct bench *b, struct arena *a, struct line *lines)
{
    const struct program *p = &b->engine.program;
    int n = 0;
    for (int k = 0; k < LISTS; k++)
        b->engine.exec.spent[k] = ARENA_NEW(a, double, p->list[k].n + 1);
    one_step(b);
    for (int k = 0; k < LISTS; k++)
        for (int i = 0; i < p->list[k].n; i++) {
            const struct instr *in = &p->list[k].item[i];
            const int64_t times = k == LIST_MICRO ? p->plan.accumulation : 1;
            if (b->engine.exec.spent[k][i] == 0)
                continue;
            struct line *line = line_of(lines, &n, name_of(in), way_of(in));
            line->seconds += b->engine.exec.spent[k][i];
            line->flops += (double)times * flops_of(p->graph, in);
            line->calls += times;
        }
    qsort(lines, (size_t)n, sizeof *lines, slowest_first);
    return n;
}

static void print_honesty(const struct bench *b)
{
    const struct numbers *n = &b->plan.numbers;
    printf("routing natural from random weights; real text; dropped tokens 0; clipping and AdamW inside; "
           "device %s, "
           "master %s, moments %s, gradients %s; micro-batch %lld x accumulation %lld, backward repeats %d "
           "of %d "
           "operators\n",
           plan_backend_name[n->backend], plan_master_name[n->master], plan_moments_name[n->moments],
           num_dtype_name(n->gradient), (long long)b->plan.micro_batch, (long long)b->plan.accumulation,
           b->plan.recompute, b->plan.recompute_most);
}

static void print_result(const struct bench *b, double seconds, double fastest, const struct line *lines,
                         int n)
{
    double honest, example, sum = 0;
    model_flops_per_token(&b->setup.model, b->plan.sequence, &honest, &example);
    const double tokens = (double)(b->plan.global_batch * b->plan.sequence),
                 peak = b->setup.cluster.peak_flops_per_s * b->plan.n_ranks;
    printf("step of %.0f tokens, %lld layers: %.3f s (fastest %.3f), %.0f tokens/s, MFU %.1f %% (6 x active "
           "parameters + "
           "causal attention), %.1f %% (6 x 'activated', as the example)\n",
           tokens, (long long)b->setup.model.layers, seconds, fastest, tokens / seconds,
           100 * tokens * honest / seconds / peak, 100 * tokens * example / seconds / peak);
    print_honesty(b);
    printf("slab %lld bytes; %.1f s from the command to the first step; loss %.4f\n",
           (long long)b->engine.program.memory.peak_bytes, b->start_s, b->last.loss);
    if (b->outside_bytes[0] >= 0)
        printf("memory: slab %lld bytes (planned %lld); outside the slab %lld bytes of the device (context, "
               "libraries), %lld after the first step\n",
               (long long)b->engine.program.memory.peak_bytes, (long long)b->plan.memory.peak_bytes,
               (long long)b->outside_bytes[0], (long long)b->outside_bytes[1]);
    if (b->replayed_s > 0)
        printf("CUDA graphs: %d, %lld bytes of the device; step %.3f s with them, %.3f s without; losses and "
               "gradients %s\n",
               b->engine.exec.n_records, (long long)b->engine.exec.record_bytes, b->replayed_s, b->plain_s,
               b->same ? "equal to the bit" : "DIFFER");
    for (int i = 0; i < n; i++)
        sum += lines[i].seconds;
    printf("%-16s %9s %8s %8s %9s\n", "operator", "calls", "ms", "share", "TFLOP/s");
    for (int i = 0; i < n; i++)
        printf("%-12s %-4s %8lld %8.1f %7.1f%% %9.1f\n", lines[i].name, lines[i].way,
               (long long)lines[i].calls, 1e3 * lines[i].seconds, 100 * lines[i].seconds / sum,
               lines[i].flops / lines[i].seconds / 1e12);
    printf("sum %.1f ms (each operator waited for)\n", 1e3 * sum);
    bench_products_print();
}

static void print_json(const struct bench *b, double seconds, const struct line *lines, int n)
{
    const int64_t tokens = b->plan.global_batch * b->plan.sequence;
    printf("{\"seconds\": %.6g, \"tokens\": %lld, \"layers\": %lld, \"loss\": %.9g, \"slab_bytes\": %lld, "
           "\"start_seconds\": %.3f, ",
           seconds, (long long)tokens, (long long)b->setup.model.layers, b->last.loss,
           (long long)b->engine.program.memory.peak_bytes, b->start_s);
    if (b->outside_bytes[0] >= 0)
        printf("\"outside_slab_bytes\": [%lld, %lld], ", (long long)b->outside_bytes[0],
               (long long)b->outside_bytes[1]);
    if (b->replayed_s > 0)
        printf("\"graphs\": {\"n\": %d, \"bytes\": %lld, \"seconds\": %.6g, \"seconds_without\": %.6g, "
               "\"same_bits\": %s}, ",
               b->engine.exec.n_records, (long long)b->engine.exec.record_bytes, b->replayed_s, b->plain_s,
               b->same ? "true" : "false");
    printf("\"operators\": [");
    for (int i = 0; i < n; i++)
        printf("%s{\"name\": \"%s\", \"way\": \"%s\", \"calls\": %lld, \"seconds\": %.6g, \"flops\": %.6g}",
               i ? ", " : "", lines[i].name, lines[i].way, (long long)lines[i].calls, lines[i].seconds,
               lines[i].flops);
    printf("], ");
    bench_products_json();
    printf("}\n");
}

bool bench_step(struct arena *a, const struct config *c, struct err *e)
{
    struct bench *b = ARENA_NEW(a, struct bench, 1);
    struct line lines[128];
    double sum = 0, fastest = INFINITY;
    blas_warm_up();
    if (!start(b, a, c, e))
        return comm_ranks() == 1 ? false : (die_err(e), false);
    for (int64_t i = -2; i < c->steps; i++) { /* two that are not counted */
        const double begin = exec_now();
        one_step(b);
        const double seconds = exec_now() - begin;
        sum += i < 0 ? 0 : seconds;
        fastest = i >= 0 && seconds < fastest ? seconds : fastest;
    }
    compare_plain(b, sum / (double)c->steps);
    const int n = profile(b, a, lines);
    if (comm_rank() == 0 && c->json)
        print_json(b, sum / (double)c->steps, lines, n);
    else if (comm_rank() == 0)
        print_result(b, sum / (double)c->steps, fastest, lines, n);
    exec_free(&b->engine.exec);
    return b->replayed_s == 0 || b->same || err_set(e, "steps with and without CUDA graphs differ");
}
