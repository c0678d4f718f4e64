/* step.c - see step.h. Every reported sum is taken per sequence by one rank, exchanged exactly and added in the
 * order of the samples, so it does not depend on how the batch was split. */
#include "run/step.h"
#include "plan/tree.h"
#include "run/pass.h"
#include "run/weights.h"
#include <math.h>
#include <string.h>

/* Without a pipeline a step is the whole list of a micro-batch. */
static void make_order(struct arena *a, const struct plan *p, int stage, struct stepper *s)
{
    s->n_order = (p->stages > 1 ? 2 * p->chunks : 1) * p->accumulation;
    s->order = ARENA_NEW(a, struct pipeline_step, s->n_order);
    if (p->stages > 1)
        pipeline_order(p->stages, p->chunks, p->accumulation, stage, s->order);
    else
        for (int64_t i = 0; i < s->n_order; i++)
            s->order[i].micro = i;
}

void step_new(struct arena *a, struct engine *x, struct batches *b, int64_t most_sequences, struct stepper *s)
{
    const struct plan *p = &x->program.plan;
    *s = (struct stepper){ .engine = x, .batches = b, .arena = a };
    s->n_slots = p->global_batch > most_sequences ? p->global_batch : most_sequences;
    s->nll = ARENA_NEW(a, double, s->n_slots);
    s->aux = ARENA_NEW(a, double, (x->values.n_moe + 1) * s->n_slots);
    for (int i = 0; i < DEVICE_MARKS; i++)
        s->slot[i] = ARENA_NEW(a, int64_t, p->micro_batch);
    exec_turns(&x->exec);
    if (x->values.n_moe) {
        const struct value_info *v = &x->graph->values[x->values.load[0]];
        s->n_experts = v->shape[v->n_dims - 1];
    }
    s->load = ARENA_NEW(a, int64_t, x->values.n_moe * s->n_experts + 1);
    make_order(a, p, x->program.layout.stage, s);
}

/* Where the host writes an input of this turn, and reads a value that is there. */
static void *input(const struct stepper *s, int turn, value v)
{
    return exec_input(&s->engine->exec, turn, s->engine->program.value[v]);
}

static const void *kept(const struct stepper *s, int turn, value v)
{
    return exec_kept(&s->engine->exec, turn, s->engine->program.value[v]);
}

/* d loss / d nll of each token and d loss / d aux of each sequence: means over the whole step. */
static void set_loss_weights(struct stepper *s, int turn, int64_t n_targets, int64_t n_sequences)
{
    const struct program *p = &s->engine->program;
    const int64_t B = p->plan.micro_batch, S = p->plan.sequence;
    float *weight = exec_input(&s->engine->exec, turn, p->nll_weight);
    for (int64_t i = 0; i < B * S; i++)
        weight[i] = (float)(1.0 / (double)n_targets);
    if (p->aux_weight.buffer < 0)
        return;
    weight = exec_input(&s->engine->exec, turn, p->aux_weight);
    for (int64_t i = 0; i < B; i++)
        weight[i] = s->slot[turn][i] < 0 ? 0 : (float)(1.0 / (double)n_sequences);
}

static double sum_sequence(const float *nll, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += nll[i];
    return sum;
}

/* Instructions of a turn: what a step of the order runs, or a part of the evaluation. */
struct turn {
    enum list_kind which;
    struct section section;
    int64_t slot;
    bool first, last; /* of the micro-batches of a sum (a shard, or the step), and of a step, there */
};

static struct turn turn_of(const struct stepper *s, const struct pipeline_step *step)
{
    const struct program *p = &s->engine->program;
    const bool first = step->micro % plan_shard_micro(&p->plan) == 0,
               last = step->micro == p->plan.accumulation - 1;
    if (p->plan.stages == 1)
        return (struct turn){ LIST_MICRO, { 0, p->list[LIST_MICRO].n }, 0, first, last };
    return (struct turn){ LIST_MICRO, step->backward ? p->backward[step->part] : p->forward[step->part],
                          step->micro % p->in_flight[step->part], first, last };
}

/* Did this turn make the value? */
static bool makes(const struct stepper *s, const struct turn *t, value v)
{
    return s->engine->program.plan.stages == 1 || sched_makes(&s->engine->program, t->which, t->section, v);
}

