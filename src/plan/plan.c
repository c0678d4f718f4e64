/* plan.c - checking, writing and reading plans. */
#include "plan/plan.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/str.h"
#include "plan/cut.h"
#include "plan/layout.h"
#include "plan/tree.h"
#include <math.h>
#include <string.h>

const char *const plan_class_name[MEM_CLASSES] = { "weights",   "gradients", "optimizer", "activations",
                                                   "workspace", "exchange",  "batch" };

const char *const plan_backend_name[BACKENDS] = { "cpu", "cuda" };
const char *const plan_master_name[MASTERS] = { "none", "split", "fp32" };
const char *const plan_moments_name[MOMENT_FORMS] = { "fp32", "bf16", "int8" };

enum dtype plan_float(const struct plan *p)
{
    return p->numbers.backend == CUDA ? BF16 : F32;
}

int64_t plan_tile(enum backend backend, bool reproducible)
{
    return backend == CUDA ? 128 : reproducible ? 8 : 1;
}

/* On CUDA the contraction over the rows of a segment is one sum; on the CPU it is one for each tile. */
bool plan_whole_segments(const struct plan *p)
{
    return p->reproducible && p->numbers.backend == CUDA;
}

/* 8-bit moments: n codes, then a float32 scale per block of 256 (ops/adamw.h). */
int64_t plan_moment_bytes(const struct plan *p, int64_t n)
{
    switch (p->numbers.moments) {
    case MOMENTS_BYTE:
        return (n + 15) / 16 * 16 + (n + 255) / 256 * 4;
    case MOMENTS_BF16:
        return 2 * n;
    default:
        return 4 * n;
    }
}

int64_t plan_master_bytes(const struct plan *p, int64_t n)
{
    static const int each[MASTERS] = { 0, 2, 4 };
    return each[p->numbers.master] * n;
}

int plan_at_once(const struct plan *p)
{
    return p->overlap && p->expert_parallel > 1 ? 2 : 1;
}

bool plan_sends_once(const struct plan *p)
{
    return p->expert_parallel > 1 && plan_at_once(p) == 1;
}

double plan_rows_once(const struct plan *p, int64_t copies)
{
    const int ep = p->expert_parallel;
    return (ep - 1) * (1 - pow(1 - 1.0 / ep, (double)copies));
}

int plan_width(const struct plan *p)
{
    return p->numbers.backend == CUDA ? 8 : 1;
}

int64_t plan_graph_batch(const struct plan *p)
{
    return p->micro_batch * plan_workers(p);
}

int plan_workers(const struct plan *p)
{
    return p->n_ranks / p->stages;
}

int plan_unit_workers(const struct plan *p)
{
    return p->unit_ranks / p->stages;
}

int plan_parts(const struct plan *p)
{
    return p->stages * p->chunks;
}

int plan_ways(const struct plan *p)
{
    const int beside = p->chunks > 1 || p->stages > 2 ? 2 : 1; /* stages that one exchanges with, as a ring */
    return p->stages > 1 ? 2 * beside : 0;
}

int64_t plan_slab_limit(const struct plan_limits *l, const struct plan *p)
{
    return l->memory_bytes - plan_ways(p) * l->way_bytes;
}

int plan_stage(const struct plan *p, int rank)
{
    return rank / plan_workers(p);
}

int plan_worker(const struct plan *p, int rank)
{
    return rank % plan_workers(p);
}

void plan_part_nodes(const struct plan *p, int n_nodes, int part, int *first, int *last)
{
    const bool whole = plan_parts(p) == 1;
    *first = whole ? 0 : p->cut[part];
    *last = whole ? n_nodes : p->cut[part + 1];
}

static bool bad(struct err *e, const char *what, int64_t found, const char *expected)
{
    return err_set(e, "plan: %s = %lld, expected %s", what, (long long)found, expected);
}

