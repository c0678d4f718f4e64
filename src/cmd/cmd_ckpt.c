/* cmd_ckpt.c - merge, export; verify and inspect of checkpoints and model directories. */
#include "base/file.h"
#include "base/pool.h"
#include "ckpt/ckpt.h"
#include "cmd/cmd.h"
#include "model/model.h"
#include <stdio.h>

bool cmd_merge(struct arena *a, const struct config *c, struct err *e)
{
    const char *from = ckpt_find(a, c->ckpt_dir, e);
    if (!from || !ckpt_merge(from, c->output_fname, c->max_shard_size, e))
        return false;
    printf("merged %s into %s\n", from, c->output_fname);
    return true;
}

bool cmd_export(struct arena *a, const struct config *c, struct err *e)
{
    static const int dtypes[] = {
        [DTYPE_KEEP] = -1, [DTYPE_FLOAT32] = F32, [DTYPE_BFLOAT16] = BF16, [DTYPE_FLOAT16] = F16
    };
    const char *from = ckpt_find(a, c->ckpt_dir, e);
    if (!from || !ckpt_export(from, c->output, dtypes[c->dtype], c->max_shard_size, e))
        return false;
    printf("exported %s to %s\n", from, c->output);
    return true;
}

static void print_problem(const char *line)
{
    printf("%s\n", line);
}

bool cmd_verify_model(struct arena *a, const struct config *c, struct err *e)
{
    const char *dir = ckpt_find(a, c->path, e);
    pool_start(pool_cores());
    if (!dir || !ckpt_verify(dir, print_problem, e))
        return false;
    printf("%s: complete, all checksums match\n", dir);
    return true;
}

static void print_model(struct arena *a, const struct model_config *m, const struct graph *g)
{
    double honest, example;
    int64_t n = 0;
    for (int i = 0; i < g->params.n; i++)
        n += g->params.item[i].n_elements;
    model_flops_per_token(m, 2048, &honest, &example);
    struct str text = str_new(a, 1 << 16);
    m->family->describe(m, &text);
    fwrite(text.text, 1, text.bytes, stdout);
    printf("  %lld parameters; %.4g GFLOP per trained token at 2048 (%.4g as 6 x activated, no attention)\n",
           (long long)n, honest / 1e9, example / 1e9);
}

/* A model directory or checkpoint: its configuration, whether its tensors are those of the configuration, position. */
bool cmd_inspect_model(struct arena *a, const struct config *c, struct err *e)
{
    struct model_config m;
    struct model_values v;
    const struct model_options o = { .batch = 1, .sequence = 2 };
    const bool plain = file_exists(arena_printf(a, "%s/config.json", c->path));
    const char *dir = plain ? c->path : ckpt_find(a, c->path, e);
    if (!dir || !model_config_read(dir, &m, e))
        return false;
    const struct graph *g = model_graph(a, &m, &o, &v);
    struct ckpt *k = ckpt_open(a, dir, e);
    if (!k)
        return false;
    const bool ok = ckpt_n_tensors(k) == 0 || ckpt_match(k, &g->params, e);
    if (ok) {
        printf("%s: model %s\n", dir, m.fingerprint);
        print_model(a, &m, g);
        if (ckpt_n_tensors(k))
            printf("  %lld tensors, all that the configuration needs\n", (long long)ckpt_n_tensors(k));
        else
            printf("  no weights: training starts from random ones\n");
        if (ckpt_train_state(k))
            printf("  position: %s", ckpt_train_state(k));
    }
    ckpt_close(k);
    return ok;
}
