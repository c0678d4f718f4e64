/* run_dir.c - the directory of a run: options, plan, metrics, checkpoints. */
#include "base/file.h"
#include "base/str.h"
#include "run/position.h"
#include "run/train.h"
#include "run/weights.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *last_component(struct arena *a, const char *path)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    size_t begin = n;
    while (begin > 0 && path[begin - 1] != '/')
        begin--;
    return arena_strndup(a, path + begin, n - begin);
}

const char *run_directory(const struct run *r)
{
    const struct config *c = r->config;
    const char *name = c->name && c->name[0]
                           ? c->name
                           : arena_printf(r->arena, "%s-%s", last_component(r->arena, c->model_id),
                                          last_component(r->arena, c->dataset_path));
    return arena_printf(r->arena, "%s/%s", c->output_dir, name);
}

static const char *checkpoints(const struct run *r, const char *below)
{
    return arena_printf(r->arena, "%s/checkpoints%s%s", r->directory, below[0] ? "/" : "", below);
}

/* --resume_path: none, "last" (of this run; nothing there = start anew), or a path. */
static bool choose_resume(struct run *r, struct err *e)
{
    const char *path = r->config->resume_path, *own = checkpoints(r, "last");
    const bool has_own = file_exists(arena_printf(r->arena, "%s/checkpoint.json", own));
    if (!path || strcmp(path, "none") == 0)
        return !has_own || err_code(e, EXIT_USAGE,
                                    "%s already holds a run: --resume_path last continues it, another --name "
                                    "starts a new one",
                                    r->directory);
    if (strcmp(path, "last") == 0)
        r->resumed_from = has_own ? own : NULL;
    else
        r->resumed_from = ckpt_find(r->arena, path, e);
    return r->resumed_from || strcmp(path, "last") == 0;
}

static char first_problem[512]; /* the report of ckpt_verify has no context */

static void keep_first(const char *line)
{
    if (!first_problem[0])
        snprintf(first_problem, sizeof first_problem, "%s", line);
}

/* Every checksum, once, before a rank reads its part. A directory without a manifest is refused later. */
static bool verify_resume(const struct run *r, struct err *e)
{
    struct err all = { 0 };
    if (!r->resumed_from || !file_exists(arena_printf(r->arena, "%s/checkpoint.json", r->resumed_from)) ||
        ckpt_verify(r->resumed_from, keep_first, &all))
        return true;
    return err_code(e, all.code, "%s", first_problem[0] ? first_problem : all.text);
}

static bool write_text(const char *path, const struct str *s, struct err *e)
{
    return file_write(path, s->text, s->bytes, e);
}

static bool write_description(struct run *r, struct err *e)
{
    struct str s = str_new(r->arena, 64u << 20);
    struct config chosen = *r->config; /* with what the plan chose, so that the file repeats the run */
    chosen.micro_batch_size = r->plan.micro_batch * plan_unit_workers(&r->plan);
    chosen.global_batch_size = r->plan.global_batch;
    chosen.expert_parallel = r->plan.expert_parallel;
    chosen.tensor_parallel = r->plan.tensor_parallel;
    if (r->plan.tensor_parallel > 1) {
        chosen.split_vocabulary = r->plan.vocabulary_parallel > 1 ? SPLIT_ON : SPLIT_OFF;
        chosen.split_experts = r->plan.width_parallel > 1 ? SPLIT_ON : SPLIT_OFF;
    }
    chosen.overlap = r->plan.overlap > 1 ? OVERLAP_ROUNDS : r->plan.overlap ? OVERLAP_ON : OVERLAP_OFF;
    chosen.keep_rows = r->plan.keep_rows ? KEEP_ON : KEEP_OFF;
    chosen.pipeline_stages = r->plan.stages;
    chosen.pipeline_chunks = r->plan.chunks;
    config_json(&s, &chosen);
    if (!write_text(arena_printf(r->arena, "%s/options.json", r->directory), &s, e))
        return false;
    str_clear(&s);
    struct arena *a = arena_new("plan text");
    struct model_values v;
    const struct model_options o = { .batch = plan_graph_batch(&r->plan),
                                     .sequence = r->plan.sequence,
                                     .vocabulary_parts = r->plan.vocabulary_parallel,
                                     .compat_nnscaler = r->config->compat_nnscaler };
    plan_write(&r->plan, model_graph(a, &r->setup.model, &o, &v), &s, r->plan_hash);
    arena_free(a);
    return write_text(arena_printf(r->arena, "%s/plan.json", r->directory), &s, e);
}

/* Keeps the lines of steps that the resumed checkpoint has done: a killed run may have logged more. */
static bool trim_metrics(struct run *r, const char *path, int64_t step, struct err *e)
{
    size_t bytes;
    if (!file_exists(path))
        return true;
    const char *text = file_read(r->arena, path, (size_t)1 << 32, &bytes, e), *at = text;
    if (!text)
        return false;
    while (*at) {
        const char *end = strchr(at, '\n'), key[] = "{\"step\": ";
        if (!end || strncmp(at, key, sizeof key - 1) != 0 || strtoll(at + sizeof key - 1, NULL, 10) > step)
            break;
        at = end + 1;
    }
    return file_write(path, text, (size_t)(at - text), e);
}

bool run_open_directory(struct run *r, struct err *e)
{
    if (!choose_resume(r, e) || !verify_resume(r, e) || !file_mkdirs(checkpoints(r, ""), e) ||
        !write_description(r, e))
        return false;
    progress_open(r);
    return true;
}

