/* exchange.c - regions whose rows are split by expert: the rows of tokens are sent to the ranks that hold their
 * experts, computed there and returned, in as many rounds as the counts need. plan_at_once() of them are under way
 * together: rows of the second travel while experts work on the first, and back from the first while on the second. */
#include "sched/lower.h"

bool lower_in_region(const struct region *r, int node)
{
    return node >= r->first && node < r->last;
}

static bool has_rows(const struct node *n, int arg)
{
    return n->anno->arg[arg].n_dims && n->anno->arg[arg].dim[0].rows_of >= 0;
}

static bool used_outside(const struct graph *g, const struct region *r, value v)
{
    for (int i = r->last; i < g->n_nodes; i++)
        for (int j = 0; j < g->nodes[i].anno->n_inputs; j++)
            if (g->nodes[i].arg[j] == v)
                return true;
    return false;
}

/* Calls f for every argument through which rows enter (entering) or leave the region. */
typedef void region_edge(struct lower *l, enum list_kind which, int node, int arg);
static void for_edges(struct lower *l, enum list_kind which, const struct region *r, bool entering,
                      region_edge *f)
{
    const struct graph *g = l->p->graph;
    for (int i = r->first; i < r->last; i++) {
        const struct node *n = &g->nodes[i];
        for (int j = 0; j < n->anno->n_args; j++) {
            const bool input = j < n->anno->n_inputs;
            if (has_rows(n, j) && input == entering &&
                (input ? !lower_in_region(r, g->values[n->arg[j]].node) : used_outside(g, r, n->arg[j])))
                f(l, which, i, j);
        }
    }
}

/* Rows that backward of a region reads: those of `to` are those of `from`, by round under way and value. */
static void share_saved(const struct lower *l, const struct region *r, struct ref *const *from,
                        struct ref *const *to)
{
    for (int i = r->first; i < r->last; i++) {
        const struct node *n = &l->p->graph->nodes[i];
        for (int j = 0; j < n->anno->n_args; j++)
            for (int k = 0; k < 2 && (n->anno->saved >> j & 1); k++)
                to[k][n->arg[j]] = from[k][n->arg[j]];
    }
}

/* What backward would find if it did not get the rows again. Of a value that several nodes read, one counts. */
static void count_saved(const struct lower *l, const struct region *r)
{
    int last = -1;
    for (int i = r->first; i < r->last; i++) {
        const struct node *n = &l->p->graph->nodes[i];
        for (int j = 0; j < n->anno->n_args; j++)
            for (int k = 0; k < 2 && (n->anno->saved >> j & 1); k++) {
                const int buffer = l->inner[k][n->arg[j]].buffer;
                l->p->kept_bytes += buffer > last ? l->p->buffers[buffer].bytes : 0;
                last = buffer > last ? buffer : last;
            }
    }
}

static int copies_of(const struct node *copier)
{
    return (int)copier->dim[copier->op->copies.each];
}

/* One more instruction, with all of what instruction `index` has. */
static void emit_like(struct lower *l, enum list_kind which, enum instr_kind kind, int index)
{
    struct instr *i = lower_emit(l, which, kind, NULL);
    *i = l->p->list[which].item[index];
    i->kind = kind;
}

/* In front of the last instruction. */
static void put_before(struct lower *l, enum list_kind which, enum instr_kind kind)
{
    const int last = l->p->list[which].n - 1;
    const enum instr_kind was = l->p->list[which].item[last].kind;
    emit_like(l, which, was, last);
    l->p->list[which].item[last].kind = kind;
}

/* copier: makes the rows as copies, which travel once; NULL: all rows travel. With a lane of communication what kernels do with
 * rows on their way has instructions of its own, in that of compute: beside products they would wait for room on the device. */
static void exchange(struct lower *l, enum list_kind which, enum instr_kind kind, int node, struct ref outer,
                     struct ref inner, const struct node *copier)
{
    const struct plan *p = &l->p->plan;
    struct instr *i = lower_emit(l, which, kind, l->p->graph->nodes[node].name);
    i->node = node;
    i->ref[0] = outer;
    i->ref[1] = inner;
    i->ref[2] = l->round_end[l->round];
    i->round = l->round;
    i->ref[3] = l->counts;
    i->row_bytes = l->p->buffers[inner.buffer].bytes / p->row_capacity;
    i->ref[4] =
        (struct ref){ lower_buffer(l, "exchange staging", MEM_EXCHANGE, l->p->buffers[inner.buffer].bytes),
                      0 };
    if (copier) {
        i->copies = copies_of(copier);
        i->ref[5] = l->twins_inside;
        i->ref[6] = l->twins;
    }
    if (p->overlap && (copier || kind == RUN_RETURN))
        put_before(l, which, RUN_PACK);
}

