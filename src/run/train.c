/* train.c - see train.h. */
#include "run/train.h"
#include "base/blas.h"
#include "base/file.h"
#include "base/pool.h"
#include "base/str.h"
#include "run/optim.h"
#include "run/position.h"
#include "run/report.h"
#include "run/save.h"
#include "run/weights.h"
#include <math.h>
#include <signal.h>
#include <string.h>

static volatile sig_atomic_t asked_to_stop;

static void on_signal(int number)
{
    (void)number;
    asked_to_stop = 1;
}

/* That of the options; where none of them is given, a multiple of the ranks. */
static int64_t step_batch(const struct config *c, int ranks, int unit)
{
    const int64_t batch = c->micro_batch_size * c->grad_accumulation_steps * (ranks / unit);
    if (c->global_batch_size)
        return c->global_batch_size;
    if (config_given(c, "micro_batch_size") || config_given(c, "grad_accumulation_steps"))
        return batch;
    return (batch + ranks - 1) / ranks * ranks;
}

bool train_limits(const struct config *c, struct plan_limits *l, struct err *e)
{
    const int ranks = c->runtime_ngpus ? (int)c->runtime_ngpus : comm_ranks();
    const int unit = c->plan_ngpus ? (int)c->plan_ngpus : ranks;
    const int64_t micro = config_given(c, "micro_batch_size") ? c->micro_batch_size : 0;
    if (c->plan_ngpus && ranks % unit)
        return err_code(e, EXIT_USAGE, "--runtime_ngpus %d is not a multiple of --plan_ngpus %d", ranks,
                        unit);
    *l = (struct plan_limits){
        .n_ranks = ranks,
        .unit_ranks = (int)c->plan_ngpus,
        .expert_parallel = (int)c->expert_parallel,
        .tensor_parallel = (int)c->tensor_parallel,
        .stages = (int)c->pipeline_stages,
        .chunks = (int)c->pipeline_chunks,
        .zero = c->zero == ZERO_AUTO ? -1 : c->zero - ZERO_OFF,
        .global_batch = step_batch(c, ranks, unit),
        .micro_batch = micro,
        .row_capacity = c->row_capacity,
        .recompute = (int)c->recompute,
        .lodgers = (int)c->offload,
        .max_degree = (int)c->max_degree,
        .vocabulary = (enum split_choice)c->split_vocabulary,
        .widths = (enum split_choice)c->split_experts,
        .keep_rows = (enum keep_choice)c->keep_rows,
        .memory_bytes = (int64_t)(c->mem_constraint * 1e9),
        .reproducible = c->reproducible || c->reproducible_shards > 0,
        .shards = (int)c->reproducible_shards,
    };
    return true;
}

static bool read_plan_file(const struct setup *s, const char *path, const struct plan_limits *l,
                           int64_t sequence, struct plan *p, struct err *e)
{
    size_t bytes = 0;
    char *text = file_read(s->arena, path, 64u << 20, &bytes, e);
    if (!text || !plan_parse(text, bytes, path, p, e))
        return false;
    if (strcmp(p->model, s->model.fingerprint) != 0)
        return err_code(e, EXIT_MISMATCH, "%s: made for model %s, this model is %s", path, p->model,
                        s->model.fingerprint);
    if (p->sequence != sequence || p->n_ranks != l->n_ranks)
        return err_code(e, EXIT_MISMATCH,
                        "%s: made for %d ranks and sequences of %lld, this run has %d and %lld", path,
                        p->n_ranks, (long long)p->sequence, l->n_ranks, (long long)sequence);
    const int64_t promised = p->memory.peak_bytes;
    if (!setup_measure(s, p, e))
        return false;
    if (p->memory.peak_bytes != promised)
        return err_code(e, EXIT_MISMATCH,
                        "%s: says a peak of %lld bytes, this program needs %lld: compile it again", path,
                        (long long)promised, (long long)p->memory.peak_bytes);
    const int64_t limit = plan_slab_limit(l, p);
    return p->memory.peak_bytes <= limit ||
           err_code(e, EXIT_MEMORY, "%s: needs %lld bytes per rank, the limit is %lld", path,
                    (long long)promised, (long long)limit);
}