static bool check_ranks(const struct plan *p, struct err *e)
{
    if (p->n_ranks < 1 || p->n_ranks > 1 << 20)
        return bad(e, "runtime_ngpus", p->n_ranks, "1 to 1048576");
    if (p->unit_ranks < 1 || p->n_ranks % p->unit_ranks)
        return bad(e, "plan_ngpus", p->unit_ranks, "a divisor of runtime_ngpus");
    if (p->stages < 1 || p->unit_ranks % p->stages)
        return bad(e, "pipeline_stages", p->stages, "a divisor of plan_ngpus");
    if (p->chunks < 1 || p->chunks > PLAN_CHUNKS || plan_parts(p) > PLAN_PARTS ||
        (p->stages == 1 && p->chunks > 1))
        return bad(e, "pipeline_chunks", p->chunks,
                   "1 to 16, at most 256 with those of all stages, and 1 without a pipeline");
    if (p->expert_parallel < 1 || plan_unit_workers(p) % p->expert_parallel)
        return bad(e, "expert_parallel", p->expert_parallel, "a divisor of plan_ngpus / pipeline_stages");
    if (p->tensor_parallel < 1 || plan_unit_workers(p) % p->tensor_parallel)
        return bad(e, "tensor_parallel", p->tensor_parallel, "a divisor of plan_ngpus / pipeline_stages");
    if (p->vocabulary_parallel > 1 && p->vocabulary_parallel != p->tensor_parallel)
        return bad(e, "vocabulary_parallel", p->vocabulary_parallel, "1 or tensor_parallel");
    if (p->width_parallel > 1 && p->width_parallel != p->tensor_parallel)
        return bad(e, "width_parallel", p->width_parallel, "1 or tensor_parallel");
    if (p->width_parallel < 1 || plan_unit_workers(p) % ((int64_t)p->expert_parallel * p->width_parallel))
        return bad(e, "width_parallel", p->width_parallel,
                   "with expert_parallel times it a divisor of plan_ngpus / pipeline_stages");
    if (p->zero_ranks != 1 && p->zero_ranks != plan_unit_workers(p) && p->zero_ranks != plan_workers(p))
        return bad(e, "zero_ranks", p->zero_ranks, "1, or plan_ngpus or runtime_ngpus over pipeline_stages");
    if (p->zero < 0 || p->zero > 3 || (p->zero > 0) != (p->zero_ranks > 1))
        return bad(e, "zero", p->zero, "1 to 3 where zero_ranks is more than 1, else 0");
    if (p->reproducible && (p->expert_parallel & (p->expert_parallel - 1)))
        return bad(e, "expert_parallel", p->expert_parallel,
                   "a power of two with --reproducible (tree of sums)");
    return true;
}

static bool check_amounts(const struct plan *p, struct err *e)
{
    if (p->sequence < 2 || p->sequence > 1 << 24)
        return bad(e, "sequence_length", p->sequence, "2 to 16777216");
    if (p->micro_batch < 1 || p->micro_batch > 1 << 20)
        return bad(e, "micro_batch", p->micro_batch, "1 to 1048576");
    if (p->accumulation < 1 || p->accumulation > 1 << 24)
        return bad(e, "accumulation", p->accumulation, "1 to 16777216");
    if (p->global_batch != p->micro_batch * p->accumulation * plan_workers(p))
        return bad(e, "global_batch", p->global_batch, "micro_batch x accumulation x ranks of a stage");
    if (p->chunks > 1 && p->accumulation % p->stages)
        return bad(e, "accumulation", p->accumulation,
                   "a multiple of pipeline_stages with pipeline_chunks above 1");
    if (p->tile != plan_tile(p->numbers.backend, p->reproducible))
        return bad(e, "tile", p->tile, "128 on CUDA; on the CPU 8 with reproducible, else 1");
    if (p->expert_parallel > 1 && (p->row_capacity < p->tile || p->row_capacity % p->tile))
        return bad(e, "row_capacity", p->row_capacity, "a positive multiple of tile");
    const int64_t tokens = p->micro_batch * p->sequence * p->width_parallel,
                  segment = (tokens + p->tile - 1) / p->tile * p->tile;
    if (p->expert_parallel > 1 && plan_whole_segments(p) && p->row_capacity < segment)
        return err_set(
            e,
            "plan: row_capacity = %lld, expected with --reproducible on CUDA at least %lld: the rows "
            "of one expert from one sender",
            (long long)p->row_capacity, (long long)segment);
    if ((p->n_ranks > 1 || p->shards) && plan_whole_segments(p) && p->numbers.gradient != F32)
        return err_set(e, "plan: gradients in %s, expected F32 with --reproducible on several ranks",
                       num_dtype_name(p->numbers.gradient));
    if (p->head_chunk < 1)
        return bad(e, "head_chunk", p->head_chunk, "at least 1");
    return true;
}

static bool check_numbers(const struct numbers *n, struct err *e)
{
    if (n->gradient != F32 && n->gradient != BF16)
        return err_set(e, "plan: gradients in %s, expected F32 or BF16", num_dtype_name(n->gradient));
    if (n->backend == CPU && (n->master != MASTER_NONE || n->moments != MOMENTS_FLOAT || n->gradient != F32))
        return err_set(e,
                       "plan: on the CPU all numbers are float32: master none, moments and gradients fp32");
    return true;
}