bool run_open_metrics(struct run *r, struct err *e)
{
    const char *path = arena_printf(r->arena, "%s/metrics.jsonl", r->directory);
    if (comm_rank() != 0)
        return true;
    if (r->resumed_from ? !trim_metrics(r, path, r->position->step, e) : !file_write(path, "", 0, e))
        return false;
    r->metrics = fopen(path, "a");
    return r->metrics || err_code(e, EXIT_WORLD, "%s: %s", path, strerror(errno));
}

static bool resume_from(struct run *r, struct ckpt *c, struct err *e)
{
    struct position saved;
    const char *state = ckpt_train_state(c);
    if (!state)
        return err_code(e, EXIT_MISMATCH,
                        "%s: not a checkpoint of moec (no train_state.json); use it as --model_id instead",
                        r->resumed_from);
    if (!position_parse(state, arena_printf(r->arena, "%s/train_state.json", r->resumed_from), &saved, e) ||
        !position_matches(&saved, r->position, r->resumed_from, e) ||
        !ckpt_match(c, &r->engine.graph->params, e) || !weights_load_state(&r->engine.exec, c, e))
        return false;
    for (int i = 0; i < r->engine.graph->params.n; i++)
        r->stored[i] = ckpt_stored(c, &r->engine.graph->params.item[i]);
    memcpy(saved.plan, r->plan_hash, sizeof saved.plan);
    saved.global_batch = r->plan.global_batch;
    *r->position = saved;
    return true;
}

bool run_resume(struct run *r, struct err *e)
{
    struct arena *a = arena_new("resume");
    struct ckpt *c = ckpt_open(a, r->resumed_from, e);
    const bool ok = c && resume_from(r, c, e);
    if (c)
        ckpt_close(c);
    arena_free(a);
    return ok;
}

static void write_metrics(FILE *f, const struct run *r, const struct step_report *s, double tokens_per_s,
                          double mfu)
{
    static const char *const names[COST_CLASSES] = { "compute", "exchange", "reduce", "optimizer" };
    fprintf(f,
            "{\"step\": %lld, \"loss\": %.17g, \"bits_per_token\": %.9g, \"aux_loss\": %.17g, \"grad_norm\": "
            "%.17g, \"lr\": %.9g, ",
            (long long)r->position->step, s->result.loss, s->result.loss / log(2.0), s->result.aux,
            s->result.grad_norm, s->lr);
    fprintf(f,
            "\"tokens\": %lld, \"tokens_per_s\": %.6g, \"mfu\": %.6g, \"peak_memory_bytes\": %lld, "
            "\"rounds\": %lld, \"dropped_tokens\": 0, ",
            (long long)r->position->tokens, tokens_per_s, mfu, (long long)r->plan.memory.peak_bytes,
            (long long)s->rounds);
    if (plan_sends_once(&r->plan))
        fprintf(f, "\"sent_copies\": %lld, \"sent_rows\": %lld, ", (long long)s->sent_copies,
                (long long)s->sent_rows);
    if (r->outside_bytes[1] > 0)
        fprintf(f, "\"outside_slab_bytes\": %lld, ", (long long)r->outside_bytes[1]);
    fprintf(f, "\"arena_allocations\": %zu, \"expert_load_max_over_mean\": {", arena_n_mallocs());
    for (int k = 0; k < r->engine.values.n_moe; k++)
        fprintf(f, "%s\"%d\": %.4g", k ? ", " : "", r->engine.values.moe_layer[k],
                step_load_ratio(&r->stepper, k));
    fprintf(f, "}, \"seconds\": {\"step\": %.6g", s->seconds);
    for (int i = 0; i < COST_CLASSES; i++)
        fprintf(f, ", \"%s\": %.6g", names[i], s->times[i]);
    fprintf(f, ", \"save_wait\": %.6g, \"save_write\": %.6g}", s->save_wait, s->save_write);
    fprintf(f,
            ", \"predicted_seconds\": {\"step\": %.6g, \"compute\": %.6g, \"exchange\": %.6g, \"reduce\": "
            "%.6g, \"optimizer\": %.6g}",
            r->plan.cost.step_us / 1e6, r->plan.cost.compute_us / 1e6, r->plan.cost.exchange_us / 1e6,
            r->plan.cost.reduce_us / 1e6, r->plan.cost.optimizer_us / 1e6);
    if (s->eval_loss >= 0)
        fprintf(f, ", \"eval_loss\": %.17g, \"eval_bits_per_byte\": %.9g", s->eval_loss,
                s->eval_loss / log(2.0) / r->bytes_per_token);
    fprintf(f, "}\n");
    fflush(f);
}

void run_log(struct run *r, const struct step_report *s)
{
    if (comm_rank() != 0)
        return;
    const double tokens_per_s = (double)s->result.n_tokens / s->seconds;
    const double mfu =
        tokens_per_s * r->flops_per_token / (r->setup.cluster.peak_flops_per_s * r->plan.n_ranks);
    r->eta_seconds = s->seconds * (double)(r->total_steps - r->position->step);
    if (r->config->json)
        write_metrics(stdout, r, s, tokens_per_s, mfu);
    else
        progress_print(r, s, tokens_per_s, mfu);
    write_metrics(r->metrics, r, s, tokens_per_s, mfu);
}