bool train_plan(const struct setup *s, const struct config *c, int64_t sequence, struct plan *out,
                struct search_result *found, struct err *e)
{
    struct plan_limits l = { 0 };
    *found = (struct search_result){ 0 };
    if (!train_limits(c, &l, e))
        return false;
    setup_memory(s, &l);
    if (c->plan && file_exists(c->plan))
        return read_plan_file(s, c->plan, &l, sequence, out, e);
    if (!setup_plan(s, &l, sequence, found, e))
        return false;
    *out = found->best[0];
    return true;
}

/* Sequences that train and those that evaluate. */
static bool split_data(struct run *r, struct err *e)
{
    const struct config *c = r->config;
    const int64_t held = c->eval_dataset_path ? 0 : c->eval_sequences;
    if (held >= r->data.n_sequences)
        return err_code(e, EXIT_USAGE, "--eval_sequences %lld: the dataset has %lld sequences in all",
                        (long long)held, (long long)r->data.n_sequences);
    const int64_t n_train = r->data.n_sequences - held;
    r->eval_data = r->data;
    r->eval_begin = n_train;
    r->eval_end = r->data.n_sequences;
    if (c->eval_dataset_path) {
        if (!dataset_open(r->arena, c->eval_dataset_path, false, &r->eval_data, e))
            return false;
        if (r->eval_data.sequence_length != r->data.sequence_length)
            return err_code(e, EXIT_MISMATCH, "%s: sequences of %lld tokens, the training data has %lld",
                            c->eval_dataset_path, (long long)r->eval_data.sequence_length,
                            (long long)r->data.sequence_length);
        r->eval_begin = 0;
        r->eval_end = c->eval_sequences && c->eval_sequences < r->eval_data.n_sequences
                          ? c->eval_sequences
                          : r->eval_data.n_sequences;
    }
    const int32_t ignored = c->compat_nnscaler ? r->data.eos : -1;
    batches_new(r->arena, &r->data, n_train, c->seed, ignored, &r->batches);
    batches_new(r->arena, &r->eval_data, 0, c->seed, ignored, &r->eval_batches);
    r->bytes_per_token =
        (double)r->eval_data.n_bytes / (double)(r->eval_data.n_tokens > 0 ? r->eval_data.n_tokens : 1);
    return true;
}

/* Everything that can be wrong with the input, before ranks do anything together. */
static bool open_inputs(struct run *r, struct err *e)
{
    const struct config *c = r->config;
    if (!setup_open(r->arena, c, &r->setup, e) ||
        !setup_cluster(&r->setup, c->cluster, comm_local_ranks(), pool_threads(), e) ||
        !dataset_open(r->arena, c->dataset_path, comm_rank() != 0, &r->data, e) || !split_data(r, e))
        return false;
    if (r->data.vocab_size > r->setup.model.vocab)
        return err_code(e, EXIT_MISMATCH, "%s: token ids up to %lld, but vocab_size of %s is %lld",
                        c->dataset_path, (long long)r->data.vocab_size - 1, r->setup.model_dir,
                        (long long)r->setup.model.vocab);
    if (c->sequence_length && c->sequence_length != r->data.sequence_length)
        return err_code(e, EXIT_MISMATCH, "--sequence_length %lld, but the dataset has sequences of %lld",
                        (long long)c->sequence_length, (long long)r->data.sequence_length);
    if (c->runtime_ngpus && c->runtime_ngpus != comm_ranks())
        return err_code(e, EXIT_USAGE,
                        "--runtime_ngpus %lld, but %d ranks were started (mpirun -np %lld ...)",
                        (long long)c->runtime_ngpus, comm_ranks(), (long long)c->runtime_ngpus);
    return true;
}

