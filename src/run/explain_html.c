/* explain_html.c - a plan as one page: drawings are SVG in the page, there is no script and nothing from elsewhere. */
#include "run/explain.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static const char *const colors[] = { "#4269d0", "#efb118", "#ff725c", "#6cc5b0",
                                      "#3ca951", "#a463f2", "#9498a0", "#97bbf5" };
#define LAYER_HEIGHT 12.0
enum { COLORS = sizeof colors / sizeof *colors, RANKS_DRAWN = 64, WIDTH = 960 };

static void add_escaped(struct str *out, const char *text)
{
    for (; *text; text++)
        if (*text == '<')
            str_add(out, "&lt;");
        else if (*text == '&')
            str_add(out, "&amp;");
        else
            str_add_bytes(out, text, 1);
}

/* A rectangle with a text that shows when it is pointed at. */
static void add_box(struct str *out, double x, double y, double width, double height, const char *color)
{
    str_addf(out, "<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" fill=\"%s\">", x, y,
             width > 0 ? width : 0, height, color);
}

static void end_box(struct str *out)
{
    str_add(out, "</rect>\n");
}

/* Layer of a node, or -1. */
static int layer_of(const char *name)
{
    const char *at = strstr(name, ".layers.");
    return at ? (int)strtol(at + strlen(".layers."), NULL, 10) : -1;
}

struct layers {
    int n;
    bool *experts; /* by layer: has it any? */
    bool *held;    /* by layer and stage */
};

static void list_layers(struct arena *a, const struct graph *g, const struct plan *p, struct layers *out)
{
    struct node_split *split = ARENA_NEW(a, struct node_split, g->n_nodes);
    layout_split(a, g, split);
    out->n = 0;
    for (int i = 0; i < g->n_nodes; i++)
        out->n = layer_of(g->nodes[i].name) >= out->n ? layer_of(g->nodes[i].name) + 1 : out->n;
    out->experts = ARENA_NEW(a, bool, out->n + 1);
    out->held = ARENA_NEW(a, bool, (int64_t)(out->n + 1) * p->stages);
    for (int part = 0; part < plan_parts(p); part++) {
        int i, last;
        for (plan_part_nodes(p, g->n_nodes, part, &i, &last); i < last; i++) {
            const int layer = layer_of(g->nodes[i].name);
            if (layer < 0)
                continue;
            out->experts[layer] |= split[i].expert >= 0;
            out->held[layer * p->stages + part % p->stages] = true;
        }
    }
}

/* Colour: which share of the experts (lower half) or of the tensors a worker holds. */
static void add_cell(struct str *out, const struct plan *p, const struct layers *l, int layer, int rank,
                     double x, double width)
{
    const int worker = plan_worker(p, rank);
    for (int half = 0; half < 2; half++) {
        const bool expert = half && l->experts[layer];
        const int of = expert ? p->expert_parallel : p->tensor_parallel,
                  share = worker / (expert ? p->width_parallel : 1) % of;
        add_box(out, x, layer * LAYER_HEIGHT + half * (LAYER_HEIGHT / 2 - 0.5), width, LAYER_HEIGHT / 2 - 0.5,
                colors[(share + expert) % COLORS]);
        str_addf(out, "<title>rank %d, layer %d: %s %d of %d</title>", rank, layer,
                 expert ? "experts" : "matrices", share + 1, of);
        end_box(out);
    }
}

