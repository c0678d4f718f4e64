/* collect.c - see collect.h. */
#include "run/collect.h"
#include "base/pool.h"
#include <math.h>
#include <string.h>

/* In place into part 0, in a binary tree over the parts: blocks of 2^k neighbours first. */
struct tree {
    float *parts;
    int64_t stride, n;
    int n_parts;
};
enum { TREE_BLOCK = 8192 };

static void tree_task(void *context, int64_t task)
{
    const struct tree *t = context;
    const int64_t begin = task * TREE_BLOCK, end = begin + TREE_BLOCK < t->n ? begin + TREE_BLOCK : t->n;
    for (int step = 1; step < t->n_parts; step *= 2)
        for (int i = 0; i + step < t->n_parts; i += 2 * step) {
            float *to = t->parts + i * t->stride;
            const float *from = to + step * t->stride;
            for (int64_t j = begin; j < end; j++)
                to[j] += from[j];
        }
}

static void tree_sum(float *parts, int64_t stride, int n_parts, int64_t n)
{
    struct tree t = { parts, stride, n, n_parts };
    pool_run((n + TREE_BLOCK - 1) / TREE_BLOCK, tree_task, &t);
}

static bool on_host(const struct exec *x)
{
    return x->device->backend == CPU;
}

/* Largest need of any instruction: gradients are exchanged as float32, rows as they are. */
void collect_staging(struct exec *x)
{
    const struct program *p = x->program;
    int64_t most = 0;
    for (int k = 0; k < LISTS && !on_host(x); k++)
        for (int i = 0; i < p->list[k].n; i++) {
            const struct instr *in = &p->list[k].item[i];
            const int64_t kinds[][2] = {
                { RUN_REDUCE, in->n * p->layout.flat[in->flat].n_ranks * (int64_t)sizeof(float) },
                { RUN_PARTS, in->n * in->n_parts * (int64_t)sizeof(float) },
                { RUN_SEND, in->ref[0].buffer < 0 ? 0 : p->buffers[in->ref[0].buffer].bytes },
                { RUN_SEND, in->ref[1].buffer < 0 ? 0 : p->buffers[in->ref[1].buffer].bytes },
                { RUN_RETURN, in->ref[0].buffer < 0 ? 0 : p->buffers[in->ref[0].buffer].bytes },
                { RUN_RETURN, in->ref[1].buffer < 0 ? 0 : p->buffers[in->ref[1].buffer].bytes },
                { RUN_MIRROR, COLLECT_BLOCK },
                { RUN_GATHER, COLLECT_BLOCK },
            };
            for (size_t j = 0; j < sizeof kinds / sizeof *kinds; j++)
                if ((int64_t)in->kind == kinds[j][0] && kinds[j][1] > most)
                    most = kinds[j][1];
        }
    for (int i = 0; i < 2 && most; i++)
        x->staging[i] = arena_slab((size_t)most);
}

void collect_parts(struct exec *x, const struct instr *in)
{
    const enum dtype t = x->program->plan.numbers.gradient;
    float *parts = on_host(x) ? exec_at(x, in->ref[0]) : (float *)x->staging[0];
    if (!on_host(x))
        exec_get_floats(x, parts, in->ref[0], t, in->n * in->n_parts);
    tree_sum(parts, in->n, in->n_parts, in->n);
    exec_put_floats(x, in->ref[1], t, parts, in->n);
}

static int64_t clamp(int64_t v, int64_t low, int64_t high)
{
    return v < low ? low : v > high ? high : v;
}

static struct ref element(struct ref r, int64_t i, enum dtype t)
{
    r.at_bytes += i * (int64_t)num_dtype_bytes(t);
    return r;
}

/* What each member gets from this rank in the block at `at` of its range; returns the elements of this rank's. */
static int64_t plan_block(const struct flat *f, const struct instr *in, int64_t at, struct comm_rows *r)
{
    const int own = layout_fine_of(f, f->index);
    const int64_t first = clamp(f->cut[own] + at, 0, f->cut[own + 1]),
                  mine = clamp(f->cut[own + 1] - first, 0, in->n);
    for (int m = 0; m < f->n_ranks; m++) {
        const int fine = layout_fine_of(f, m);
        r->send_at[m] = clamp(f->cut[fine] + at, 0, f->cut[fine + 1]);
        r->send_rows[m] = clamp(f->cut[fine + 1] - r->send_at[m], 0, in->n);
        r->recv_at[m] = m * in->n;
        r->recv_rows[m] = mine;
    }
    return mine;
}