static void count_steps(struct run *r)
{
    const struct config *c = r->config;
    const int64_t G = r->plan.global_batch;
    r->steps_per_epoch = (r->batches.n_train + G - 1) / G;
    r->total_steps = r->steps_per_epoch * c->epochs;
    if (c->max_steps && c->max_steps < r->total_steps)
        r->total_steps = c->max_steps;
}

static bool start_engine(struct run *r, struct err *e)
{
    const struct config *c = r->config;
    const struct adamw o = { c->betas[0], c->betas[1], c->eps, c->weight_decay };
    const int64_t host_bytes = save_budget(r);
    double example;
    engine_build(&r->setup, &r->plan, true, false, &o, &r->engine);
    r->outside_bytes[0] = exec_outside(&r->engine.exec);
    step_new(r->arena, &r->engine, &r->batches, r->eval_end - r->eval_begin, &r->stepper);
    model_flops_per_token(&r->setup.model, r->plan.sequence, &r->flops_per_token, &example);
    r->holdings = weights_holdings(r->arena, r->engine.graph, &r->plan);
    r->stored = ARENA_NEW(r->arena, enum dtype, r->engine.graph->params.n);
    r->position = ARENA_NEW(r->arena, struct position, 1);
    plan_hash(&r->plan, r->plan_hash);
    *r->position = (struct position){ .seed = c->seed,
                                      .n_train = r->batches.n_train,
                                      .global_batch = r->plan.global_batch };
    memcpy(r->position->dataset, r->data.fingerprint, sizeof r->data.fingerprint);
    memcpy(r->position->model, r->setup.model.fingerprint, sizeof r->position->model);
    memcpy(r->position->plan, r->plan_hash, sizeof r->plan_hash);
    if (r->resumed_from ? !run_resume(r, e)
                        : !engine_load(&r->setup, &r->engine, c->init, c->seed, r->stored, &r->how, e))
        return false;
    save_open(r, host_bytes);
    return true;
}

static double evaluate(struct run *r)
{
    int64_t targets;
    r->stepper.batches = &r->eval_batches;
    const double loss = step_evaluate(&r->stepper, r->eval_begin, r->eval_end, &targets);
    r->stepper.batches = &r->batches;
    return loss;
}

static bool refuse_step(const struct run *r, const struct step_result *s, struct err *e)
{
    const char *directory = r->directory;
    if (s->bad_tensor)
        return err_code(e, EXIT_NONFINITE,
                        "step %lld: the gradient of %s is not finite (loss %g); nothing was updated, the "
                        "last checkpoint in %s "
                        "is intact; a lower --lr or --clip_grad_norm is the usual cure",
                        (long long)r->position->step + 1, s->bad_tensor, s->loss, directory);
    return err_code(e, EXIT_NONFINITE,
                    "step %lld: the loss is not finite (%g) though every gradient is; nothing was updated",
                    (long long)r->position->step + 1, s->loss);
}

static void advance(struct run *r, int64_t n)
{
    struct position *p = r->position;
    p->step++;
    p->sample += n;
    p->tokens += n * r->plan.sequence;
    if (p->sample >= r->batches.n_train) {
        p->sample = 0;
        p->epoch++;
    }
}

static bool one_step(struct run *r, struct step_report *report, struct err *e)
{
    const struct config *c = r->config;
    struct position *p = r->position;
    const int64_t left = r->batches.n_train - p->sample,
                  n = left < r->plan.global_batch ? left : r->plan.global_batch;
    const struct lr_options o = { c->lr, c->min_lr, c->warmup_steps, r->total_steps, c->lr_schedule };
    struct exec *x = &r->engine.exec;
    const double start = exec_now();
    *report = (struct step_report){ .lr = optim_lr(&o, p->step + 1), .eval_loss = -1 };
    memset(x->seconds, 0, sizeof x->seconds);
    x->most_rounds = x->sent_copies = x->sent_rows = 0;
    x->control = (struct step_control){ report->lr,        c->betas[0], c->betas[1],
                                        c->clip_grad_norm, p->step + 1, c->seed };
    report->result = step_train(&r->stepper, p->epoch, p->sample, n);
    if (!report->result.finite)
        return refuse_step(r, &report->result, e);
    advance(r, n);
    if (r->outside_bytes[1] == 0)
        r->outside_bytes[1] = exec_outside(x);
    p->loss = report->result.loss;
    report->seconds = exec_now() - start;
    exec_count_times(x);
    memcpy(report->times, x->seconds, sizeof report->times);
    report->rounds = x->most_rounds;
    report->sent_copies = x->sent_copies;
    report->sent_rows = x->sent_rows;
    return true;
}