static struct ref outer_ref(struct lower *l, int node, int arg, bool grad)
{
    const value v = l->p->graph->nodes[node].arg[arg];
    struct ref *at = grad ? &l->p->grad[v] : &l->p->value[v];
    if (at->buffer < 0) { /* leaves the region: its outer size is the rows of this rank */
        const struct value_info *info = &l->p->graph->values[v];
        const int64_t row =
            graph_elements(info) / info->shape[0] *
            (int64_t)num_dtype_bytes(info->model_float ? plan_float(&l->p->plan) : info->dtype);
        *at = (struct ref){
            lower_buffer(l, info->name, MEM_ACTIVATIONS, lower_local_rows(l, node, info->shape[0]) * row), 0
        };
    }
    return *at;
}

/* The node that makes v as copies of rows; NULL: none does. */
static const struct node *copier_of(const struct graph *g, value v)
{
    const struct node *n = g->values[v].node < 0 ? NULL : &g->nodes[g->values[v].node];
    return n && n->op->copies.each && n->arg[n->op->copies.of] == v ? n : NULL;
}

static struct ref integers(struct lower *l, const char *name, int64_t n)
{
    return (struct ref){ lower_buffer(l, name, MEM_ACTIVATIONS, n * (int64_t)sizeof(int32_t)), 0 };
}

/* What the receiver has to know of the rows that travel once: which of its rows are the same. Backward still has it: a
 * message that all wait for costs more than the place. */
static void send_twins(struct lower *l, enum list_kind which, const struct region *r, int node)
{
    l->twins_inside = l->node_twins_inside[r->first] = integers(l, "twins received", l->p->plan.row_capacity);
    exchange(l, which, RUN_SEND, node, l->twins, l->twins_inside, NULL);
    l->p->list[which].item[l->p->list[which].n - 1].twins = true;
}

/* To the experts what was sent in this round, by instructions `from` and behind. */
static void unpack(struct lower *l, enum list_kind which, int from)
{
    if (!l->p->plan.overlap)
        return;
    for (int i = from, n = l->p->list[which].n; i < n; i++)
        if (l->p->list[which].item[i].kind == RUN_SEND && l->p->list[which].item[i].round == l->round)
            emit_like(l, which, RUN_UNPACK, i);
}

static void send_value(struct lower *l, enum list_kind which, int node, int arg)
{
    const struct graph *g = l->p->graph;
    const struct node *copier = l->twins.buffer < 0 ? NULL : copier_of(g, g->nodes[node].arg[arg]);
    if (copier && l->twins_inside.buffer < 0) {
        const struct region r = lower_region_at(l, node);
        send_twins(l, which, &r, node);
    }
    exchange(l, which, RUN_SEND, node, outer_ref(l, node, arg, false), lower_value(l, node, arg, true),
             copier);
}

static void return_value(struct lower *l, enum list_kind which, int node, int arg)
{
    exchange(l, which, RUN_RETURN, node, outer_ref(l, node, arg, false), lower_value(l, node, arg, true),
             NULL);
}

static void return_grad(struct lower *l, enum list_kind which, int node, int arg)
{
    exchange(l, which, RUN_RETURN, node, outer_ref(l, node, arg, true), lower_grad(l, node, arg, true), NULL);
}

struct region lower_region_at(const struct lower *l, int node)
{
    struct region r = { node, node };
    while (r.first > 0 && lower_is_region(l, r.first - 1))
        r.first--;
    while (r.last < l->p->graph->n_nodes && lower_is_region(l, r.last))
        r.last++;
    return r;
}

/* The value "end" that the first node of the region reads: segment ends of this rank's sorted rows. */
static struct ref local_ends(struct lower *l, const struct region *r)
{
    const struct node *n = &l->p->graph->nodes[r->first];
    for (int j = 0; j < n->anno->n_inputs; j++)
        if (n->anno->arg[j].dtype == I32 && !n->anno->arg[j].model_float && n->anno->arg[j].n_dims == 2)
            return l->p->value[n->arg[j]];
    die("%s has rows but no segment ends", n->name);
}

/* The node that copies the rows which the region gets; NULL: none, or they travel as they are. */
static const struct node *copier_for(const struct lower *l, const struct region *r)
{
    const struct graph *g = l->p->graph;
    for (int i = r->first; i < r->last && plan_sends_once(&l->p->plan); i++)
        for (int j = 0; j < g->nodes[i].anno->n_inputs; j++) {
            const struct node *n = copier_of(g, g->nodes[i].arg[j]);
            if (n && copies_of(n) > 1)
                return n;
        }
    return NULL;
}

/* The node that copies the rows which the region gets, if the gradient of v, which leaves the region, is such copies too; else
 * NULL. */
