/* exec.c - see exec.h. */
#include "run/exec.h"
#include "base/pool.h"
#include "run/rows.h"
#include <math.h>
#include <string.h>
#include <time.h>

double exec_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void *exec_at(const struct exec *x, struct ref r)
{
    return r.buffer < 0 ? NULL : x->slab + x->program->buffers[r.buffer].at + r.at_bytes;
}

static void bind_list(struct arena *a, struct exec *x, enum list_kind which)
{
    const struct list *list = &x->program->list[which];
    x->calls[which] = ARENA_NEW(a, struct call, list->n);
    for (int i = 0; i < list->n; i++) {
        const struct instr *in = &list->item[i];
        struct call *c = &x->calls[which][i];
        for (int j = 0; j < OP_ARGS; j++) {
            c->arg[j] = exec_at(x, in->arg[j]);
            c->grad[j] = exec_at(x, in->grad[j]);
        }
        c->work = exec_at(x, in->work);
        c->add = in->add;
        memcpy(c->dim, in->dim, sizeof c->dim);
        memcpy(c->attr, in->attr, sizeof c->attr);
    }
}

/* Communicators exist and have been used before the slab is taken. */
static void make_groups(struct arena *a, struct exec *x)
{
    const struct program *p = x->program;
    const int rank = p->layout.rank, ep = p->plan.expert_parallel;
    x->expert = comm_split(a, rank / ep);
    for (int i = 0; i < FLATS; i++) {
        const struct flat *f = &p->layout.flat[i];
        const int apart = i == EXPERT ? rank % ep : 0;
        x->replica[i] = comm_split(a, apart);
        x->mirror[i] = comm_split(a, apart * f->n_shards + f->index % f->n_shards);
        x->shard[i] = comm_split(a, apart * (f->n_ranks / f->n_shards) + f->index / f->n_shards);
    }
}

static void upload_constants(struct exec *x)
{
    const struct program *p = x->program;
    for (int v = 0; v < p->graph->n_values; v++)
        if (p->graph->values[v].kind == VALUE_CONST && p->value[v].buffer >= 0)
            memcpy(exec_at(x, p->value[v]), p->graph->values[v].data,
                   (size_t)p->buffers[p->value[v].buffer].bytes);
}

void exec_new(struct arena *a, struct program *p, struct exec *x)
{
    *x = (struct exec){ .program = p, .bad_chunk = -1 };
    x->scratch = ARENA_NEW(a, int64_t, 8 * (p->plan.n_ranks + 1));
    make_groups(a, x);
    x->slab = arena_slab((size_t)p->memory.peak_bytes);
    for (int k = 0; k < LISTS; k++)
        bind_list(a, x, (enum list_kind)k);
    upload_constants(x);
}

void exec_free(struct exec *x)
{
    arena_slab_free(x->slab);
    x->slab = NULL;
}

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

static void sum_parts(const struct exec *x, const struct instr *in)
{
    float *parts = exec_at(x, in->ref[0]);
    tree_sum(parts, in->n, in->n_parts, in->n);
    memcpy(exec_at(x, in->ref[1]), parts, (size_t)in->n * sizeof(float));
}

static int64_t clamp(int64_t v, int64_t low, int64_t high)
{
    return v < low ? low : v > high ? high : v;
}

/* Reduce-scatter in blocks: every member sends the owner its part of the owner's range; the owner adds them
 * in the tree. The result does not depend on which ranges belong to whom. */
static void reduce(const struct exec *x, const struct instr *in)
{
    const struct flat *f = &x->program->layout.flat[in->flat];
    const int n = f->n_ranks;
    float *grad = exec_at(x, in->ref[0]), *staging = exec_at(x, in->ref[1]);
    struct comm_rows r = { x->scratch, x->scratch + n, x->scratch + 2 * n, x->scratch + 3 * n };
    const int own = layout_fine_of(f, f->index);
    int64_t most = 0;
    for (int m = 0; m < n; m++)
        most = f->cut[m + 1] - f->cut[m] > most ? f->cut[m + 1] - f->cut[m] : most;
    for (int64_t at = 0; at < most; at += in->n) {
        const int64_t first = clamp(f->cut[own] + at, 0, f->cut[own + 1]),
                      mine = clamp(f->cut[own + 1] - first, 0, in->n);
        for (int m = 0; m < n; m++) {
            const int fine = layout_fine_of(f, m);
            r.send_at[m] = clamp(f->cut[fine] + at, 0, f->cut[fine + 1]);
            r.send_rows[m] = clamp(f->cut[fine + 1] - r.send_at[m], 0, in->n);
            r.recv_at[m] = m * in->n;
            r.recv_rows[m] = mine;
        }
        comm_exchange(x->replica[in->flat], grad, staging, &r, 1);
        tree_sum(staging, in->n, n, mine);
        memcpy(grad + first, staging, (size_t)mine * sizeof(float));
    }
}