/* Evaluation and checkpoint where due; true: the run ends here. */
static bool after_step(struct run *r, struct step_report *report)
{
    const struct config *c = r->config;
    struct position *p = r->position;
    comm_doing("end of the step");
    const bool stop = comm_max(asked_to_stop) > 0;
    const bool done = stop || p->step >= r->total_steps;
    if (r->eval_end > r->eval_begin && ((c->eval_every && p->step % c->eval_every == 0) || (done && !stop))) {
        report->eval_loss = evaluate(r);
        if (p->best_step == 0 || report->eval_loss < p->best_eval) {
            p->best_eval = report->eval_loss;
            p->best_step = p->step;
        }
    }
    save_poll(r);
    save_times(r, &report->save_wait, &report->save_write);
    run_log(r, report);
    if (c->save_every >= 0 && (done || (c->save_every && p->step % c->save_every == 0)))
        save_start(r, done);
    if (stop && c->save_every < 0 && comm_rank() == 0 && !c->json)
        printf("stopped by a signal after step %lld; no checkpoint is written (--save_every -1)\n",
               (long long)p->step);
    else if (stop && comm_rank() == 0 && !c->json)
        printf(
            "stopped by a signal after step %lld; the checkpoint is written, --resume_path last continues\n",
            (long long)p->step);
    return done;
}

static void measure(struct run *r, const struct step_report *s)
{
    struct measured *m = &r->measured;
    const int layers = r->engine.values.n_moe;
    for (int k = 0; k < layers; k++)
        m->expert_load += step_load_ratio(&r->stepper, k) / layers;
    m->n_steps++;
    m->seconds += s->seconds;
    for (int i = 0; i < COST_CLASSES; i++)
        m->class_seconds[i] += s->times[i];
}

static bool loop(struct run *r, struct err *e)
{
    bool done = r->position->step >= r->total_steps;
    if (done && comm_rank() == 0 && !r->config->json)
        printf("nothing to do: %lld of %lld steps are done\n", (long long)r->position->step,
               (long long)r->total_steps);
    for (bool first = true; !done; first = false) {
        struct step_report report;
        if (!one_step(r, &report, e))
            return false;
        if (!first)
            measure(r, &report);
        done = after_step(r, &report);
    }
    return true;
}

