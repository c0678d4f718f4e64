/* plan.c - what follows from a plan, and checking it. */
#include "plan/plan.h"
#include "plan/cut.h"
#include "plan/layout.h"
#include "plan/tree.h"
#include <math.h>

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
    return p->expert_parallel > 1 && p->overlap > 1 ? p->overlap : 1;
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

int plan_part_of(const struct plan *p, int node)
{
    int part = 0;
    while (part + 1 < plan_parts(p) && p->cut[part + 1] <= node)
        part++;
    return part;
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
    if (p->lodgers < 0 || (p->lodgers && (p->stages > 1 || p->expert_parallel > 1)))
        return bad(e, "offload", p->lodgers, "0 with pipelines or experts split over ranks");
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
