/* tree.c - adds the shards of a worker (plan/tree.h). The sum of a shard is in the gradients; those of whole blocks of 2^k
 * shards wait in level k for their neighbours, as the digits of a counter do, and the next shard writes over the gradients. The
 * last one leaves the sum of all there, where the update expects it. With a pipeline, parts of the model end their shards at
 * different times. */
#include "plan/tree.h"
#include "sched/lower.h"

struct tree {
    int *chunk;        /* by parameter: the part of this stage that has it */
    struct ref *flat;  /* [levels][FLATS] */
    struct ref *part;  /* [levels][parameters]: of gradients that are kept apart by sender */
    struct ref *apart; /* [levels]: of program.apart */
};

static int64_t held(const struct lower *l, int param)
{
    const struct place *at = &l->p->layout.place[param];
    return at->end - at->begin;
}

static int *chunks_of(struct lower *l)
{
    const struct graph *g = l->p->graph;
    const struct plan *p = &l->p->plan;
    int *chunk = ARENA_NEW(l->arena, int, g->params.n + 1);
    for (int c = 0; c < p->chunks; c++) {
        int node, last;
        for (plan_part_nodes(p, g->n_nodes, c * p->stages + l->p->layout.stage, &node, &last); node < last;
             node++)
            for (int j = 0; j < g->nodes[node].anno->n_inputs; j++)
                if (g->values[g->nodes[node].arg[j]].param >= 0)
                    chunk[g->values[g->nodes[node].arg[j]].param] = c;
    }
    return chunk;
}

/* Each level is as large as the gradients. */
static void make_levels(struct lower *l, int levels, struct tree *t)
{
    const struct program *p = l->p;
    const int n = p->graph->params.n;
    t->flat = ARENA_NEW(l->arena, struct ref, levels * FLATS);
    t->part = ARENA_NEW(l->arena, struct ref, levels * n + 1);
    t->apart = ARENA_NEW(l->arena, struct ref, levels);
    for (int k = 0; k < levels; k++) {
        if (p->layout.apart)
            t->apart[k] = (struct ref){
                lower_persistent(l, "sums of shards", MEM_GRADIENTS, p->buffers[p->apart.buffer].bytes), 0
            };
        for (int f = 0; f < FLATS; f++)
            if (!lower_keeps_parts(l, f))
                t->flat[k * FLATS + f] =
                    (struct ref){ lower_persistent(l, "sums of shards", MEM_GRADIENTS,
                                                   p->buffers[p->gradients[f].buffer].bytes),
                                  0 };
        for (int i = 0; i < n; i++)
            if (lower_keeps_parts(l, p->layout.place[i].flat) && held(l, i))
                t->part[k * n + i] = (struct ref){ lower_persistent(l, "sums of shards", MEM_GRADIENTS,
                                                                    p->buffers[l->parts[i].buffer].bytes),
                                                   0 };
    }
}

static void emit(struct lower *l, struct ref gradients, struct ref level, int64_t n, bool keep)
{
    struct instr *i = lower_emit(l, LIST_TREE, RUN_PARTS, "sums of shards");
    i->ref[0] = keep ? gradients : level;
    i->ref[1] = keep ? level : gradients;
    i->n = n;
    i->n_parts = 1;
    i->add = !keep;
}

/* Parameters of a chunk that are neighbours in the flat space at once, from `param` on; returns the first one behind. */
static int emit_run(struct lower *l, const struct tree *t, int level, int param, bool keep)
{
    const struct program *p = l->p;
    const struct place *at = &p->layout.place[param];
    const enum dtype type = p->plan.numbers.gradient;
    const int n_params = p->graph->params.n, chunk = t->chunk[param];
    int64_t end = at->at;
    int i = param;
    for (; i < n_params && (p->layout.place[i].flat != at->flat || !held(l, i) || t->chunk[i] == chunk); i++)
        if (p->layout.place[i].flat == at->flat && held(l, i))
            end = p->layout.place[i].at + held(l, i);
    emit(l, lower_at(p->gradients[at->flat], at->at, type),
         lower_at(t->flat[level * FLATS + at->flat], at->at, type), end - at->at, keep);
    return i;
}

static void emit_level(struct lower *l, const struct tree *t, int chunk, int level, bool keep)
{
    const struct program *p = l->p;
    const int n = p->graph->params.n;
    if (p->layout.apart)
        emit(l, p->apart, t->apart[level], p->layout.flat[SHARED].n_elements, keep);
    for (int f = 0; f < FLATS; f++)
        for (int i = 0; i < n;) {
            if (p->layout.place[i].flat != f || !held(l, i) || t->chunk[i] != chunk) {
                i++;
            } else if (lower_keeps_parts(l, f)) {
                emit(l, l->parts[i], t->part[level * n + i], held(l, i) * l->n_parts, keep);
                i++;
            } else {
                i = emit_run(l, t, level, i, keep);
            }
        }
}

static struct section section_of(struct lower *l, const struct tree *t, int chunk, int level, bool keep)
{
    struct section s = { .from = l->p->list[LIST_TREE].n };
    emit_level(l, t, chunk, level, keep);
    s.to = l->p->list[LIST_TREE].n;
    return s;
}

/* The sum of a shard becomes a digit of the counter, and takes along those of the carries. */
int sched_end_shard(const struct program *p, int chunk, int64_t micro, struct section out[PLAN_TREE_LEVELS])
{
    const int64_t each = plan_shard_micro(&p->plan), shard = micro / each;
    const int levels = plan_tree_levels(&p->plan);
    int n = 0;
    if ((micro + 1) % each)
        return 0;
    while (n < levels && (shard >> n & 1)) {
        out[n] = p->tree_add[chunk][n];
        n++;
    }
    if (n < levels) {
        out[n] = p->tree_keep[chunk][n];
        n++;
    }
    return n;
}

void lower_tree(struct lower *l)
{
    const int levels = plan_tree_levels(&l->p->plan);
    if (levels == 0)
        return;
    struct tree t = { .chunk = chunks_of(l) };
    make_levels(l, levels, &t);
    for (int c = 0; c < l->p->plan.chunks; c++)
        for (int k = 0; k < levels; k++) {
            l->p->tree_add[c][k] = section_of(l, &t, c, k, false);
            l->p->tree_keep[c][k] = section_of(l, &t, c, k, true);
        }
}