/* The first ranks of every stage. */
static void add_grid(struct str *out, const struct graph *g, const struct plan *p)
{
    struct arena *a = arena_new("layers");
    struct layers l;
    list_layers(a, g, p, &l);
    const int most = RANKS_DRAWN / p->stages > 1 ? RANKS_DRAWN / p->stages : 1,
              each = plan_workers(p) < most ? plan_workers(p) : most, n = each * p->stages;
    const double w = (WIDTH - 60.0) / n;
    str_addf(
        out,
        "<h2>Ranks x layers</h2><p>%d of %d ranks from left to right, layers from top to bottom; empty: of "
        "another stage. Upper half: attention and dense matrices, coloured by the share of the tensor group; "
        "lower half: experts, by the share of the experts.</p>\n",
        n, p->n_ranks);
    str_addf(out, "<svg viewBox=\"0 0 %d %.0f\">\n", WIDTH, l.n * LAYER_HEIGHT + 4);
    for (int layer = 0; layer < l.n; layer++) {
        str_addf(out, "<text x=\"0\" y=\"%.1f\">%d</text>\n", layer * LAYER_HEIGHT + 10, layer);
        for (int i = 0; i < n; i++)
            if (l.held[layer * p->stages + i / each])
                add_cell(out, p, &l, layer, i / each * plan_workers(p) + i % each, 40 + i * w, w - 1);
    }
    str_add(out, "</svg>\n");
    arena_free(a);
}

static void add_legend(struct str *out, int color, const char *name, double amount, const char *unit)
{
    str_addf(out, "<span><i style=\"background:%s\"></i>%s %.2f %s</span>\n", colors[color % COLORS], name,
             amount, unit);
}

static void add_memory(struct str *out, const struct plan *p, int64_t limit)
{
    const double top = (double)(limit > p->memory.peak_bytes ? limit : p->memory.peak_bytes);
    double at = 0;
    str_addf(out, "<h2>Memory of the largest rank</h2><p>%.3f GB of %.3f GB</p>\n",
             (double)p->memory.peak_bytes / 1e9, (double)limit / 1e9);
    str_addf(out, "<svg viewBox=\"0 0 %d 34\"><rect width=\"%d\" height=\"34\" fill=\"#eee\"/>\n", WIDTH,
             WIDTH);
    for (int i = 0; i < MEM_CLASSES; i++) {
        const double w = WIDTH * (double)p->memory.class_bytes[i] / top;
        add_box(out, at, 0, w, 34, colors[i % COLORS]);
        str_addf(out, "<title>%s: %lld bytes</title>", plan_class_name[i],
                 (long long)p->memory.class_bytes[i]);
        end_box(out);
        at += w;
    }
    str_add(out, "</svg><p>\n");
    for (int i = 0; i < MEM_CLASSES; i++)
        add_legend(out, i, plan_class_name[i], (double)p->memory.class_bytes[i] / 1e9, "GB");
    str_add(out, "</p>\n");
}

/* What a stage waits, micro-batches one after the other, then what ends the step. */
static void add_time(struct str *out, const struct plan *p)
{
    enum { PARTS = 5, BUBBLE = 4 };
    static const char *const names[PARTS] = { "compute", "exchange", "gradient and weight collectives",
                                              "optimizer", "bubble" };
    const struct plan_cost *c = &p->cost;
    const double parts[PARTS] = { c->compute_us, c->exchange_us, c->reduce_us, c->optimizer_us,
                                  c->bubble_us };
    const int64_t shown = p->accumulation < 32 ? p->accumulation : 32;
    double at = 0;
    str_addf(
        out,
        "<h2>Step</h2><p>%.1f ms predicted, of the slowest of %d stages: the bubble of the pipeline, %lld "
        "micro-batches (%lld drawn), collectives and optimizer. Of communication, what products wait for; "
        "%.1f ms more run under them.</p>\n",
        c->step_us / 1e3, p->stages, (long long)p->accumulation, (long long)shown, c->beside_us / 1e3);
    str_addf(out, "<svg viewBox=\"0 0 %d 34\">\n", WIDTH);
    for (int64_t i = -1; i < 2 * shown + 2; i++) {
        const int k = i < 0 ? BUBBLE : i < 2 * shown ? (int)(i % 2) : (int)(i - 2 * shown) + 2;
        const double us = k < 2 ? parts[k] / (double)shown : parts[k], w = WIDTH * us / c->step_us;
        add_box(out, at, 0, w, 34, colors[k]);
        str_addf(out, "<title>%s: %.3f ms</title>", names[k], us / 1e3);
        end_box(out);
        at += w;
    }
    str_add(out, "</svg><p>\n");
    for (int k = 0; k < PARTS; k++)
        add_legend(out, k, names[k], parts[k] / 1e3, "ms");
    str_add(out, "</p>\n");
}

