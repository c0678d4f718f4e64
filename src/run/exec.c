/* exec.c - see exec.h. */
#include "run/exec.h"
#include "run/collect.h"
#include "run/offload.h"
#include "run/pass.h"
#include "run/rows.h"
#include "run/stretch.h"
#include "run/tensor.h"
#include "sched/predict.h"
#include <limits.h>
#include <stdlib.h>
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
    if (r.buffer < 0)
        return NULL;
    const struct buffer *b = &x->program->buffers[r.buffer];
    return x->slab + b->at + (b->slots ? x->slot % b->slots * b->slot_bytes : 0) + r.at_bytes;
}

void exec_put(struct exec *x, struct ref to, const void *from, int64_t bytes)
{
    x->device->put(exec_at(x, to), from, (size_t)bytes);
}

void exec_get(const struct exec *x, void *to, struct ref from, int64_t bytes)
{
    x->device->get(to, exec_at(x, from), (size_t)bytes);
}

static size_t whole_bytes(const struct exec *x, struct ref r)
{
    return r.buffer < 0 ? 0 : (size_t)x->program->buffers[r.buffer].bytes;
}

void exec_turns(struct exec *x)
{
    for (int i = 0; i < DEVICE_MARKS; i++) {
        x->inputs[i] = x->device->host_allocate(whole_bytes(x, x->program->inputs));
        x->kept[i] = x->device->host_allocate(whole_bytes(x, x->program->kept));
    }
}

void *exec_input(const struct exec *x, int turn, struct ref r)
{
    CHECK(r.buffer == x->program->inputs.buffer, "buffer %d is no input", r.buffer);
    return x->inputs[turn] + r.at_bytes;
}

const void *exec_kept(const struct exec *x, int turn, struct ref r)
{
    CHECK(r.buffer == x->program->kept.buffer, "buffer %d is not kept", r.buffer);
    return x->kept[turn] + r.at_bytes;
}

void exec_run_turn(struct exec *x, enum list_kind which, struct section s, int64_t slot, int turn)
{
    const struct program *p = x->program;
    x->device->put_later(exec_at(x, p->inputs), x->inputs[turn], whole_bytes(x, p->inputs));
    exec_run_section(x, which, s, slot);
    x->slot = slot; /* the place of the kept values */
    x->device->get_later(x->kept[turn], exec_at(x, p->kept), whole_bytes(x, p->kept));
    x->slot = 0;
    x->device->mark(turn);
}

void exec_reach(struct exec *x, int turn)
{
    const double before = exec_now();
    x->device->reach(turn);
    if (!x->device->spent)
        x->seconds[COST_COMPUTE] += exec_now() - before;
}

enum { PIECE = 1 << 20 }; /* elements that are converted at once */

void exec_get_floats(const struct exec *x, float *to, struct ref r, enum dtype t, int64_t n)
{
    const int64_t each = (int64_t)num_dtype_bytes(t);
    if (t == F32) {
        exec_get(x, to, r, n * each);
        return;
    }
    void *raw = arena_slab((size_t)((n < PIECE ? n : PIECE) * each));
    for (int64_t i = 0; i < n; i += PIECE, r.at_bytes += PIECE * each) {
        const int64_t part = n - i < PIECE ? n - i : PIECE;
        exec_get(x, raw, r, part * each);
        num_to_float(to + i, raw, t, part);
    }
    arena_slab_free(raw);
}

void exec_put_floats(struct exec *x, struct ref r, enum dtype t, const float *from, int64_t n)
{
    const int64_t each = (int64_t)num_dtype_bytes(t);
    if (t == F32) {
        exec_put(x, r, from, n * each);
        return;
    }
    void *raw = arena_slab((size_t)((n < PIECE ? n : PIECE) * each));
    for (int64_t i = 0; i < n; i += PIECE, r.at_bytes += PIECE * each) {
        const int64_t part = n - i < PIECE ? n - i : PIECE;
        num_from_float(raw, from + i, t, part);
        exec_put(x, r, raw, part * each);
    }
    arena_slab_free(raw);
}

static kernel *kernel_of(const struct exec *x, const struct instr *in)
{
    return instr_kernel(in, x->device->backend);
}

static void check_kernel(const struct exec *x, const struct instr *in)
{
    CHECK(in->kind != RUN_OP || kernel_of(x, in), "%s has no %s kernel for %s%s", in->name, x->device->name,
          in->op->name, in->backward ? " (backward)" : "");
}

