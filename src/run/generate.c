/* generate.c - see generate.h. */
#include "run/generate.h"
#include "base/blas.h"
#include "base/rng.h"
#include "base/str.h"
#include "data/bpe.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct candidate {
    float logit;
    int32_t id;
};

static int by_logit(const void *x, const void *y)
{
    const struct candidate *a = x, *b = y;
    if (a->logit != b->logit)
        return a->logit < b->logit ? 1 : -1;
    return a->id < b->id ? -1 : a->id > b->id;
}

/* Draws from the smallest set of likeliest tokens whose probability reaches top_p. */
static int32_t sample(struct candidate *c, int64_t n, double temperature, double top_p, double u)
{
    double total = 0, kept = 0, sum = 0;
    qsort(c, (size_t)n, sizeof *c, by_logit);
    if (temperature == 0)
        return c[0].id;
    for (int64_t i = 0; i < n; i++)
        total += exp(((double)c[i].logit - c[0].logit) / temperature);
    int64_t last = 0;
    for (; last < n && (last == 0 || kept < top_p * total); last++)
        kept += exp(((double)c[last].logit - c[0].logit) / temperature);
    for (int64_t i = 0; i < last; i++) {
        sum += exp(((double)c[i].logit - c[0].logit) / temperature);
        if (u * kept < sum)
            return c[i].id;
    }
    return c[last - 1].id;
}

struct generation {
    const struct config *c;
    struct setup setup;
    struct engine engine;
    struct bpe *bpe;
    int32_t *ids;
    int64_t n, n_prompt, most;
};

static bool encode_prompt(struct generation *g, struct err *e)
{
    struct bpe_encoder *x = bpe_encoder_new(g->bpe);
    const int32_t *ids;
    const int64_t n = bpe_encode(x, g->c->prompt, strlen(g->c->prompt), &ids, e);
    const int32_t bos = bpe_bos(g->bpe);
    if (n >= 0) {
        g->most = n + 1 + g->c->max_new_tokens;
        g->ids = ARENA_NEW(g->setup.arena, int32_t, g->most);
        if (bos >= 0)
            g->ids[g->n++] = bos;
        memcpy(g->ids + g->n, ids, (size_t)n * sizeof *ids);
        g->n += n;
    }
    bpe_encoder_free(x);
    if (n >= 0 && g->n == 0)
        return err_code(e, EXIT_USAGE, "--prompt is empty and the tokenizer has no BOS token to begin with");
    g->n_prompt = g->n;
    for (int64_t i = 0; i < g->n; i++)
        if (g->ids[i] >= g->setup.model.vocab)
            return err_code(e, EXIT_MISMATCH,
                            "the tokenizer gives id %d, but vocab_size of the model is %lld", g->ids[i],
                            (long long)g->setup.model.vocab);
    return n >= 0;
}

static void extend(struct generation *g)
{
    const struct config *c = g->c;
    const int64_t S = g->engine.program.plan.sequence, V = g->setup.model.vocab;
    struct exec *x = &g->engine.exec;
    const enum dtype t = plan_float(&g->engine.program.plan);
    int32_t *tokens = ARENA_NEW(g->setup.arena, int32_t, S);
    float *logits = ARENA_NEW(g->setup.arena, float, V); /* of the last position */
    struct candidate *list = ARENA_NEW(g->setup.arena, struct candidate, V);
    while (g->n < S) {
        memcpy(tokens, g->ids, (size_t)g->n * sizeof *tokens);
        exec_put(x, g->engine.program.value[g->engine.values.tokens], tokens, S * (int64_t)sizeof *tokens);
        exec_run(x, LIST_EVAL);
        struct ref last = g->engine.program.value[g->engine.values.logits];
        last.at_bytes += (g->n - 1) * V * (int64_t)num_dtype_bytes(t);
        exec_get_floats(x, logits, last, t, V);
        for (int64_t v = 0; v < V; v++)
            list[v] = (struct candidate){ logits[v], (int32_t)v };
        const int32_t id = sample(list, V, c->temperature, c->top_p,
                                  rng_uniform((uint64_t)c->seed, 0x67656e, (uint64_t)g->n));
        g->ids[g->n++] = id;
        if (id == bpe_eos(g->bpe))
            break;
    }
}

static void print_text(const struct generation *g)
{
    size_t bytes;
    struct str s = str_new(g->setup.arena, 64u << 20);
    const char *text = bpe_decode(g->bpe, g->setup.arena, g->ids, g->n, true, &bytes);
    if (g->c->json) {
        const bool ended = g->ids[g->n - 1] == bpe_eos(g->bpe);
        str_add(&s, "{\"text\": ");
        str_add_json(&s, text, bytes);
        str_addf(&s, ", \"prompt_tokens\": %lld, \"new_tokens\": %lld, \"ended\": %s}",
                 (long long)g->n_prompt, (long long)(g->n - g->n_prompt), ended ? "true" : "false");
        puts(s.text);
    } else {
        fwrite(text, 1, bytes, stdout);
        putchar('\n');
    }
}

static bool generate(struct generation *g, struct err *e)
{
    struct plan p;
    const char *how;
    if (!encode_prompt(g, e))
        return false;
    const int64_t S = g->n + g->c->max_new_tokens;
    if (S > g->setup.model.max_positions)
        return err_code(e, EXIT_USAGE,
                        "prompt and --max_new_tokens make %lld positions, max_position_embeddings is %lld",
                        (long long)S, (long long)g->setup.model.max_positions);
    setup_small_plan(&g->setup, 1, S, &p);
    engine_build(&g->setup, &p, false, true, NULL, &g->engine);
    const bool ok = engine_load(&g->setup, &g->engine, g->c->init, g->c->seed, NULL, &how, e);
    if (ok) {
        extend(g);
        print_text(g);
    }
    exec_free(&g->engine.exec);
    return ok;
}

bool generate_run(struct arena *a, const struct config *c, struct err *e)
{
    struct generation g = { .c = c };
    blas_warm_up();
    if (comm_ranks() > 1)
        return err_code(e, EXIT_USAGE, "generate runs on one rank");
    if (!setup_open(a, c, &g.setup, e))
        return false;
    g.bpe = bpe_open(g.setup.model_dir, e);
    const bool ok = g.bpe && generate(&g, e);
    if (g.bpe)
        bpe_close(g.bpe);
    return ok;
}