static const struct node *grad_copier_of(const struct lower *l, const struct region *r, value v)
{
    const struct graph *g = l->p->graph;
    const struct node *copier = copier_for(l, r);
    int n_readers = 0;
    bool like = copier != NULL;
    for (int i = r->last; i < g->n_nodes && like; i++)
        for (int j = 0; j < g->nodes[i].anno->n_inputs; j++)
            if (g->nodes[i].arg[j] == v) {
                const struct node *n = &g->nodes[i];
                const struct op_copies *of = &n->op->grad_copies, *to = &copier->op->copies;
                like = n_readers++ == 0 && of->each && of->of == j &&
                       n->arg[of->row] == copier->arg[to->row] && n->arg[of->place] == copier->arg[to->place];
            }
    return like && n_readers == 1 ? copier : NULL;
}

static void send_grad(struct lower *l, enum list_kind which, int node, int arg)
{
    const struct region r = lower_region_at(l, node);
    exchange(l, which, RUN_SEND, node, outer_ref(l, node, arg, true), lower_grad(l, node, arg, true),
             grad_copier_of(l, &r, l->p->graph->nodes[node].arg[arg]));
}

static int at_once(const struct lower *l)
{
    return plan_at_once(&l->p->plan);
}

static void forget_inner(struct lower *l)
{
    for (int v = 0; v < l->p->graph->n_values; v++)
        for (int k = 0; k < 2; k++)
            l->inner[k][v] = l->inner_grad[k][v] = NOWHERE;
}

static void begin_rounds(struct lower *l, enum list_kind which, const struct region *r)
{
    const struct node *n = &l->p->graph->nodes[r->first];
    const int64_t ends = n->dim[l->split[r->first].expert]; /* E/ep experts x ep senders */
    forget_inner(l);
    const int64_t bytes = ROUND_TABLES * ends * (int64_t)sizeof(int32_t);
    const int all = lower_buffer(l, "round ends", MEM_EXCHANGE, at_once(l) * bytes);
    for (int k = 0; k < at_once(l); k++)
        l->round_end[k] = (struct ref){ all, k * bytes };
    struct instr *i = lower_emit(l, which, RUN_ROUND, n->name);
    i->ref[0] = l->counts;
    i->ref[1] = l->round_end[0];
    i->node = r->first;
    i->n = ends;
    i->copies = l->twins.buffer < 0 ? 0 : copies_of(copier_for(l, r));
}

/* What was emitted from instruction `from` on runs in the first round alone. It stands behind the sends: kernels that pack them
 * come first, and rows travel while it runs. */
static void mark_once(struct lower *l, enum list_kind which, int from)
{
    for (int i = from; i < l->p->list[which].n; i++)
        l->p->list[which].item[i].once = true;
}

static void forward_beside(struct lower *l, enum list_kind which, int first, int last)
{
    const int from = l->p->list[which].n;
    for (int node = first; node < last; node++)
        lower_forward_op(l, which, node, false);
    mark_once(l, which, from);
}

static void backward_beside(struct lower *l, int first, int last)
{
    const int from = l->p->list[LIST_MICRO].n;
    for (int i = first; i < last; i++)
        lower_backward_op(l, &l->p->graph->backs[i], false);
    mark_once(l, LIST_MICRO, from);
}

static int half_of(struct section s)
{
    return s.from + (s.to - s.from + 1) / 2;
}

static void route(struct lower *l, enum list_kind which, const struct region *r)
{
    const struct node *n = &l->p->graph->nodes[r->first], *copier = copier_for(l, r);
    const int64_t experts = n->dim[l->split[r->first].expert];
    const int members = l->p->plan.expert_parallel;
    const struct op_copies *c = copier ? &copier->op->copies : NULL;
    const struct ref row = copier ? l->p->value[copier->arg[c->row]] : NOWHERE;
    l->counts = l->node_counts[r->first] =
        integers(l, "expert counts", members * route_counts(experts, members));
    l->twins = l->node_twins[r->first] =
        copier ? integers(l, "twins", l->p->buffers[row.buffer].bytes / (int64_t)sizeof(int32_t)) : NOWHERE;
    l->twins_inside = NOWHERE;
    struct instr *i = lower_emit(l, which, RUN_ROUTE, n->name);
    i->ref[0] = local_ends(l, r);
    i->ref[1] = l->counts;
    i->ref[2] = row;
    i->ref[3] = copier ? l->p->value[copier->arg[c->place]] : NOWHERE;
    i->ref[4] = l->twins;
    i->n = experts;
    i->copies = copier ? copies_of(copier) : 0;
}