static void bind_call(struct exec *x, const struct instr *in, struct call *c)
{
    for (int j = 0; j < OP_ARGS; j++) {
        c->arg[j] = exec_at(x, in->arg[j]);
        c->grad[j] = exec_at(x, in->grad[j]);
    }
    c->work = exec_at(x, in->work);
    c->wide = in->wide;
    c->stream = x->device->stream();
    memcpy(c->dim, in->dim, sizeof c->dim);
    memcpy(c->attr, in->attr, sizeof c->attr);
    check_kernel(x, in);
}

static void bind_list(struct arena *a, struct exec *x, enum list_kind which)
{
    const struct list *list = &x->program->list[which];
    x->calls[which] = ARENA_NEW(a, struct call, list->n * x->n_slots[which]);
    for (x->slot = 0; x->slot < x->n_slots[which]; x->slot++)
        for (int i = 0; i < list->n; i++)
            bind_call(x, &list->item[i], &x->calls[which][x->slot * list->n + i]);
    x->slot = 0;
}

static void count_slots(struct exec *x)
{
    for (int k = 0; k < LISTS; k++)
        x->n_slots[k] = 1;
    for (int c = 0; c < x->program->plan.chunks; c++)
        if (x->program->in_flight[c] > x->n_slots[LIST_MICRO])
            x->n_slots[LIST_MICRO] = x->program->in_flight[c];
}

static bool has_lanes(const struct exec *x)
{
    return x->device->lane && x->program->n_marks > 0;
}

/* The place that stands for the beginning and the end of sections; those of messages follow. */
static int joint(const struct exec *x)
{
    return x->program->n_marks;
}

static void make_lanes(const struct exec *x, int blocks)
{
    const bool beside = has_lanes(x) && comm_on_device();
    const int places = pass_places(x) + (x->device->lane ? offload_places(x) : 0);
    if (has_lanes(x) || places > 0)
        x->device->lanes(joint(x) + 1 + places, (beside ? blocks : 0) + pass_blocks(x));
    if (beside)
        comm_limit(blocks);
}

static struct comm_group *group_of(struct arena *a, const struct program *p, const char *name,
                                   enum group_kind kind, int flat)
{
    const int first = sched_members(&p->plan, p->layout.rank, kind, flat).first;
    return comm_split(a, name, first + comm_rank() - p->layout.rank); /* plans of one rank stay apart */
}

/* Communicators exist and have been used before the slab is taken. */
static void make_groups(struct arena *a, struct exec *x)
{
    const struct program *p = x->program;
    x->expert = group_of(a, p, "experts", GROUP_EXPERT, 0);
    x->tensor = group_of(a, p, "tensors", GROUP_TENSOR, 0);
    if (p->layout.tied)
        x->both_ends = group_of(a, p, "ends of the pipeline", GROUP_ENDS, 0);
    for (int i = 0; i < (p->layout.tied ? FLATS : SHARED); i++) {
        static const char *const names[FLATS][3] = {
            { "replicas, dense", "mirror, dense", "shards, dense" },
            { "replicas, experts", "mirror, experts", "shards, experts" },
            { "replicas, slices", "mirror, slices", "shards, slices" },
            { "replicas, tied", "mirror, tied", "shards, tied" }
        };
        x->replica[i] = group_of(a, p, names[i][0], GROUP_REPLICA, i);
        x->mirror[i] = group_of(a, p, names[i][1], GROUP_MIRROR, i);
        x->shard[i] = group_of(a, p, names[i][2], GROUP_SHARD, i);
    }
}

static void upload_constants(struct exec *x)
{
    const struct program *p = x->program;
    for (int v = 0; v < p->graph->n_values; v++)
        if (p->graph->values[v].kind == VALUE_CONST && p->value[v].buffer >= 0)
            exec_put(x, p->value[v], p->graph->values[v].data, p->buffers[p->value[v].buffer].bytes);
}

/* With MOEC_TEST_LATE in the environment, a host that has one lane runs what is beside as late as compute allows: as a
 * device might, and before the results are there that compute should have waited for. */
struct late {
    int index;
    struct rows rows;
};
enum { LATE = 4096 };

static void make_late(struct arena *a, struct exec *x)
{
    if (getenv("MOEC_TEST_LATE") && !x->device->lane && x->program->n_marks > 0)
        x->late = ARENA_NEW(a, struct late, LATE);
}

