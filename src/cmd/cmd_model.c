/* cmd_model.c - init, compile, train, eval, generate, check. */
#include "base/file.h"
#include "base/pool.h"
#include "base/str.h"
#include "cmd/cmd.h"
#include "run/check.h"
#include "run/eval.h"
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

/* Makes the plan of a run without starting it: one process, no other ranks. */
bool cmd_compile(struct arena *a, const struct config *c, struct err *e)
{
    struct setup s;
    int64_t sequence;
    struct plan p;
    struct search_result found;
    struct plan_limits l = { 0 };
    struct model_values v;
    char hash[17];
    const double start = exec_now();
    if (!setup_describe(a, c, &s, e) || !sequence_length(a, c, &sequence, e))
        return false;
    struct config fresh = *c;
    fresh.plan = NULL; /* written below, not read */
    if (!train_limits(c, &l, e))
        return false;
    if (!setup_cluster(&s, c->cluster, l.n_ranks, pool_cores() > l.n_ranks ? pool_cores() / l.n_ranks : 1, e))
        return false;
    const int64_t limit = l.memory_bytes ? l.memory_bytes : s.cluster.memory_bytes;
    if (!train_plan(&s, &fresh, sequence, &p, &found, e))
        return false;
    const struct model_options o = { .batch = plan_graph_batch(&p), .sequence = p.sequence };
    struct str text = str_new(a, 256u << 20), report = str_new(a, 1u << 20);
    plan_write(&p, model_graph(a, &s.model, &o, &v), &text, hash);
    report_plan(&report, &s, &p, &found, limit);
    fputs(c->json ? text.text : report.text, stdout);
    if (!c->json)
        printf("planned in %.3f s\n", exec_now() - start);
    return save_plan(c, &text, e);
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