/* Loads and auxiliary losses of one MoE layer. */
static void collect_layer(struct stepper *s, int turn, int k)
{
    const struct plan *p = &s->engine->program.plan;
    const int32_t *loads = kept(s, turn, s->engine->values.load[k]); /* [B E] */
    const float *aux = kept(s, turn, s->engine->values.aux[k]);      /* [B] */
    for (int64_t i = 0; i < p->micro_batch; i++) {
        if (s->slot[turn][i] < 0)
            continue;
        s->aux[k * s->n_slots + s->slot[turn][i]] = aux[i];
        for (int64_t e = 0; e < s->n_experts; e++)
            s->load[k * s->n_experts + e] += loads[i * s->n_experts + e];
    }
}

/* What turn `i` left; waits for it. */
static void collect(struct stepper *s, const struct turn *t, int64_t i)
{
    const struct plan *p = &s->engine->program.plan;
    const int turn = (int)(i % DEVICE_MARKS);
    exec_reach(&s->engine->exec, turn);
    const float *nll = kept(s, turn, s->engine->values.nll); /* [B S] */
    for (int64_t k = 0; k < p->micro_batch && makes(s, t, s->engine->values.nll); k++)
        if (s->slot[turn][k] >= 0)
            s->nll[s->slot[turn][k]] = sum_sequence(nll + k * p->sequence, p->sequence);
    for (int k = 0; t->which == LIST_MICRO && k < s->engine->values.n_moe; k++)
        if (makes(s, t, s->engine->values.aux[k]))
            collect_layer(s, turn, k);
}

/* Runs turn `i`, whose inputs are set; meanwhile the host takes what the one before left: *before. */
static void run_turn(struct stepper *s, const struct turn *t, int64_t i, struct turn *before)
{
    s->engine->exec.first = t->first;
    s->engine->exec.last = t->last;
    exec_run_turn(&s->engine->exec, t->which, t->section, t->slot, (int)(i % DEVICE_MARKS));
    if (i > 0)
        collect(s, before, i - 1);
    *before = *t;
}

static void end_shard(struct stepper *s, const struct pipeline_step *now)
{
    const struct program *p = &s->engine->program;
    struct section part[PLAN_TREE_LEVELS];
    if (p->plan.stages > 1 && !now->backward)
        return;
    const int n = sched_end_shard(p, now->part, now->micro, part);
    for (int i = 0; i < n; i++)
        exec_run_section(&s->engine->exec, LIST_TREE, part[i], 0);
}

static void clear_sums(struct stepper *s)
{
    memset(s->nll, 0, (size_t)s->n_slots * sizeof *s->nll);
    memset(s->aux, 0, (size_t)(s->engine->values.n_moe * s->n_slots) * sizeof *s->aux);
    memset(s->load, 0, (size_t)(s->engine->values.n_moe * s->n_experts) * sizeof *s->load);
}

static double sum_in_order(const char *what, double *x, int64_t n)
{
    double sum = 0;
    comm_doing(what);
    comm_sum_doubles(x, n);
    for (int64_t i = 0; i < n; i++)
        sum += x[i];
    return sum;
}

/* Sample by sample, over the layers of each. */
static double sum_aux(struct stepper *s, int64_t n)
{
    double sum = 0;
    comm_doing("sum of the auxiliary losses");
    comm_sum_doubles(s->aux, s->engine->values.n_moe * s->n_slots);
    for (int64_t i = 0; i < n; i++) {
        double layers = 0;
        for (int k = 0; k < s->engine->values.n_moe; k++)
            layers += s->aux[k * s->n_slots + i];
        sum += layers;
    }
    return sum;
}

static int64_t count_targets(struct stepper *s, int64_t epoch, int64_t first, int64_t n)
{
    int64_t targets = 0;
    for (int64_t i = 0; i < n; i++)
        targets += batches_targets(s->batches, batches_sequence(s->batches, epoch, first + i));
    return targets;
}