/* With MOEC_TEST_POISON in the environment gradients begin as what is no number: nobody may read one that was not written. */
static void poison_gradients(struct exec *x)
{
    unsigned char poison[4096];
    memset(poison, 0xff, sizeof poison);
    for (int i = 0; getenv("MOEC_TEST_POISON") && i < x->program->n_buffers; i++) {
        const struct buffer *b = &x->program->buffers[i];
        const bool stays = b->class == MEM_GRADIENTS && b->last == INT_MAX;
        for (int64_t at = 0; stays && at < b->bytes; at += (int64_t)sizeof poison)
            exec_put(x, (struct ref){ i, at }, poison,
                     b->bytes - at < (int64_t)sizeof poison ? b->bytes - at : (int64_t)sizeof poison);
    }
}

void exec_new(struct arena *a, struct program *p, const struct device *d, int blocks, struct exec *x)
{
    CHECK(d->backend == p->plan.numbers.backend, "the plan is for %s",
          plan_backend_name[p->plan.numbers.backend]);
    int64_t experts = 0;
    *x = (struct exec){ .program = p, .device = d, .bad_chunk = -1 };
    x->scratch = ARENA_NEW(a, int64_t, 8 * (p->plan.n_ranks + 1));
    x->norm_sums = ARENA_NEW(a, double, p->layout.n_chunks_total + 1);
    for (int k = 0; k < LISTS; k++)
        for (int i = 0; i < p->list[k].n; i++)
            if (p->list[k].item[i].kind == RUN_ROUTE && p->list[k].item[i].n > experts)
                experts = p->list[k].item[i].n;
    x->counts =
        ARENA_NEW(a, int32_t, p->plan.expert_parallel * route_counts(experts, p->plan.expert_parallel));
    x->ends = ARENA_NEW(a, int32_t, plan_at_once(&p->plan) * ROUND_TABLES * experts + 1);
    make_lanes(x, blocks);
    make_groups(a, x);
    pass_new(a, x, joint(x) + 1);
    offload_new(x, joint(x) + 1 + pass_places(x));
    collect_staging(x);
    count_slots(x);
    x->slab = d->allocate((size_t)p->memory.peak_bytes);
    if (d->backend != CPU) /* sums and moments begin at zero; the host's slab is zero already */
        d->zero(x->slab, (size_t)p->memory.peak_bytes);
    comm_share(x->slab, (size_t)p->memory.peak_bytes);
    for (int k = 0; k < LISTS; k++)
        bind_list(a, x, (enum list_kind)k);
    upload_constants(x);
    poison_gradients(x);
    make_late(a, x);
}

void exec_free(struct exec *x)
{
    if (!x->device)
        return; /* never made */
    for (int i = 0; i < DEVICE_MARKS && x->inputs[i]; i++) {
        x->device->host_release(x->inputs[i]);
        x->device->host_release(x->kept[i]);
    }
    stretch_free(x);
    pass_free(x);
    offload_free(x);
    comm_unshare(x->slab);
    x->device->release(x->slab);
    memset(x->inputs, 0, sizeof x->inputs);
    x->slab = NULL;
}

int64_t exec_outside(const struct exec *x)
{
    return x->device->used ? x->device->used() - x->program->memory.peak_bytes : -1;
}

void exec_launch(struct exec *x, enum list_kind which, int index, bool first)
{
    const struct instr *in = &x->program->list[which].item[index];
    if (in->kind != RUN_OP) {
        x->device->zero(exec_at(x, in->ref[0]), (size_t)in->n);
        return;
    }
    struct call c = x->calls[which][x->slot * x->program->list[which].n + index];
    c.add = instr_add(in, first);
    kernel_of(x, in)(&c);
}

static bool is_first(const struct exec *x, const struct rows *rows)
{
    return x->first && rows->loop == 0;
}

static bool run_one(struct exec *x, enum list_kind which, int index, const struct rows *rows)
{
    const struct instr *in = &x->program->list[which].item[index];
    if (rows_are_left(x, in, rows))
        return true;
    switch (in->kind) {
    case RUN_OP:
    case RUN_ZERO:
        exec_launch(x, which, index, is_first(x, rows));
        return true;
    case RUN_ROUTE:
        rows_route(x, in);
        return true;
    case RUN_SEND:
    case RUN_RETURN:
    case RUN_PACK:
    case RUN_UNPACK:
        rows_run(x, in, rows);
        return true;
    case RUN_TENSOR_GATHER:
        tensor_gather(x, in);
        return true;
    case RUN_TENSOR_SCATTER:
        tensor_scatter(x, in);
        return true;
    case RUN_PARTS:
        collect_parts(x, in);
        return true;
    case RUN_REDUCE:
        collect_reduce(x, in, is_first(x, rows));
        return true;
    case RUN_MIRROR:
        collect_mirror(x, in);
        return true;
    case RUN_SUM_ENDS:
        collect_ends(x, in);
        return true;
    case RUN_GATHER:
        collect_gather(x, in);
        return true;
    case RUN_PASS_OUT:
        pass_out(x, in);
        return true;
    case RUN_PASS_IN:
        pass_in(x, in);
        return true;
    case RUN_TO_HOST:
    case RUN_FROM_HOST:
    case RUN_AWAIT_HOST:
        offload_run(x, in);
        return true;
    case RUN_NORM_SUM:
        return collect_norm(x, in);
    case RUN_ROUND:
    case RUN_ROUND_END:
        break;
    }
    return true;
}