/* Gradients of another device come to the host as float32, one part per member. */
static const float *pull(struct exec *x, const struct instr *in, struct comm_rows *r, int n)
{
    if (on_host(x))
        return exec_at(x, in->ref[0]);
    const enum dtype t = x->program->plan.numbers.gradient;
    for (int m = 0; m < n; m++) {
        exec_get_floats(x, (float *)x->staging[0] + m * in->n, element(in->ref[0], r->send_at[m], t), t,
                        r->send_rows[m]);
        r->send_at[m] = m * in->n;
    }
    return (const float *)x->staging[0];
}

/* Reduce-scatter in blocks: every member sends the owner its part of the owner's range; the owner adds them
 * in the tree. The result does not depend on which ranges belong to whom. */
void collect_reduce(struct exec *x, const struct instr *in)
{
    const struct flat *f = &x->program->layout.flat[in->flat];
    const int n = f->n_ranks, own = layout_fine_of(f, f->index);
    const enum dtype t = x->program->plan.numbers.gradient;
    float *parts = on_host(x) ? exec_at(x, in->ref[1]) : (float *)x->staging[1];
    struct comm_rows r = { x->scratch, x->scratch + n, x->scratch + 2 * n, x->scratch + 3 * n };
    int64_t most = 0;
    for (int m = 0; m < n; m++)
        most = f->cut[m + 1] - f->cut[m] > most ? f->cut[m + 1] - f->cut[m] : most;
    for (int64_t at = 0; at < most; at += in->n) {
        const int64_t mine = plan_block(f, in, at, &r), first = clamp(f->cut[own] + at, 0, f->cut[own + 1]);
        const float *from = pull(x, in, &r, n);
        comm_exchange(x->replica[in->flat], from, parts, &r, sizeof(float));
        tree_sum(parts, in->n, n, mine);
        exec_put_floats(x, element(in->ref[0], first, t), t, parts, mine);
    }
}

/* Element range [begin, end) from its owner to all of the group. */
static void send_range(struct exec *x, const struct comm_group *g, int owner, bool mine, struct ref r,
                       int64_t bytes)
{
    if (on_host(x)) {
        comm_send_to_all(g, owner, exec_at(x, r), (size_t)bytes);
        return;
    }
    for (int64_t at = 0; g && at < bytes; at += COLLECT_BLOCK, r.at_bytes += COLLECT_BLOCK) {
        const int64_t n = bytes - at < COLLECT_BLOCK ? bytes - at : COLLECT_BLOCK;
        if (mine)
            exec_get(x, x->staging[0], r, n);
        comm_send_to_all(g, owner, x->staging[0], (size_t)n);
        if (!mine)
            exec_put(x, r, x->staging[0], n);
    }
}

void collect_mirror(struct exec *x, const struct instr *in)
{
    const struct flat *f = &x->program->layout.flat[in->flat];
    const int n = f->n_ranks / f->n_shards, shard = f->index % f->n_shards;
    const enum dtype t = x->program->plan.numbers.gradient;
    for (int u = 0; u < n; u++) {
        const int64_t begin = f->cut[shard * n + u], end = f->cut[shard * n + u + 1];
        send_range(x, x->mirror[in->flat], u, u == f->index / f->n_shards, element(in->ref[0], begin, t),
                   (end - begin) * (int64_t)num_dtype_bytes(t));
    }
}

void collect_gather(struct exec *x, const struct instr *in)
{
    const struct flat *f = &x->program->layout.flat[in->flat];
    const enum dtype t = plan_float(&x->program->plan);
    for (int z = 0; z < f->n_shards; z++) {
        int64_t begin, end;
        layout_coarse(f, z, &begin, &end);
        send_range(x, x->shard[in->flat], z, z == f->index % f->n_shards, element(in->ref[0], begin, t),
                   (end - begin) * (int64_t)num_dtype_bytes(t));
    }
}

/* Sums the chunks in their order; the same double on every rank, whatever the layout. */
bool collect_norm(struct exec *x, const struct instr *in)
{
    double *sums = x->norm_sums, total = 0;
    const struct step_control *s = &x->control;
    exec_get(x, sums, in->ref[0], in->n * (int64_t)sizeof *sums);
    comm_sum_doubles(sums, in->n);
    x->bad_chunk = -1;
    for (int64_t i = 0; i < in->n; i++) {
        if (!isfinite(sums[i]) && x->bad_chunk < 0)
            x->bad_chunk = i;
        total += sums[i];
    }
    x->grad_norm = sqrt(total);
    const double factor = s->clip > 0 ? s->clip / (x->grad_norm + 1e-6) : 1;
    const float control[6] = { (float)s->lr,
                               (float)(factor < 1 ? factor : 1),
                               (float)(1 - pow(s->beta1, (double)s->step)),
                               (float)(1 - pow(s->beta2, (double)s->step)),
                               (float)s->step,
                               (float)(s->seed & 0xffffff) /* what a float32 holds */ };
    exec_put(x, in->ref[1], control, sizeof control);
    return x->bad_chunk < 0 && !x->refuse;
}