void lower_region_forward(struct lower *l, enum list_kind which, const struct region *r,
                          struct section beside)
{
    for (int node = r->first; node < beside.to; node++) /* once, not in every round */
        lower_touch_params(l, node, false);
    route(l, which, r);
    begin_rounds(l, which, r);
    const int from = l->p->list[which].n;
    for (l->round = 0; l->round < at_once(l); l->round++)
        for_edges(l, which, r, true, send_value);
    l->round = 0;
    forward_beside(l, which, beside.from, half_of(beside));
    for (; l->round < at_once(l); l->round++) {
        unpack(l, which, from);
        for (int node = r->first; node < r->last; node++)
            lower_forward_op(l, which, node, true);
        for_edges(l, which, r, false, return_value);
    }
    l->round = 0;
    forward_beside(l, which, half_of(beside), beside.to);
    if (which == LIST_MICRO)
        count_saved(l, r);
    if (l->p->plan.keep_rows && which == LIST_MICRO)
        share_saved(l, r, l->inner, l->left); /* until a further turn of the loop writes over them */
    lower_emit(l, which, RUN_ROUND_END, l->p->graph->nodes[r->first].name);
}

/* What was emitted from instruction `from` on makes what forward has left with plan.keep_rows. */
static void mark_anew(struct lower *l, int from)
{
    for (int i = from; i < l->p->list[LIST_MICRO].n; i++)
        l->p->list[LIST_MICRO].item[i].anew = true;
}

/* Nodes of the region whose outputs its backward steps read: they run again. */
static void mark_recompute(const struct lower *l, const struct region *r, bool *again)
{
    const struct graph *g = l->p->graph;
    for (int i = r->last - 1; i >= r->first; i--) {
        const struct node *n = &g->nodes[i];
        for (int j = n->anno->n_inputs; j < n->anno->n_args; j++) {
            again[i] |= n->anno->saved >> j & 1;
            for (int k = i + 1; k < r->last; k++)
                for (int m = 0; m < g->nodes[k].anno->n_inputs; m++)
                    if (g->nodes[k].arg[m] == n->arg[j] && ((g->nodes[k].anno->saved >> m & 1) || again[k])) {
                        CHECK(!n->op->saved_again[CPU] || (n->anno->saved >> j & 1), "%s is not made again",
                              n->anno->arg[j].name);
                        again[i] = true;
                    }
        }
    }
}

static void round_backward(struct lower *l, const struct region *r, const bool *again)
{
    const struct graph *g = l->p->graph;
    const int from = l->p->list[LIST_MICRO].n;
    for (int node = r->first; node < r->last; node++)
        if (again[node])
            lower_again_op(l, node, true);
    mark_anew(l, from);
    for (int i = 0; i < g->n_backs; i++)
        if (lower_in_region(r, g->backs[i].node))
            lower_backward_op(l, &g->backs[i], true);
}

/* Rows are sent again instead of being kept for all rounds, so the buffers stay bounded; with plan.keep_rows those of one round
 * are where they were. */
void lower_region_backward(struct lower *l, const struct region *r, struct section beside)
{
    const struct graph *g = l->p->graph;
    bool *again = ARENA_NEW(l->arena, bool, g->n_nodes);
    mark_recompute(l, r, again);
    l->counts = l->node_counts[r->first];
    l->twins = l->node_twins[r->first];
    l->twins_inside = l->node_twins_inside[r->first];
    for (int node = r->first; node < r->last; node++) { /* once, not in every round */
        for (int j = 0; j < g->nodes[node].anno->n_inputs; j++)
            if (!lower_in_region(r, g->values[g->nodes[node].arg[j]].node))
                lower_want_again(l, g->nodes[node].arg[j]);
        lower_touch_params(l, node, true);
    }
    for (int i = beside.from; i < beside.to; i++)
        lower_touch_params(l, g->backs[i].node, true);
    const int head = l->p->list[LIST_MICRO].n;
    begin_rounds(l, LIST_MICRO, r);
    mark_anew(l, head);
    if (l->p->plan.keep_rows)
        share_saved(l, r, l->left, l->inner);
    const int sends = l->p->list[LIST_MICRO].n;
    for (l->round = 0; l->round < at_once(l); l->round++) {
        const int from = l->p->list[LIST_MICRO].n;
        for_edges(l, LIST_MICRO, r, true, send_value);
        mark_anew(l, from);
        for_edges(l, LIST_MICRO, r, false, send_grad);
    }
    l->round = 0;
    backward_beside(l, beside.from, half_of(beside));
    for (; l->round < at_once(l); l->round++) {
        unpack(l, LIST_MICRO, sends);
        round_backward(l, r, again);
        for_edges(l, LIST_MICRO, r, true, return_grad);
    }
    l->round = 0;
    backward_beside(l, half_of(beside), beside.to);
    lower_emit(l, LIST_MICRO, RUN_ROUND_END, g->nodes[r->first].name);
}
