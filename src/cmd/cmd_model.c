/* cmd_model.c - init, compile, train, eval, generate, check. */
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
#include "run/train.h"
#include <stdio.h>

static void start_threads(const struct config *c)
{
    const int share = pool_cores() / comm_local_ranks();
    pool_start(c->threads ? (int)c->threads : share > 1 ? share : 1);
}

static bool start_ranks(const struct config *c, struct err *e)
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
        return *out > 0 || err_code(e, EXIT_USAGE, "compile: expected --dataset_path or --sequence_length");
    if (!dataset_open(a, c->dataset_path, true, &d, e))
        return false;
    *out = *out ? *out : d.sequence_length;
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

static bool tell(const struct config *c, const struct setup *s, const struct plan_limits *l,
                 const struct plan *p, const struct search_result *found, double seconds, struct err *e)
{
    char hash[17];
    struct model_values v;
    struct explanation x;
    const struct model_options o = { .batch = plan_graph_batch(p), .sequence = p->sequence };
    const struct graph *g = model_graph(s->arena, &s->model, &o, &v);
    struct str text = str_new(s->arena, 256u << 20), report = str_new(s->arena, 1u << 20);
    plan_write(p, g, &text, hash);
    explain_plan(s, l, p, found, &x);
    report_plan(&report, s, p, found, l->memory_bytes);
    explain_text(&report, g, p, &x);
    if (c->json)
        print_json(s, g, p, &x, text.text, text.bytes);
    else
        printf("%splanned in %.3f s, explained in %.3f s\n", report.text, seconds, x.seconds);
    return save_page(c, s, g, p, &x, l->memory_bytes, e) && save_plan(c, &text, e);
}

/* Makes the plan of a run without starting it: one process, no other ranks. */
bool cmd_compile(struct arena *a, const struct config *c, struct err *e)
{
    struct setup s;
    int64_t sequence;
    struct plan p;
    struct search_result found;
    struct plan_limits l = { 0 };
    const double start = exec_now();
    if (!setup_describe(a, c, &s, e) || !sequence_length(a, c, &sequence, e))
        return false;
    struct config fresh = *c;
    fresh.plan = NULL; /* written below, not read */
    if (!train_limits(c, &l, e))
        return false;
    if (!setup_cluster(&s, c->cluster, l.n_ranks, pool_cores() > l.n_ranks ? pool_cores() / l.n_ranks : 1, e))
        return false;
    if (!train_plan(&s, &fresh, sequence, &p, &found, e))
        return false;
    l.memory_bytes = l.memory_bytes ? l.memory_bytes : s.cluster.memory_bytes;
    return tell(c, &s, &l, &p, &found, exec_now() - start, e);
}

bool cmd_train(struct arena *a, const struct config *c, struct err *e)
{
    if (c->run_mode == RUN_MODE_COMPILE)
        return cmd_compile(a, c, e);
    if (!start_ranks(c, e))
        return false;
    return train_run(a, c, e);
}

bool cmd_eval(struct arena *a, const struct config *c, struct err *e)
{
    if (!start_ranks(c, e))
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