static void mirror(const struct exec *x, const struct instr *in)
{
    const struct flat *f = &x->program->layout.flat[in->flat];
    const int n = f->n_ranks / f->n_shards, shard = f->index % f->n_shards;
    int64_t *begin = x->scratch, *end = x->scratch + n;
    for (int u = 0; u < n; u++) {
        begin[u] = f->cut[shard * n + u];
        end[u] = f->cut[shard * n + u + 1];
    }
    comm_gather_ranges(x->mirror[in->flat], exec_at(x, in->ref[0]), begin, end);
}

static void gather(const struct exec *x, const struct instr *in)
{
    const struct flat *f = &x->program->layout.flat[in->flat];
    int64_t *begin = x->scratch, *end = x->scratch + f->n_shards;
    for (int z = 0; z < f->n_shards; z++)
        layout_coarse(f, z, &begin[z], &end[z]);
    comm_gather_ranges(x->shard[in->flat], exec_at(x, in->ref[0]), begin, end);
}

/* Sums the chunks in their order; the same double on every rank, whatever the layout. */
static bool finish_norm(struct exec *x, const struct instr *in)
{
    double *sums = exec_at(x, in->ref[0]), total = 0;
    const struct step_control *s = &x->control;
    comm_sum_doubles(sums, in->n);
    x->bad_chunk = -1;
    for (int64_t i = 0; i < in->n; i++) {
        if (!isfinite(sums[i]) && x->bad_chunk < 0)
            x->bad_chunk = i;
        total += sums[i];
    }
    x->grad_norm = sqrt(total);
    const double factor = s->clip > 0 ? s->clip / (x->grad_norm + 1e-6) : 1;
    float *control = exec_at(x, in->ref[1]);
    control[0] = (float)s->lr;
    control[1] = (float)(factor < 1 ? factor : 1);
    control[2] = (float)(1 - pow(s->beta1, (double)s->step));
    control[3] = (float)(1 - pow(s->beta2, (double)s->step));
    return x->bad_chunk < 0 && !x->refuse;
}

static enum time_class class_of(const struct instr *in, enum list_kind which)
{
    switch (in->kind) {
    case RUN_ROUTE:
    case RUN_SEND:
    case RUN_RETURN:
        return TIME_EXCHANGE;
    case RUN_REDUCE:
    case RUN_MIRROR:
    case RUN_GATHER:
    case RUN_NORM_SUM:
        return TIME_REDUCE;
    default:
        return which == LIST_UPDATE ? TIME_OPTIMIZER : TIME_COMPUTE;
    }
}

static bool run_one(struct exec *x, enum list_kind which, int index, const struct rows *rows)
{
    const struct instr *in = &x->program->list[which].item[index];
    const struct call *c = &x->calls[which][index];
    switch (in->kind) {
    case RUN_OP:
        (in->backward ? in->op->bwd[CPU] : in->op->fwd[CPU])(c);
        return true;
    case RUN_ZERO:
        memset(exec_at(x, in->ref[0]), 0, (size_t)in->n);
        return true;
    case RUN_ROUTE:
        rows_route(x, in);
        return true;
    case RUN_SEND:
        rows_send(x, in, rows);
        return true;
    case RUN_RETURN:
        rows_return(x, in, rows);
        return true;
    case RUN_PARTS:
        sum_parts(x, in);
        return true;
    case RUN_REDUCE:
        reduce(x, in);
        return true;
    case RUN_MIRROR:
        mirror(x, in);
        return true;
    case RUN_GATHER:
        gather(x, in);
        return true;
    case RUN_NORM_SUM:
        return finish_norm(x, in);
    case RUN_ROUND:
    case RUN_ROUND_END:
        break;
    }
    return true;
}

bool exec_run(struct exec *x, enum list_kind which)
{
    const struct list *list = &x->program->list[which];
    struct rows rows = { 0 };
    int head = 0;
    double before = exec_now();
    for (int i = 0; i < list->n; i++) {
        const struct instr *in = &list->item[i];
        if (in->kind == RUN_ROUND) {
            head = i;
            rows_begin(x, in, &rows);
        } else if (in->kind == RUN_ROUND_END && rows_next(x, &rows)) {
            i = head;
        } else if (!run_one(x, which, i, &rows)) {
            return false;
        }
        const double now = exec_now();
        x->seconds[class_of(in, which)] += now - before;
        before = now;
    }
    return true;
}
