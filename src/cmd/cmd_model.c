/* cmd_model.c - init, compile, simulate, train, eval, generate, check. */
#include "base/file.h"
#include "base/pool.h"
#include "base/str.h"
#include "cmd/cmd.h"
#include "run/check.h"
#include "run/eval.h"
#include "run/explain.h"
#include "run/generate.h"
#include "run/init.h"
#include "run/report.h"
#include "run/simulation.h"
#include "run/train.h"
#include <math.h>
#include <stdio.h>

static void start_threads(const struct config *c)
{
    const int share = pool_cores() / comm_local_ranks();
    pool_start(c->threads ? (int)c->threads : share > 1 ? share : 1);
}

bool cmd_start_ranks(const struct config *c, struct err *e)
{
    if (!comm_start(e))
        return false;
    start_threads(c);
    return true;
}

bool cmd_init(struct arena *a, const struct config *c, struct err *e)
{
    start_threads(c);
    return init_run(a, c, e);
}

static bool save_plan(const struct config *c, const struct str *text, struct err *e)
{
    if (!c->plan)
        return true;
    if (!file_write(c->plan, text->text, text->bytes, e))
        return false;
    if (!c->json)
        printf("written to %s\n", c->plan);
    return true;
}

/* That of the option or of the dataset. */
static bool sequence_length(struct arena *a, const struct config *c, int64_t *out, struct err *e)
{
    struct dataset d = { 0 };
    *out = c->sequence_length;
    if (!c->dataset_path)
        return *out > 0 ||
               err_code(e, EXIT_USAGE, "expected --sequence_length, or --dataset_path, which tells it");
    if (!dataset_open(a, c->dataset_path, true, &d, e))
        return false;
    *out = *out ? *out : d.sequence_length;
    return true;
}

/* A plan that is made without starting the run: one process, no other ranks. */
struct made {
    struct setup setup;
    struct plan_limits limits; /* with the bytes of a rank */
    struct plan plan;
    struct search_result found;
};

static bool make_plan(struct arena *a, const struct config *c, struct made *m, struct err *e)
{
    int64_t sequence;
    start_threads(c);
    if (!setup_describe(a, c, &m->setup, e) || !sequence_length(a, c, &sequence, e) ||
        !train_limits(c, &m->limits, e))
        return false;
    const int ranks = m->limits.n_ranks, threads = pool_cores() > ranks ? pool_cores() / ranks : 1;
    if (!setup_cluster(&m->setup, c->cluster, ranks, threads, e) ||
        !train_plan(&m->setup, c, sequence, &m->plan, &m->found, e))
        return false;
    setup_memory(&m->setup, &m->limits);
    return true;
}

static bool save_page(const struct config *c, const struct setup *s, const struct graph *g,
                      const struct plan *p, const struct explanation *x, int64_t limit, struct err *e)
{
    if (!c->html)
        return true;
    struct str page = str_new(s->arena, 64u << 20);
    explain_html(&page, s, g, p, x, limit);
    return file_write(c->html, page.text, page.bytes, e);
}

/* The plan, with the explanation as its last member. */
static void print_json(const struct setup *s, const struct graph *g, const struct plan *p,
                       const struct explanation *x, const char *plan_text, size_t bytes)
{
    struct str out = str_new(s->arena, 256u << 20);
    while (bytes > 0 && plan_text[bytes - 1] != '}')
        bytes--;
    str_add_bytes(&out, plan_text, bytes - 1);
    while (out.bytes > 0 && out.text[out.bytes - 1] == '\n')
        out.text[--out.bytes] = 0;
    str_add(&out, ",\n  \"explanation\": ");
    explain_json(&out, g, p, x);
    str_add(&out, "\n}\n");
    fputs(out.text, stdout);
}

static bool tell(const struct config *c, const struct made *m, double seconds, struct err *e)
{
    const struct setup *s = &m->setup;
    const struct plan *p = &m->plan;
    const int64_t limit = m->limits.memory_bytes;
    char hash[17];
    struct model_values v;
    struct explanation x;
    const struct model_options o = { .batch = plan_graph_batch(p),
                                     .sequence = p->sequence,
                                     .vocabulary_parts = p->vocabulary_parallel };
    const struct graph *g = model_graph(s->arena, &s->model, &o, &v);
    struct str text = str_new(s->arena, 256u << 20), report = str_new(s->arena, 1u << 20);
    plan_write(p, g, &text, hash);
    const double enough = c->explain == EXPLAIN_FULL ? INFINITY : seconds > 1 ? 2 * seconds : 2;
    explain_plan(s, &m->limits, p, &m->found, enough, &x);
    report_plan(&report, s, p, &m->found, limit);
    explain_text(&report, g, p, &x);
    if (c->json)
        print_json(s, g, p, &x, text.text, text.bytes);
    else
        printf("%splanned in %.3f s, explained in %.3f s\n", report.text, seconds, x.seconds);
    return save_page(c, s, g, p, &x, limit, e) && save_plan(c, &text, e);
}

bool cmd_compile(struct arena *a, const struct config *c, struct err *e)
{
    struct made *m = ARENA_NEW(a, struct made, 1);
    const double start = exec_now();
    struct config fresh = *c;
    fresh.plan = NULL; /* written below, not read */
    return make_plan(a, &fresh, m, e) && tell(c, m, exec_now() - start, e);
}

bool cmd_simulate(struct arena *a, const struct config *c, struct err *e)
{
    struct made *m = ARENA_NEW(a, struct made, 1);
    if (c->plan && !file_exists(c->plan))
        return err_set(e, "%s: not found; compile writes plans", c->plan);
    if (!make_plan(a, c, m, e))
        return false;
    struct str plan = str_new(a, 1u << 20), steps = str_new(a, 64u << 20);
    if (!simulation_run(a, &m->setup, &m->plan, c->trace, (int)c->trace_ranks, c->json, &steps, e))
        return false;
    report_plan(&plan, &m->setup, &m->plan, &m->found, m->limits.memory_bytes);
    if (!c->json)
        fputs(plan.text, stdout);
    fputs(steps.text, stdout);
    if (!c->json && c->trace)
        printf("written to %s\n", c->trace);
    return true;
}

bool cmd_train(struct arena *a, const struct config *c, struct err *e)
{
    if (c->run_mode == RUN_MODE_COMPILE)
        return cmd_compile(a, c, e);
    if (!cmd_start_ranks(c, e))
        return false;
    return train_run(a, c, e);
}

bool cmd_eval(struct arena *a, const struct config *c, struct err *e)
{
    if (!cmd_start_ranks(c, e))
        return false;
    return eval_run(a, c, e);
}

bool cmd_generate(struct arena *a, const struct config *c, struct err *e)
{
    start_threads(c);
    return generate_run(a, c, e);
}

bool cmd_check(struct arena *a, const struct config *c, struct err *e)
{
    start_threads(c);
    return check_run(a, c, e);
}