struct step_result step_gradients(struct stepper *s, int64_t epoch, int64_t first, int64_t n)
{
    const struct plan *p = &s->engine->program.plan;
    const struct model_values *v = &s->engine->values;
    const int64_t targets = count_targets(s, epoch, first, n);
    struct step_result r = { .n_targets = targets, .n_tokens = n * p->sequence };
    struct turn before = { 0 };
    clear_sums(s);
    pass_settled(&s->engine->exec, s->n_steps++ >= PASS_SETTLED);
    for (int64_t i = 0; i < s->n_order; i++) {
        const int turn = (int)(i % DEVICE_MARKS);
        const struct turn now = turn_of(s, &s->order[i]);
        batches_fill(s->batches, p, epoch, first, n, s->order[i].micro, s->engine->program.layout.rank,
                     input(s, turn, v->tokens), input(s, turn, v->labels), s->slot[turn]);
        set_loss_weights(s, turn, targets > 0 ? targets : 1, n);
        run_turn(s, &now, i, &before);
        end_shard(s, &s->order[i]);
    }
    collect(s, &before, s->n_order - 1);
    r.loss = sum_in_order("sum of the losses", s->nll, n) / (double)(targets > 0 ? targets : 1);
    r.aux = sum_aux(s, n) / (double)n;
    comm_doing("sum of the expert loads");
    comm_sum_integers(s->load, s->engine->values.n_moe * s->n_experts);
    r.finite = isfinite(r.loss) && isfinite(r.aux);
    return r;
}

struct step_result step_train(struct stepper *s, int64_t epoch, int64_t first, int64_t n)
{
    struct exec *x = &s->engine->exec;
    struct step_result r = step_gradients(s, epoch, first, n);
    x->refuse = !r.finite; /* the reduction still runs: it tells which tensor went wrong */
    r.finite = exec_run(x, LIST_UPDATE);
    r.grad_norm = x->grad_norm;
    if (x->bad_chunk >= 0)
        r.bad_tensor =
            weights_chunk_tensor(s->arena, s->engine->graph, &s->engine->program.plan, x->bad_chunk);
    return r;
}

double step_evaluate(struct stepper *s, int64_t begin, int64_t end, int64_t *n_targets)
{
    const struct plan *p = &s->engine->program.plan;
    const struct model_values *v = &s->engine->values;
    const int64_t per_block = plan_graph_batch(p), blocks = (end - begin + per_block - 1) / per_block;
    int64_t targets = 0;
    struct turn before = { 0 };
    CHECK(end - begin <= s->n_slots, "%lld sequences to evaluate", (long long)(end - begin));
    memset(s->nll, 0, (size_t)s->n_slots * sizeof *s->nll); /* loads stay those of the step */
    const int chunks = p->chunks;
    for (int64_t i = 0; i < blocks * chunks; i++) {
        const int turn = (int)(i % DEVICE_MARKS);
        const struct turn now = { LIST_EVAL, s->engine->program.eval[i % chunks], 0, false, false };
        pass_settled(&s->engine->exec, s->n_blocks >= PASS_SETTLED);
        s->n_blocks += i % chunks == chunks - 1;
        batches_fill_eval(s->batches, p, begin, end, i / chunks, s->engine->program.layout.rank,
                          input(s, turn, v->tokens), input(s, turn, v->labels), s->slot[turn]);
        run_turn(s, &now, i, &before);
    }
    if (blocks > 0)
        collect(s, &before, blocks * chunks - 1);
    for (int64_t i = begin; i < end; i++)
        targets += batches_targets(s->batches, i);
    *n_targets = targets;
    return sum_in_order("sum of the losses", s->nll, end - begin) / (double)(targets > 0 ? targets : 1);
}

double step_load_ratio(const struct stepper *s, int moe_layer)
{
    const int64_t *load = s->load + moe_layer * s->n_experts;
    int64_t most = 0, sum = 0;
    for (int64_t e = 0; e < s->n_experts; e++) {
        most = load[e] > most ? load[e] : most;
        sum += load[e];
    }
    return sum ? (double)most * (double)s->n_experts / (double)sum : 0;
}

double step_worst_load_ratio(const struct stepper *s)
{
    double worst = 0;
    for (int k = 0; k < s->engine->values.n_moe; k++)
        worst = fmax(worst, step_load_ratio(s, k));
    return worst;
}