static void print_start(const struct run *r)
{
    const struct plan *p = &r->plan;
    const double allocated = comm_max((double)r->engine.program.memory.peak_bytes);
    if (comm_rank() != 0 || r->config->json)
        return;
    struct str s = str_new(r->arena, 1u << 20);
    config_print(&s, r->config);
    fputs(s.text, stdout);
    printf("ranks %d (%s), threads per rank %d, BLAS %s\n", comm_ranks(), comm_name(), pool_threads(),
           blas_name());
    printf("plan %s: expert parallel %d, tensor parallel %d, vocabulary parallel %d, width parallel %d, "
           "stages %d, ZeRO-%d over "
           "%d, micro-batch %lld x "
           "accumulation %lld x ranks %d = "
           "%lld sequences of %lld\n",
           r->plan_hash, p->expert_parallel, p->tensor_parallel, p->vocabulary_parallel, p->width_parallel,
           p->stages, p->zero, p->zero_ranks, (long long)p->micro_batch, (long long)p->accumulation,
           plan_workers(p), (long long)p->global_batch, (long long)p->sequence);
    str_clear(&s);
    report_shards(&s, p);
    report_numbers(&s, p);
    fputs(s.text, stdout);
    if (r->setup.backend == CUDA)
        printf("device: %s\n", device_cuda_description());
    printf("memory of the largest rank: %.0f bytes allocated, %lld bytes planned\n", allocated,
           (long long)p->memory.peak_bytes);
    if (r->outside_bytes[0] >= 0)
        printf("memory: slab %lld bytes (planned %lld); outside the slab %lld bytes of the device (context, "
               "libraries)\n",
               (long long)r->engine.program.memory.peak_bytes, (long long)p->memory.peak_bytes,
               (long long)r->outside_bytes[0]);
    printf("%s%s\n", r->resumed_from ? "weights, optimizer state and position: " : r->how,
           r->resumed_from ? r->resumed_from : "");
    printf("data %s: %lld sequences train, %lld are held back; %lld steps, run directory %s\n",
           r->data.fingerprint, (long long)r->batches.n_train, (long long)(r->eval_end - r->eval_begin),
           (long long)r->total_steps, r->directory);
    save_describe(r);
    if (r->setup.model.experts)
        printf("aux loss alpha %g (config.json), %s\n",
               r->config->compat_nnscaler ? 0 : r->setup.model.aux_alpha,
               r->setup.model.sequence_aux ? "per sequence" : "per micro-batch of a rank");
    fflush(stdout);
}

/* Gives every rank the outcome of rank 0. */
static bool share(bool ok, struct err *e)
{
    comm_broadcast(0, &ok, sizeof ok);
    comm_broadcast(0, e, sizeof *e);
    return ok;
}

/* Rank 0 looks first: one message instead of one per rank. */
static bool open_everywhere(struct run *r, struct err *e)
{
    if (!share(comm_rank() != 0 || open_inputs(r, e), e))
        return false;
    if (comm_rank() != 0 && !open_inputs(r, e))
        die_err(e);
    return true;
}

static bool make_plan(struct run *r, struct err *e)
{
    struct search_result found;
    return train_plan(&r->setup, r->config, r->data.sequence_length, &r->plan, &found, e);
}

static bool share_plan(struct run *r, struct err *e)
{
    r->directory = run_directory(r);
    if (!share(comm_rank() != 0 || (make_plan(r, e) && run_open_directory(r, e)), e))
        return false;
    comm_broadcast(0, &r->plan, sizeof r->plan);
    char resumed[4096] = "";
    if (r->resumed_from)
        snprintf(resumed, sizeof resumed, "%s", r->resumed_from);
    comm_broadcast(0, resumed, sizeof resumed);
    if (resumed[0])
        r->resumed_from = arena_strdup(r->arena, resumed);
    return true;
}

bool train_run(struct arena *a, const struct config *c, struct err *e)
{
    struct run *r = ARENA_NEW(a, struct run, 1);
    *r = (struct run){ .arena = a, .config = c };
    signal(SIGTERM, on_signal);
    signal(SIGUSR1, on_signal);
    blas_warm_up();
    if (!open_everywhere(r, e))
        return false;
    comm_timeout(c->collective_timeout); /* not before: rank 0 reads the whole dataset */
    if (!setup_connect(&r->setup, c, c->cluster, e) || !share_plan(r, e))
        return false;
    count_steps(r);
    if (!start_engine(r, e) || !run_open_metrics(r, e))
        die_err(e);
    comm_doing("start: do the ranks agree");
    if (!comm_agree(graph_signature(r->engine.graph)))
        die("the ranks do not agree on the graph: different programs or files?");
    print_start(r);
    const bool ok = loop(r, e);
    save_close(r);
    progress_end_line(r);
    progress_compare(r);
    if (r->metrics)
        fclose(r->metrics);
    exec_free(&r->engine.exec);
    return ok;
}
