/* plan_text.c - plans as JSON: writing and reading (doc/formats/plan.md), and their hash. */
#include "base/hash.h"
#include "base/json.h"
#include "base/str.h"
#include "plan/layout.h"
#include "plan/plan.h"
#include <string.h>

static void add_decisions(const struct plan *p, struct str *s)
{
    str_addf(s, "  \"version\": %d,\n  \"model\": \"%s\",\n  \"cluster\": \"%s\",\n", PLAN_VERSION, p->model,
             p->cluster);
    str_addf(
        s, "  \"device\": \"%s\",\n  \"master\": \"%s\",\n  \"moments\": \"%s\",\n  \"gradients\": \"%s\",\n",
        plan_backend_name[p->numbers.backend], plan_master_name[p->numbers.master],
        plan_moments_name[p->numbers.moments], num_dtype_name(p->numbers.gradient));
    str_addf(s,
             "  \"runtime_ngpus\": %d,\n  \"plan_ngpus\": %d,\n  \"expert_parallel\": %d,\n  "
             "\"tensor_parallel\": %d,\n  \"vocabulary_parallel\": %d,\n  \"width_parallel\": %d,\n  "
             "\"zero\": %d,\n  "
             "\"zero_ranks\": %d,\n",
             p->n_ranks, p->unit_ranks, p->expert_parallel, p->tensor_parallel, p->vocabulary_parallel,
             p->width_parallel, p->zero, p->zero_ranks);
    str_addf(s, "  \"pipeline_stages\": %d,\n  \"pipeline_chunks\": %d,\n  \"cut\": [", p->stages, p->chunks);
    for (int i = 0; plan_parts(p) > 1 && i <= plan_parts(p); i++)
        str_addf(s, "%s%d", i ? ", " : "", p->cut[i]);
    str_add(s, "],\n");
    str_addf(s,
             "  \"sequence_length\": %lld,\n  \"global_batch\": %lld,\n  \"micro_batch\": %lld,\n  "
             "\"accumulation\": %lld,\n",
             (long long)p->sequence, (long long)p->global_batch, (long long)p->micro_batch,
             (long long)p->accumulation);
    str_addf(
        s,
        "  \"row_capacity\": %lld,\n  \"tile\": %lld,\n  \"head_chunk\": %lld,\n  \"recompute\": %d,\n  "
        "\"offload\": %d,\n  "
        "\"reproducible\": %s,\n  \"reproducible_shards\": %d,\n  \"overlap\": %d,\n  \"keep_rows\": %s,\n",
        (long long)p->row_capacity, (long long)p->tile, (long long)p->head_chunk, p->recompute, p->lodgers,
        p->reproducible ? "true" : "false", p->shards, p->overlap, p->keep_rows ? "true" : "false");
}

void plan_hash(const struct plan *p, char hash[17])
{
    struct arena *a = arena_new("plan hash");
    struct str s = str_new(a, 1u << 16);
    add_decisions(p, &s);
    hash_hex(hash_bytes(s.text, s.bytes), hash);
    arena_free(a);
}

static void add_nodes(const struct plan *p, const struct graph *g, struct str *s)
{
    struct arena *a = arena_new("plan nodes");
    struct node_split *split = ARENA_NEW(a, struct node_split, g->n_nodes);
    struct components tensor;
    layout_split(a, g, split);
    components_find(a, g, split, p->tensor_parallel, plan_width(p), p->width_parallel > 1, &tensor);
    str_add(s, "  \"nodes\": [\n");
    for (int i = 0; i < g->n_nodes; i++) {
        const struct node *n = &g->nodes[i];
        str_addf(s, "    {\"node\": \"%s\", \"op\": \"%s\"", n->name, n->op->name);
        if (split[i].expert >= 0) {
            str_addf(s, ", \"split\": {\"%s\": %d", n->anno->letter[split[i].expert], p->expert_parallel);
            if (tensor.letter[i] >= 0)
                str_addf(s, ", \"%s\": %d", n->anno->letter[tensor.letter[i]], p->width_parallel);
            str_addf(s, "}, \"exchange\": %s", p->expert_parallel > 1 ? "true" : "false");
        } else if (tensor.letter[i] >= 0)
            str_addf(s, ", \"split\": {\"%s\": %d, \"%s\": %d}", n->anno->letter[split[i].batch],
                     plan_workers(p) / p->tensor_parallel, n->anno->letter[tensor.letter[i]],
                     p->tensor_parallel);
        else if (split[i].batch >= 0)
            str_addf(s, ", \"split\": {\"%s\": %d}", n->anno->letter[split[i].batch],
                     plan_workers(p) / (tensor.joined[i] ? p->tensor_parallel : 1));
        str_addf(s, "}%s\n", i + 1 < g->n_nodes ? "," : "");
    }
    str_add(s, "  ]\n");
    arena_free(a);
}