static bool check_experts(const struct plan *p, const struct graph *g, struct err *e)
{
    struct arena *a = arena_new("plan check");
    const bool *expert = layout_experts(a, g);
    int bad = -1;
    for (int i = 0; i < g->params.n && bad < 0; i++)
        if (expert[i] && g->params.item[i].shape[0] % p->expert_parallel)
            bad = i;
    arena_free(a);
    return bad < 0 ||
           err_set(e, "plan: expert_parallel = %d does not divide the %lld experts of %s", p->expert_parallel,
                   (long long)g->params.item[bad].shape[0], g->params.item[bad].name);
}

/* A tensor group must have something to split; where that is the width of experts, it is that of all. */
static bool check_tensor(const struct plan *p, const struct graph *g, struct err *e)
{
    if (p->tensor_parallel == 1)
        return true;
    struct arena *a = arena_new("plan check");
    struct layout l;
    const bool *expert = layout_experts(a, g);
    int n = 0, whole = -1, odd = -1;
    layout_make(a, g, p, 0, &l);
    const bool splits =
        l.flat[TENSOR].n_elements > 0 || p->width_parallel > 1 || (l.tied && p->vocabulary_parallel > 1);
    for (int i = 0; i < g->params.n; i++) {
        n += expert[i];
        whole = expert[i] && l.place[i].slices == 1 ? i : whole;
        odd = l.place[i].flat == SHARED && (l.place[i].slices > 1) != (p->vocabulary_parallel > 1) ? i : odd;
    }
    arena_free(a);
    if (!splits)
        return err_set(e,
                       "plan: tensor_parallel = %d divides neither the heads nor the widths of this model: "
                       "nothing would be split",
                       p->tensor_parallel);
    if (odd >= 0)
        return err_set(e, "plan: vocabulary_parallel = %d does not divide %s in multiples of %d",
                       p->vocabulary_parallel, g->params.item[odd].name, plan_width(p));
    if (p->width_parallel > 1 && n == 0)
        return bad(e, "width_parallel", p->width_parallel, "1: the model has no experts");
    return p->width_parallel == 1 || whole < 0 ||
           err_set(e, "plan: width_parallel = %d does not divide the width of %s in multiples of %d",
                   p->width_parallel, g->params.item[whole].name, plan_width(p));
}

bool plan_check(const struct plan *p, const struct graph *g, struct err *e)
{
    if (!check_numbers(&p->numbers, e) || !check_ranks(p, e) || !check_amounts(p, e) ||
        !plan_tree_check(p, e))
        return false;
    if (!g)
        return true;
    return check_experts(p, g, e) && cut_check(p, g, e) && check_tensor(p, g, e);
}

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
    str_addf(s,
             "  \"row_capacity\": %lld,\n  \"tile\": %lld,\n  \"head_chunk\": %lld,\n  \"recompute\": %d,\n  "
             "\"reproducible\": %s,\n  \"reproducible_shards\": %d,\n  \"overlap\": %s,\n",
             (long long)p->row_capacity, (long long)p->tile, (long long)p->head_chunk, p->recompute,
             p->reproducible ? "true" : "false", p->shards, p->overlap ? "true" : "false");
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
    str_addf(out, "  \"hash\": \"%s\",\n  \"peak_bytes\": %lld,\n  \"memory\": {", hash,
             (long long)p->memory.peak_bytes);
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
    int64_t version, recompute, zero, shards;
    char hash[17], stored[17];
    if (json_type(r) != JSON_OBJECT)
        return json_err(j, r, "", e, "expected an object");
    if (!json_want_int(j, r, "version", 0, INT32_MAX, &version, e))
        return false;
    if (version != PLAN_VERSION)
        return json_err(j, r, "version", e, "this program reads version %d, found %lld", PLAN_VERSION,
                        (long long)version);
    if (!want_text(j, "model", p->model, e) || !want_text(j, "cluster", p->cluster, e) ||
        !want_text(j, "hash", stored, e) || !read_numbers(j, &p->numbers, e) ||
        !want_ranks(j, "runtime_ngpus", &p->n_ranks, e) || !want_ranks(j, "plan_ngpus", &p->unit_ranks, e) ||
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
        !json_want_bool(j, r, "reproducible", &p->reproducible, e) ||
        !json_want_int(j, r, "reproducible_shards", 0, PLAN_SHARDS, &shards, e) ||
        !json_want_bool(j, r, "overlap", &p->overlap, e) || !read_memory(j, p, e) ||
        !read_price(j, &p->price, e))
        return false;
    p->recompute = (int)recompute;
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
