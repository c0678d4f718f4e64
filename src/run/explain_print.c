/* explain_print.c - an explanation as text and as JSON. */
#include "run/explain.h"
#include <ctype.h>
#include <stdio.h>
#include <string.h>

/* "model.layers.12.mlp.gate" -> "mlp.gate" */
static const char *name_in_layer(const char *name)
{
    const char *at = strstr(name, ".layers.");
    if (!at)
        return name;
    at += strlen(".layers.");
    while (isdigit((unsigned char)*at))
        at++;
    return *at == '.' ? at + 1 : name;
}

static void split_text(const struct plan *p, const struct node_split *s, int tensor_letter, bool joined,
                       char *out, size_t bytes)
{
    if (s->expert >= 0 && tensor_letter >= 0)
        snprintf(out, bytes,
                 p->expert_parallel > 1 ? "widths over %d ranks, experts over %d groups, tokens exchanged"
                                        : "tokens over groups, widths over %d ranks",
                 p->width_parallel, p->expert_parallel);
    else if (s->expert >= 0 && p->expert_parallel > 1)
        snprintf(out, bytes, "experts over %d ranks, tokens exchanged", p->expert_parallel);
    else if (joined)
        snprintf(out, bytes, "tokens over %d groups", plan_workers(p) / p->tensor_parallel);
    else if (tensor_letter >= 0)
        snprintf(out, bytes, "tokens over %d groups, heads or widths over %d ranks",
                 plan_workers(p) / p->tensor_parallel, p->tensor_parallel);
    else if (s->batch >= 0 || s->expert >= 0)
        snprintf(out, bytes, plan_workers(p) > 1 ? "tokens over %d ranks" : "whole", plan_workers(p));
    else
        snprintf(out, bytes, "on every rank");
}

static void add_kind(struct node_kind *kind, int *n, const char *name, const char *op, const char *split)
{
    int k = 0;
    while (k < *n && (strcmp(kind[k].name, name) != 0 || strcmp(kind[k].split, split) != 0))
        k++;
    if (k == *n) {
        ++*n;
        kind[k].op = op;
        snprintf(kind[k].name, sizeof kind[k].name, "%s", name);
        snprintf(kind[k].split, sizeof kind[k].split, "%s", split);
    }
    kind[k].n_nodes++;
}

int explain_kinds(struct arena *a, const struct graph *g, const struct plan *p, struct node_kind **out)
{
    struct node_split *split = ARENA_NEW(a, struct node_split, g->n_nodes);
    struct components tensor;
    char text[96];
    int n = 0;
    *out = ARENA_NEW(a, struct node_kind, g->n_nodes);
    layout_split(a, g, split);
    components_find(a, g, split, p->tensor_parallel, plan_width(p), p->width_parallel > 1, &tensor);
    for (int i = 0; i < g->n_nodes; i++) {
        split_text(p, &split[i], tensor.letter[i], tensor.joined[i], text, sizeof text);
        add_kind(*out, &n, name_in_layer(g->nodes[i].name), g->nodes[i].op->name, text);
    }
    return n;
}

/* One line for each way to split, with the kinds that are split so. */
static void add_kinds(struct str *out, const struct node_kind *kind, int n)
{
    str_add(out, "operators:\n");
    for (int i = 0; i < n; i++) {
        bool first = true;
        for (int k = 0; k < i; k++)
            first = first && strcmp(kind[k].split, kind[i].split) != 0;
        if (!first)
            continue;
        str_addf(out, "  %s:", kind[i].split);
        for (int k = i; k < n; k++)
            if (strcmp(kind[k].split, kind[i].split) == 0)
                str_addf(out, " %s%s x%d", k == i ? "" : "| ", kind[k].name, kind[k].n_nodes);
        str_add(out, "\n");
    }
}

static void add_layout(struct str *out, const struct plan *p)
{
    str_addf(out,
             "experts / %d, tensors%s / %d, stages %d x %d, ZeRO %d / %d, micro-batch %lld x %lld, %d "
             "repeated%s%s",
             p->expert_parallel, p->width_parallel > 1 ? " and widths of experts" : "", p->tensor_parallel,
             p->stages, p->chunks, p->zero, p->zero_ranks, (long long)p->micro_batch,
             (long long)p->accumulation, p->recompute, p->keep_rows ? ", rows kept" : "",
             p->lodgers ? ", moments in host memory" : "");
}