void plan_write(const struct plan *p, const struct graph *g, struct str *out, char hash[17])
{
    plan_hash(p, hash);
    str_add(out, "{\n");
    add_decisions(p, out);
    str_addf(out, "  \"hash\": \"%s\",\n  \"peak_bytes\": %lld,\n  \"host_bytes\": %lld,\n  \"memory\": {",
             hash, (long long)p->memory.peak_bytes, (long long)p->host_bytes);
    for (int i = 0; i < MEM_CLASSES; i++)
        str_addf(out, "%s\"%s\": %lld", i ? ", " : "", plan_class_name[i],
                 (long long)p->memory.class_bytes[i]);
    str_addf(out,
             "},\n  \"predicted_us\": {\"step\": %.0f, \"compute\": %.0f, \"exchange\": %.0f, \"reduce\": "
             "%.0f, \"optimizer\": %.0f, \"bubble\": %.0f, \"beside\": %.0f},\n"
             "  \"reproducible_price\": {\"bytes\": %lld, \"step_us\": %.0f},\n",
             p->cost.step_us, p->cost.compute_us, p->cost.exchange_us, p->cost.reduce_us,
             p->cost.optimizer_us, p->cost.bubble_us, p->cost.beside_us, (long long)p->price.bytes,
             p->price.step_us);
    add_nodes(p, g, out);
    str_add(out, "}\n");
}

static bool want_ranks(const struct json *j, const char *key, int *out, struct err *e)
{
    int64_t n;
    if (!json_want_int(j, json_root(j), key, 1, 1 << 20, &n, e))
        return false;
    *out = (int)n;
    return true;
}

static bool want_text(const struct json *j, const char *key, char out[17], struct err *e)
{
    const char *text;
    if (!json_want_string(j, json_root(j), key, &text, e))
        return false;
    if (strlen(text) != 16)
        return json_err(j, json_root(j), key, e, "expected 16 hex digits, found \"%s\"", text);
    memcpy(out, text, 17);
    return true;
}

static bool want_word(const struct json *j, const char *key, const char *const *words, int n, int *out,
                      struct err *e)
{
    const char *text;
    *out = 0;
    if (!json_want_string(j, json_root(j), key, &text, e))
        return false;
    for (int i = 0; i < n; i++)
        if (strcmp(text, words[i]) == 0) {
            *out = i;
            return true;
        }
    return json_err(j, json_root(j), key, e, "\"%s\" is unknown; the first that is known is \"%s\"", text,
                    words[0]);
}

static bool read_numbers(const struct json *j, struct numbers *n, struct err *e)
{
    static const char *const gradient_name[2] = { "F32", "BF16" };
    int backend, master, moments, gradient;
    if (!want_word(j, "device", plan_backend_name, BACKENDS, &backend, e) ||
        !want_word(j, "master", plan_master_name, MASTERS, &master, e) ||
        !want_word(j, "moments", plan_moments_name, MOMENT_FORMS, &moments, e) ||
        !want_word(j, "gradients", gradient_name, 2, &gradient, e))
        return false;
    *n = (struct numbers){ (enum backend)backend, (enum master)master, (enum moments)moments,
                           gradient ? BF16 : F32 };
    return true;
}

static bool read_memory(const struct json *j, struct plan *p, struct err *e)
{
    jval m;
    if (!json_want_int(j, json_root(j), "peak_bytes", 0, INT64_MAX, &p->memory.peak_bytes, e) ||
        !json_want_int(j, json_root(j), "host_bytes", 0, INT64_MAX, &p->host_bytes, e) ||
        !json_want_object(j, json_root(j), "memory", &m, e))
        return false;
    for (int i = 0; i < MEM_CLASSES; i++)
        if (!json_want_int(j, m, plan_class_name[i], 0, INT64_MAX, &p->memory.class_bytes[i], e))
            return false;
    jval c;
    return json_want_object(j, json_root(j), "predicted_us", &c, e) &&
           json_want_number(j, c, "step", &p->cost.step_us, e) &&
           json_want_number(j, c, "compute", &p->cost.compute_us, e) &&
           json_want_number(j, c, "exchange", &p->cost.exchange_us, e) &&
           json_want_number(j, c, "reduce", &p->cost.reduce_us, e) &&
           json_want_number(j, c, "optimizer", &p->cost.optimizer_us, e) &&
           json_want_number(j, c, "bubble", &p->cost.bubble_us, e) &&
           json_want_number(j, c, "beside", &p->cost.beside_us, e);
}

