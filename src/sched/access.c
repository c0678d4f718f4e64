/* access.c - see access.h. */
#include "sched/access.h"

struct accesses {
    const struct program *p;
    struct access *item;
    int n;
};

static void add(struct accesses *x, struct ref r, int64_t bytes, bool write)
{
    if (r.buffer >= 0)
        x->item[x->n++] = (struct access){ r.at_bytes, r.at_bytes + bytes, r.buffer, write };
}

static void add_whole(struct accesses *x, struct ref r, bool write)
{
    if (r.buffer >= 0)
        x->item[x->n++] = (struct access){ 0, x->p->buffers[r.buffer].bytes, r.buffer, write };
}

/* Gradients of parameters stand side by side in one buffer, but for those that are kept apart by sender. */
static void add_gradient(struct accesses *x, const struct instr *in, int arg, bool write)
{
    const struct graph *g = x->p->graph;
    const int param = g->values[g->nodes[in->node].arg[arg]].param;
    const struct place *held = param < 0 ? NULL : &x->p->layout.place[param];
    if (!held || (x->p->plan.reproducible && x->p->plan.expert_parallel > 1 && held->flat == EXPERT))
        add_whole(x, in->grad[arg], write);
    else
        add(x, in->grad[arg],
            (held->end - held->begin) * (int64_t)num_dtype_bytes(x->p->plan.numbers.gradient), write);
}

static void add_call(struct accesses *x, const struct instr *in)
{
    const struct node *n = in->node >= 0 ? &x->p->graph->nodes[in->node] : NULL;
    for (int j = 0; j < OP_ARGS; j++) {
        const bool input = n && j < n->anno->n_inputs;
        add_whole(x, in->arg[j], !n || (!input && (!in->backward || in->both)));
        if (n && j < n->anno->n_args)
            add_gradient(x, in, j, input);
        else
            add_whole(x, in->grad[j], true);
    }
    add_whole(x, in->work, true);
}

static void add_reduce(struct accesses *x, const struct instr *in)
{
    const int64_t each = (int64_t)num_dtype_bytes(x->p->plan.numbers.gradient);
    struct ref from = in->ref[0];
    from.at_bytes += in->first * each;
    add(x, from, in->n_elements * each, true);
    add_whole(x, in->ref[1], true);
    if (in->ref[2].buffer != in->ref[0].buffer)
        add_whole(x, in->ref[2], true);
}

static void add_refs(struct accesses *x, const struct instr *in, unsigned written)
{
    for (int j = 0; j < INSTR_REFS; j++)
        add_whole(x, in->ref[j], written >> j & 1);
}

int access_list(const struct program *p, const struct instr *in, struct access out[ACCESSES])
{
    static const unsigned written[] = {
        [RUN_ROUTE] = 1 << 1 | 1 << 4,    [RUN_ROUND] = 1 << 1,
        [RUN_SEND] = 1 << 1 | 1 << 4,     [RUN_RETURN] = 1 << 0 | 1 << 4,
        [RUN_TENSOR_GATHER] = 1 << 1,     [RUN_TENSOR_SCATTER] = 1 << 1 | 1 << 2,
        [RUN_PARTS] = 1 << 0 | 1 << 1,    [RUN_MIRROR] = 1 << 0,
        [RUN_SUM_ENDS] = 1 << 0 | 1 << 1, [RUN_PASS_OUT] = 1 << 1,
        [RUN_PASS_IN] = 1 << 0 | 1 << 1,  [RUN_NORM_SUM] = 1 << 0 | 1 << 1,
        [RUN_FROM_HOST] = 1 << 0,         [RUN_GATHER] = 1 << 1,
        [RUN_PACK] = 1 << 1 | 1 << 4,     [RUN_UNPACK] = 1 << 1
    };
    struct accesses x = { p, out, 0 };
    if (in->kind == RUN_OP)
        add_call(&x, in);
    else if (in->kind == RUN_ZERO)
        add(&x, in->ref[0], in->n, true);
    else if (in->kind == RUN_REDUCE)
        add_reduce(&x, in);
    else
        add_refs(&x, in, in->kind < sizeof written / sizeof *written ? written[in->kind] : 0);
    return x.n;
}

bool access_conflict(const struct access *a, int n_a, const struct access *b, int n_b)
{
    for (int i = 0; i < n_a; i++)
        for (int j = 0; j < n_b; j++)
            if (a[i].buffer == b[j].buffer && (a[i].write || b[j].write) && a[i].begin < b[j].end &&
                b[j].begin < a[i].end)
                return true;
    return false;
}