static void add_row(struct str *out, const struct plan *p, const char *why, const char *wins)
{
    str_addf(out,
             "<tr><td>%d</td><td>%d%s</td><td>%d x %d</td><td>%d over %d</td><td>%lld x "
             "%lld</td><td>%d</td><td>%.1f</td><td>%.3f"
             "</td><td>",
             p->expert_parallel, p->tensor_parallel, p->width_parallel > 1 ? ", widths of experts too" : "",
             p->stages, p->chunks, p->zero, p->zero_ranks, (long long)p->micro_batch,
             (long long)p->accumulation, p->recompute, p->cost.step_us / 1e3,
             (double)p->memory.peak_bytes / 1e9);
    add_escaped(out, why);
    str_add(out, "</td><td>");
    add_escaped(out, wins);
    str_add(out, "</td></tr>\n");
}

static void add_alternatives(struct str *out, const struct plan *p, const struct explanation *x)
{
    str_add(out, "<h2>Alternatives</h2><table><tr><th>experts over</th><th>tensors "
                 "over</th><th>stages</th><th>ZeRO</th>"
                 "<th>micro-batch</th><th>repeated</th><th>ms</th><th>GB</th><th></th><th>what would make it "
                 "win</th></tr>\n");
    add_row(out, p, "the plan", "");
    for (int i = 0; i < x->n; i++)
        add_row(out, &x->alternative[i].plan, x->alternative[i].why, x->alternative[i].wins);
    str_add(out, "</table>\n<h2>What would save time</h2><ul>\n");
    for (int i = 0; i < x->n_purchases; i++)
        str_addf(out, "<li>%s: %.1f ms a step less%s</li>\n", x->purchase[i].what,
                 (p->cost.step_us - x->purchase[i].step_us) / 1e3,
                 x->purchase[i].plan.n_ranks ? ", with another plan" : ", with the same plan");
    str_add(out, "</ul>\n");
}

static void add_operators(struct str *out, const struct graph *g, const struct plan *p)
{
    struct arena *a = arena_new("kinds");
    struct node_kind *kind;
    const int n = explain_kinds(a, g, p, &kind);
    str_add(out,
            "<h2>Operators</h2><table><tr><th>name</th><th>operator</th><th>nodes</th><th>split</th></tr>\n");
    for (int i = 0; i < n; i++) {
        str_add(out, "<tr><td>");
        add_escaped(out, kind[i].name);
        str_addf(out, "</td><td>%s</td><td>%d</td><td>%s</td></tr>\n", kind[i].op, kind[i].n_nodes,
                 kind[i].split);
    }
    str_add(out, "</table>\n");
    arena_free(a);
}

void explain_html(struct str *out, const struct setup *s, const struct graph *g, const struct plan *p,
                  const struct explanation *x, int64_t limit)
{
    char hash[17];
    plan_hash(p, hash);
    str_addf(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>plan %s</title>\n<style>\n"
        "body{font:14px sans-serif;max-width:1000px;margin:2em auto;padding:0 1em}svg{width:100%%}"
        "svg text{font-size:9px}table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:2px 6px;"
        "text-align:left;vertical-align:top}span{margin-right:1em}i{display:inline-block;width:10px;height:"
        "10px;"
        "margin-right:4px}\n</style></head><body>\n<h1>Plan %s</h1>\n<p>Model %s, machines ",
        hash, hash, s->model.fingerprint);
    add_escaped(out, s->cluster.name);
    str_addf(out,
             ": %d ranks in scale units of %d, experts over %d, tensors over %d, %d stages, ZeRO %d over %d; "
             "%lld sequences "
             "of %lld a step.</p>\n",
             p->n_ranks, p->unit_ranks, p->expert_parallel, p->tensor_parallel, p->stages, p->zero,
             p->zero_ranks, (long long)p->global_batch, (long long)p->sequence);
    add_grid(out, g, p);
    add_memory(out, p, limit);
    add_time(out, p);
    add_alternatives(out, p, x);
    add_operators(out, g, p);
    str_add(out, "</body></html>\n");
}