static const char *const list_name[LISTS] = { "micro-batch", "update", "evaluation", "sum of shards" };

static void lane(const struct exec *x, bool beside)
{
    if (has_lanes(x))
        x->device->lane(beside ? LANE_SIDE : LANE_COMPUTE);
}

/* What comes next in one lane stands behind everything in the other one. */
static void join(const struct exec *x, bool beside)
{
    if (!has_lanes(x))
        return;
    lane(x, !beside);
    x->device->place(joint(x));
    lane(x, beside);
    x->device->behind(joint(x));
    lane(x, false);
}

/* Compute that waits for another lane spends that time on what it waits for. */
static void enter(const struct exec *x, enum list_kind which, const struct instr *in)
{
    const struct instr *other = in->after ? &x->program->list[which].item[in->after - 1] : NULL;
    const bool tells = x->device->spend_on && !in->beside;
    lane(x, in->beside);
    if (other && has_lanes(x)) {
        if (tells)
            x->device->spend_on((int)sched_cost_class(other, which));
        x->device->behind(other->mark - 1);
    }
    if (tells)
        x->device->spend_on((int)sched_cost_class(in, which));
}

static void leave(const struct exec *x, const struct instr *in)
{
    if (in->mark && has_lanes(x))
        x->device->place(in->mark - 1);
    lane(x, false);
}

static void put_off(struct exec *x, int index, const struct rows *rows)
{
    CHECK(x->late_to < LATE, "%d instructions are put off", LATE);
    x->late[x->late_to++] = (struct late){ index, *rows };
}

/* What was put off and stands before instruction `to`. */
static void run_late(struct exec *x, enum list_kind which, int to)
{
    for (; x->late && x->late_from < x->late_to && x->late[x->late_from].index < to; x->late_from++)
        run_one(x, which, x->late[x->late_from].index, &x->late[x->late_from].rows);
    if (x->late_from == x->late_to)
        x->late_from = x->late_to = 0;
}

static bool run_section(struct exec *x, enum list_kind which, struct section s)
{
    const struct list *list = &x->program->list[which];
    struct rows rows = { 0 };
    int head = 0;
    double before = exec_now();
    for (int i = s.from; i < s.to; i++) {
        const struct instr *in = &list->item[i];
        if ((in->once && rows.loop > 0) || (in->last && !x->last) || (in->start && !x->first))
            continue;
        if (x->late && in->beside) {
            put_off(x, i, &rows);
            continue;
        }
        /* Others may need what was put off, to come to the norm themselves. */
        run_late(x, which, in->kind == RUN_NORM_SUM ? i : in->after);
        comm_doing_instruction(in->name, list_name[which], i);
        enter(x, which, in);
        const int at = i, behind = stretch_run(x, which, i, is_first(x, &rows));
        if (behind > i) {
            i = behind - 1;
        } else if (in->kind == RUN_ROUND) {
            head = i;
            rows_begin(x, in, &rows);
        } else if (in->kind == RUN_ROUND_END && rows_next(x, &rows)) {
            i = head;
        } else if (!run_one(x, which, i, &rows)) {
            return false;
        }
        leave(x, &list->item[i]);
        if (x->spent[which])
            x->device->wait();
        const double now = exec_now();
        if (x->spent[which])
            x->spent[which][at] += now - before;
        if (!x->device->spent)
            x->seconds[sched_cost_class(in, which)] += now - before;
        before = now;
    }
    return true;
}

bool exec_run_section(struct exec *x, enum list_kind which, struct section s, int64_t slot)
{
    x->slot = slot;
    join(x, true);
    const bool ok = run_section(x, which, s);
    run_late(x, which, s.to);
    join(x, false);
    x->slot = 0;
    return ok;
}

void exec_count_times(struct exec *x)
{
    if (x->device->spent)
        x->device->spent(x->seconds);
}

bool exec_run(struct exec *x, enum list_kind which)
{
    return exec_run_section(x, which, (struct section){ 0, x->program->list[which].n }, 0);
}