static void add_purchase(struct str *out, const struct plan *best, const struct purchase *b)
{
    const double ms = (best->cost.step_us - b->step_us) / 1e3;
    str_addf(out, "  %s: %.1f ms of %.1f ms a step", b->what, ms, best->cost.step_us / 1e3);
    if (b->plan.n_ranks) {
        str_add(out, ", with ");
        add_layout(out, &b->plan);
    } else {
        str_add(out, ", and the plan stays");
    }
    str_add(out, "\n");
}

void explain_text(struct str *out, const struct graph *g, const struct plan *p, const struct explanation *x)
{
    struct arena *a = arena_new("kinds");
    struct node_kind *kind;
    const int n = explain_kinds(a, g, p, &kind);
    add_kinds(out, kind, n);
    arena_free(a);
    str_addf(out, "alternatives, and the one change that would make each win:\n");
    for (int i = 0; i < x->n; i++) {
        str_addf(out, "  %d. ", i + 1);
        add_layout(out, &x->alternative[i].plan);
        str_addf(out, "\n     %s\n     %s\n", x->alternative[i].why, x->alternative[i].wins);
    }
    if (x->n == 0)
        str_add(out, "  none was measured\n");
    str_add(out, "what would save time:\n");
    for (int i = 0; i < x->n_purchases; i++)
        add_purchase(out, p, &x->purchase[i]);
    if (x->n_skipped)
        str_addf(out,
                 "  (%d searches for faster plans were left out, since they take long: --explain full)\n",
                 x->n_skipped);
}

static void add_string(struct str *out, const char *key, const char *text)
{
    str_addf(out, "\"%s\": ", key);
    str_add_json(out, text, strlen(text));
}

static void add_plan(struct str *out, const struct plan *p)
{
    str_addf(out,
             "{\"expert_parallel\": %d, \"tensor_parallel\": %d, \"width_parallel\": %d, \"stages\": %d, "
             "\"chunks\": %d, \"zero\": %d, \"zero_ranks\": %d, "
             "\"micro_batch\": %lld, \"accumulation\": %lld, \"recompute\": %d, \"offload\": %d, "
             "\"keep_rows\": %s, "
             "\"step_us\": %.0f, "
             "\"peak_bytes\": %lld}",
             p->expert_parallel, p->tensor_parallel, p->width_parallel, p->stages, p->chunks, p->zero,
             p->zero_ranks, (long long)p->micro_batch, (long long)p->accumulation, p->recompute, p->lodgers,
             p->keep_rows ? "true" : "false", p->cost.step_us, (long long)p->memory.peak_bytes);
}

void explain_json(struct str *out, const struct graph *g, const struct plan *p, const struct explanation *x)
{
    struct arena *a = arena_new("kinds");
    struct node_kind *kind;
    const int n = explain_kinds(a, g, p, &kind);
    str_add(out, "{\"operators\": [");
    for (int i = 0; i < n; i++) {
        str_addf(out, "%s{\"nodes\": %d, ", i ? ", " : "", kind[i].n_nodes);
        add_string(out, "name", kind[i].name);
        str_add(out, ", ");
        add_string(out, "split", kind[i].split);
        str_add(out, "}");
    }
    str_add(out, "], \"alternatives\": [");
    for (int i = 0; i < x->n; i++) {
        str_addf(out, "%s{\"plan\": ", i ? ", " : "");
        add_plan(out, &x->alternative[i].plan);
        str_add(out, ", ");
        add_string(out, "why", x->alternative[i].why);
        str_add(out, ", ");
        add_string(out, "wins", x->alternative[i].wins);
        str_add(out, "}");
    }
    str_add(out, "], \"buys\": [");
    for (int i = 0; i < x->n_purchases; i++) {
        str_add(out, i ? ", {" : "{");
        add_string(out, "what", x->purchase[i].what);
        str_addf(out, ", \"step_us\": %.0f, \"plan\": ", x->purchase[i].step_us);
        if (x->purchase[i].plan.n_ranks)
            add_plan(out, &x->purchase[i].plan);
        else
            str_add(out, "null");
        str_add(out, "}");
    }
    str_add(out, "]}");
    arena_free(a);
}
