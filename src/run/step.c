/* step.c - see step.h. Every reported sum is taken per sequence by one rank, exchanged exactly and added in the
 * order of the samples, so it does not depend on how the batch was split. */
#include "run/step.h"
#include "run/weights.h"
#include <math.h>
#include <string.h>

void step_new(struct arena *a, struct engine *x, struct batches *b, int64_t most_sequences, struct stepper *s)
{
    const struct plan *p = &x->program.plan;
    *s = (struct stepper){ .engine = x, .batches = b, .arena = a };
    s->n_slots = p->global_batch > most_sequences ? p->global_batch : most_sequences;
    s->nll = ARENA_NEW(a, double, s->n_slots);
    s->aux = ARENA_NEW(a, double, s->n_slots);
    s->slot = ARENA_NEW(a, int64_t, p->micro_batch);
    if (x->values.n_moe) {
        const struct value_info *v = &x->graph->values[x->values.load[0]];
        s->n_experts = v->shape[v->n_dims - 1];
    }
    s->load = ARENA_NEW(a, int64_t, x->values.n_moe * s->n_experts + 1);
    const int64_t n = p->micro_batch * p->sequence;
    s->tokens = ARENA_NEW(a, int32_t, n);
    s->labels = ARENA_NEW(a, int32_t, n);
    s->token_nll = ARENA_NEW(a, float, n);
    s->weight = ARENA_NEW(a, float, n);
    s->aux_of = ARENA_NEW(a, float, p->micro_batch);
    s->loads = ARENA_NEW(a, int32_t, p->micro_batch * s->n_experts + 1);
}

/* `bytes` of a value that the host reads after the last instruction. */
static void get_value(const struct stepper *s, value v, void *to, int64_t bytes)
{
    exec_get(&s->engine->exec, to, s->engine->program.value[v], bytes);
}

/* The tokens and labels of the micro-batch go to the device. */
static void put_batch(struct stepper *s)
{
    const struct engine *x = s->engine;
    const int64_t bytes = x->program.plan.micro_batch * x->program.plan.sequence * (int64_t)sizeof(int32_t);
    exec_put(&s->engine->exec, x->program.value[x->values.tokens], s->tokens, bytes);
    exec_put(&s->engine->exec, x->program.value[x->values.labels], s->labels, bytes);
}

/* d loss / d nll of each token and d loss / d aux of each sequence: means over the whole step. */
static void set_loss_weights(struct stepper *s, int64_t n_targets, int64_t n_sequences)
{
    const struct program *p = &s->engine->program;
    const int64_t B = p->plan.micro_batch, S = p->plan.sequence;
    struct exec *x = &s->engine->exec;
    for (int64_t i = 0; i < B * S; i++)
        s->weight[i] = (float)(1.0 / (double)n_targets);
    exec_put(x, p->nll_weight, s->weight, B * S * (int64_t)sizeof(float));
    for (int64_t i = 0; i < B; i++)
        s->aux_of[i] = s->slot[i] < 0 ? 0 : (float)(1.0 / (double)n_sequences);
    if (p->aux_weight.buffer >= 0)
        exec_put(x, p->aux_weight, s->aux_of, B * (int64_t)sizeof(float));
}

static double sum_sequence(const float *nll, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += nll[i];
    return sum;
}

/* Loads and auxiliary losses of one MoE layer. */
static void collect_layer(struct stepper *s, int k)
{
    const struct plan *p = &s->engine->program.plan;
    const struct model_values *v = &s->engine->values;
    get_value(s, v->load[k], s->loads, p->micro_batch * s->n_experts * (int64_t)sizeof(int32_t));
    get_value(s, v->aux[k], s->aux_of, p->micro_batch * (int64_t)sizeof(float));
    for (int64_t i = 0; i < p->micro_batch; i++) {
        if (s->slot[i] < 0)
            continue;
        s->aux[s->slot[i]] += s->aux_of[i];
        for (int64_t e = 0; e < s->n_experts; e++)
            s->load[k * s->n_experts + e] += s->loads[i * s->n_experts + e];
    }
}

static void collect(struct stepper *s)
{
    const struct plan *p = &s->engine->program.plan;
    get_value(s, s->engine->values.nll, s->token_nll, p->micro_batch * p->sequence * (int64_t)sizeof(float));
    for (int64_t i = 0; i < p->micro_batch; i++)
        if (s->slot[i] >= 0)
            s->nll[s->slot[i]] = sum_sequence(s->token_nll + i * p->sequence, p->sequence);
    for (int k = 0; k < s->engine->values.n_moe; k++)
        collect_layer(s, k);
}

static void clear_sums(struct stepper *s)
{
    memset(s->nll, 0, (size_t)s->n_slots * sizeof *s->nll);
    memset(s->aux, 0, (size_t)s->n_slots * sizeof *s->aux);
    memset(s->load, 0, (size_t)(s->engine->values.n_moe * s->n_experts) * sizeof *s->load);
}

static double sum_in_order(double *x, int64_t n)
{
    double sum = 0;
    comm_sum_doubles(x, n);
    for (int64_t i = 0; i < n; i++)
        sum += x[i];
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
    const int64_t targets = count_targets(s, epoch, first, n);
    struct step_result r = { .n_targets = targets, .n_tokens = n * p->sequence };
    clear_sums(s);
    for (int64_t micro = 0; micro < p->accumulation; micro++) {
        batches_fill(s->batches, p, epoch, first, n, micro, comm_rank(), s->tokens, s->labels, s->slot);
        put_batch(s);
        set_loss_weights(s, targets > 0 ? targets : 1, n);
        exec_run(&s->engine->exec, LIST_MICRO);
        collect(s);
    }
    r.loss = sum_in_order(s->nll, n) / (double)(targets > 0 ? targets : 1);
    r.aux = sum_in_order(s->aux, n) / (double)n;
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
    const int64_t per_block = p->micro_batch * p->n_ranks, blocks = (end - begin + per_block - 1) / per_block;
    int64_t targets = 0;
    CHECK(end - begin <= s->n_slots, "%lld sequences to evaluate", (long long)(end - begin));
    clear_sums(s);
    for (int64_t block = 0; block < blocks; block++) {
        batches_fill_eval(s->batches, p, begin, end, block, comm_rank(), s->tokens, s->labels, s->slot);
        put_batch(s);
        exec_run(&s->engine->exec, LIST_EVAL);
        collect(s);
    }
    for (int64_t i = begin; i < end; i++)
        targets += batches_targets(s->batches, i);
    *n_targets = targets;
    return sum_in_order(s->nll, end - begin) / (double)(targets > 0 ? targets : 1);
}

double step_load_ratio(const struct stepper *s, int moe_layer)
{
    double worst = 0;
    for (int k = 0; k < s->engine->values.n_moe; k++) {
        const int64_t *load = s->load + k * s->n_experts;
        int64_t most = 0, sum = 0;
        for (int64_t e = 0; e < s->n_experts; e++) {
            most = load[e] > most ? load[e] : most;
            sum += load[e];
        }
        const double ratio = sum ? (double)most * (double)s->n_experts / (double)sum : 0;
        if (k == moe_layer)
            return ratio;
        worst = ratio > worst ? ratio : worst;
    }
    return worst;
}