static bool read_price(const struct json *j, struct plan_price *price, struct err *e)
{
    jval v;
    return json_want_object(j, json_root(j), "reproducible_price", &v, e) &&
           json_want_int(j, v, "bytes", INT64_MIN, INT64_MAX, &price->bytes, e) &&
           json_want_number(j, v, "step_us", &price->step_us, e);
}

static bool read_cuts(const struct json *j, struct plan *p, struct err *e)
{
    const jval r = json_root(j);
    jval list;
    if (!want_ranks(j, "pipeline_stages", &p->stages, e) ||
        !want_ranks(j, "pipeline_chunks", &p->chunks, e) || !json_want_array(j, r, "cut", &list, e))
        return false;
    const int64_t n = json_count(list), parts = (int64_t)p->stages * p->chunks;
    if (parts > PLAN_PARTS || n != (parts > 1 ? parts + 1 : 0))
        return json_err(j, r, "cut", e,
                        "expected pipeline_stages x pipeline_chunks + 1 nodes, 257 at most, or none");
    for (int64_t i = 0; i < n; i++) {
        int64_t at;
        if (json_type(json_at(list, i)) != JSON_INT || (at = json_int(json_at(list, i))) < 0 ||
            at > INT32_MAX)
            return json_err(j, r, "cut", e, "expected indices of nodes");
        p->cut[i] = (int)at;
    }
    return true;
}

static bool read_plan(const struct json *j, struct plan *p, struct err *e)
{
    const jval r = json_root(j);
    const int64_t top = 1 << 24;
    int64_t recompute, lodgers, zero, shards, overlap;
    char hash[17], stored[17];
    if (!json_want_version(j, PLAN_VERSION, e) || !want_text(j, "model", p->model, e) ||
        !want_text(j, "cluster", p->cluster, e) || !want_text(j, "hash", stored, e) ||
        !read_numbers(j, &p->numbers, e) || !want_ranks(j, "runtime_ngpus", &p->n_ranks, e) ||
        !want_ranks(j, "plan_ngpus", &p->unit_ranks, e) ||
        !want_ranks(j, "expert_parallel", &p->expert_parallel, e) ||
        !want_ranks(j, "tensor_parallel", &p->tensor_parallel, e) ||
        !want_ranks(j, "vocabulary_parallel", &p->vocabulary_parallel, e) ||
        !want_ranks(j, "width_parallel", &p->width_parallel, e) ||
        !json_want_int(j, r, "zero", 0, 3, &zero, e) || !want_ranks(j, "zero_ranks", &p->zero_ranks, e) ||
        !read_cuts(j, p, e) || !json_want_int(j, r, "sequence_length", 2, top, &p->sequence, e) ||
        !json_want_int(j, r, "global_batch", 1, INT64_MAX, &p->global_batch, e) ||
        !json_want_int(j, r, "micro_batch", 1, 1 << 20, &p->micro_batch, e) ||
        !json_want_int(j, r, "accumulation", 1, top, &p->accumulation, e) ||
        !json_want_int(j, r, "row_capacity", 0, INT32_MAX, &p->row_capacity, e) ||
        !json_want_int(j, r, "tile", 1, 1024, &p->tile, e) ||
        !json_want_int(j, r, "head_chunk", 1, INT32_MAX, &p->head_chunk, e) ||
        !json_want_int(j, r, "recompute", 0, 1 << 20, &recompute, e) ||
        !json_want_int(j, r, "offload", 0, 1 << 20, &lodgers, e) ||
        !json_want_bool(j, r, "reproducible", &p->reproducible, e) ||
        !json_want_int(j, r, "reproducible_shards", 0, PLAN_SHARDS, &shards, e) ||
        !json_want_int(j, r, "overlap", 0, PLAN_AT_ONCE, &overlap, e) ||
        !json_want_bool(j, r, "keep_rows", &p->keep_rows, e) || !read_memory(j, p, e) ||
        !read_price(j, &p->price, e))
        return false;
    p->recompute = (int)recompute;
    p->lodgers = (int)lodgers;
    p->overlap = (int)overlap;
    p->zero = (int)zero;
    p->shards = (int)shards;
    plan_hash(p, hash);
    return strcmp(hash, stored) == 0 ||
           json_err(j, r, "hash", e, "the plan was changed by hand: it is %s, the text says %s", hash,
                    stored);
}

bool plan_parse(const char *text, size_t bytes, const char *path, struct plan *p, struct err *e)
{
    struct json *j = json_parse(text, bytes, path, e);
    if (!j)
        return false;
    *p = (struct plan){ 0 };
    const bool ok = read_plan(j, p, e) && plan_check(p, NULL, e);
    json_free(j);
    return ok;
}
