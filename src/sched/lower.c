/* lower.c - graph + plan + rank -> instruction lists of forward and backward. The update list is update.c. */
#include "sched/lower.h"
#include "base/str.h"
#include "sched/lanes.h"
#include "sched/merge.h"
#include "sched/offload.h"
#include <limits.h>
#include <string.h>

const struct ref NOWHERE = { .buffer = -1 };

int lower_buffer(struct lower *l, const char *name, enum memory_class class, int64_t bytes)
{
    struct program *p = l->p;
    p->buffers =
        arena_grow(l->arena, p->buffers, p->n_buffers, &p->buffers_capacity, 512, sizeof *p->buffers);
    p->buffers[p->n_buffers] =
        (struct buffer){ .name = name, .class = class, .bytes = bytes, .first = -1, .last = -1 };
    return p->n_buffers++;
}

int lower_persistent(struct lower *l, const char *name, enum memory_class class, int64_t bytes)
{
    const int b = lower_buffer(l, name, class, bytes);
    l->p->buffers[b].first = 0;
    l->p->buffers[b].last = INT_MAX;
    return b;
}

struct instr *lower_emit(struct lower *l, enum list_kind which, enum instr_kind kind, const char *name)
{
    struct list *list = &l->p->list[which];
    list->item = arena_grow(l->arena, list->item, list->n, &list->capacity, 4 * l->p->graph->n_nodes + 64,
                            sizeof *list->item);
    struct instr *i = &list->item[list->n++];
    *i = (struct instr){ .kind = kind, .name = name, .node = -1, .work = NOWHERE };
    for (int j = 0; j < OP_ARGS; j++)
        i->arg[j] = i->grad[j] = NOWHERE;
    for (int j = 0; j < INSTR_REFS; j++)
        i->ref[j] = NOWHERE;
    return i;
}

bool lower_is_region(const struct lower *l, int node)
{
    return l->split[node].expert >= 0 && l->p->plan.expert_parallel > 1;
}

/* Does `both` run the node, at the place of its backward? */
bool lower_is_merged(const struct lower *l, int node)
{
    return !lower_is_region(l, node) && merge_is(l->p->graph, l->p->plan.numbers.backend, node);
}

int64_t lower_local_rows(const struct lower *l, int node, int64_t rows)
{
    const struct plan *p = &l->p->plan;
    const int64_t own = rows / lower_token_share(l, node);
    if (p->expert_parallel > 1) /* copies are sorted without tiles, and sent */
        return own;
    return (own + l->most_experts * (p->tile - 1)) / p->tile * p->tile;
}

struct ref lower_at(struct ref r, int64_t element, enum dtype t)
{
    r.at_bytes += element * (int64_t)num_dtype_bytes(t);
    return r;
}

static int rows_letter_of(const struct anno *a, int letter)
{
    for (int j = 0; j < a->n_args; j++)
        for (int k = 0; k < a->arg[j].n_dims; k++)
            if (a->arg[j].dim[k].letter == letter && a->arg[j].dim[k].rows_of >= 0)
                return a->arg[j].dim[k].rows_of;
    return -1;
}

/* The letter that counts the senders in "end: e s". */
static bool is_senders_letter(const struct anno *a, int letter, int expert)
{
    for (int j = 0; j < a->n_inputs; j++) {
        const struct anno_arg *f = &a->arg[j];
        if (f->dtype == I32 && !f->model_float && f->n_dims == 2 && f->dim[0].letter == expert &&
            f->dim[1].letter == letter)
            return true;
    }
    return false;
}

static bool attr_is(const struct anno *a, int attr, const char *name)
{
    return attr >= 0 && strcmp(a->attr[attr], name) == 0;
}

static int64_t local_dim(const struct lower *l, int node, int letter)
{
    const struct node *n = &l->p->graph->nodes[node];
    const struct plan *p = &l->p->plan;
    const struct node_split s = l->split[node];
    const int of = rows_letter_of(n->anno, letter);
    if (of >= 0)
        return lower_is_region(l, node) ? p->row_capacity : lower_local_rows(l, node, n->dim[letter]);
    if (letter == s.batch)
        return n->dim[letter] / lower_token_share(l, node);
    if (letter == l->p->layout.tensor.letter[node])
        return n->dim[letter] / p->tensor_parallel;
    if (lower_is_region(l, node) && letter == s.expert)
        return n->dim[letter] / p->expert_parallel;
    if (lower_is_region(l, node) && is_senders_letter(n->anno, letter, s.expert))
        return p->expert_parallel;
    if (attr_is(n->anno, n->anno->letter_attr[letter], "chunk")) {
        const int64_t rows = s.batch >= 0 ? n->dim[s.batch] / lower_token_share(l, node) : n->dim[letter],
                      most = p->head_chunk * (lower_is_tensor(l, node) ? p->tensor_parallel : 1);
        return rows < most ? rows : most; /* of a part of the columns, as many logits */
    }
    return n->dim[letter];
}

/* Where this rank's part of the letter begins that its tensor group splits. */
static double first_of(const struct lower *l, int node, const int64_t *dim)
{
    const int letter = l->p->layout.tensor.letter[node];
    return letter >= 0 ? (double)(l->p->layout.tensor_index * dim[letter]) : 0;
}

static void find_sizes(const struct lower *l, int node, struct sizes *s)
{
    const struct node *n = &l->p->graph->nodes[node];
    const struct plan *p = &l->p->plan;
    for (int i = 0; i < n->anno->n_letters; i++)
        s->dim[i] = local_dim(l, node, i);
    for (int i = 0; i < n->anno->n_attrs; i++) {
        s->attr[i] = n->attr[i];
        if (attr_is(n->anno, i, "tile"))
            s->attr[i] = l->split[node].expert >= 0 || p->expert_parallel == 1 ? (double)p->tile : 1;
        if (attr_is(n->anno, i, "parts"))
            s->attr[i] = l->n_parts;
        if (attr_is(n->anno, i, "first"))
            s->attr[i] = first_of(l, node, s->dim);
    }
    for (int i = 0; i < n->anno->n_letters; i++)
        if (n->anno->letter_attr[i] >= 0)
            s->attr[n->anno->letter_attr[i]] = (double)s->dim[i];
    s->known = true;
}

static const struct sizes *sizes_of(const struct lower *l, int node)
{
    struct sizes *s = &l->sizes[node];
    if (!s->known)
        find_sizes(l, node, s);
    return s;
}

double lower_backward_seconds(const struct lower *l, int node)
{
    static const double flops_per_s[BACKENDS] = { 5e10, 600e12 }, bytes_per_s[BACKENDS] = { 1e10, 3.5e12 };
    const enum backend backend = l->p->plan.numbers.backend;
    const struct sizes *s = sizes_of(l, node);
    double flops[2], bytes[2];
    op_cost(l->p->graph->nodes[node].op, s->dim, s->attr, flops, bytes);
    const double compute = flops[1] / flops_per_s[backend], memory = bytes[1] / bytes_per_s[backend];
    return compute > memory ? compute : memory;
}

static enum dtype value_dtype(const struct lower *l, const struct value_info *v)
{
    return v->model_float ? plan_float(&l->p->plan) : v->dtype;
}

int64_t lower_value_bytes(const struct lower *l, int node, int arg)
{
    const struct node *n = &l->p->graph->nodes[node];
    return anno_elements(n->anno, arg, sizes_of(l, node)->dim) *
           (int64_t)num_dtype_bytes(value_dtype(l, &l->p->graph->values[n->arg[arg]]));
}

/* Bytes of a value on this rank: those of a call, but for values that cross into it. */
static int64_t outer_bytes(const struct lower *l, int node, int arg)
{
    return lower_value_bytes(l, node, arg) / (lower_crosses(l, node, arg) ? l->p->plan.tensor_parallel : 1);
}

/* Which argument of its node a value is. */
static int output_of(const struct lower *l, value v)
{
    const struct node *n = &l->p->graph->nodes[l->p->graph->values[v].node];
    int j = n->anno->n_inputs;
    while (n->arg[j] != v)
        j++;
    return j;
}

int64_t lower_passed_bytes(const struct lower *l, value v)
{
    return outer_bytes(l, l->p->graph->values[v].node, output_of(l, v));
}

/* As backward.c does: not only what is dropped, but all that its node writes. */
static int again_at(const struct lower *l, value v)
{
    const int node = l->p->graph->values[v].node;
    return stash_writes(&l->p->graph->nodes[node], output_of(l, v)) && l->kept[v].buffer < 0
               ? l->stash.place[node]
               : 0;
}

/* Constants (and inputs, by make_inputs()) are made once; their local size follows from the first reader. */
static struct ref fixed_value(struct lower *l, int node, int arg)
{
    const value v = l->p->graph->nodes[node].arg[arg];
    if (l->p->value[v].buffer < 0)
        l->p->value[v] = (struct ref){
            lower_persistent(l, l->p->graph->values[v].name, MEM_BATCH, outer_bytes(l, node, arg)), 0
        };
    return l->p->value[v];
}

/* Where argument `arg` of a node lies; made on first use. inside: the copy of an exchange region. */
struct ref lower_value(struct lower *l, int node, int arg, bool inside)
{
    const struct graph *g = l->p->graph;
    const value v = g->nodes[node].arg[arg];
    const struct value_info *info = &g->values[v];
    if (info->kind == VALUE_PARAM)
        return lower_weight(l, info->param);
    if (info->kind != VALUE_ACT)
        return fixed_value(l, node, arg);
    struct ref *at = inside ? &l->inner[l->round][v] : &l->p->value[v];
    if (at->buffer < 0 && l->in_place[node] && arg == g->nodes[node].anno->n_inputs)
        return *at = lower_value(l, node, 0, inside);
    if (at->buffer < 0) {
        const enum memory_class class = inside ? MEM_EXCHANGE : MEM_ACTIVATIONS;
        *at = (struct ref){ lower_buffer(l, info->name, class, outer_bytes(l, node, arg)), 0 };
        l->p->buffers[at->buffer].again_at = inside ? 0 : again_at(l, v);
    }
    return *at;
}

struct ref lower_grad(struct lower *l, int node, int arg, bool inside)
{
    const struct graph *g = l->p->graph;
    const value v = g->nodes[node].arg[arg];
    const struct value_info *info = &g->values[v];
    if (info->kind == VALUE_PARAM)
        return lower_gradient(l, node, info->param);
    struct ref *at = inside ? &l->inner_grad[l->round][v] : &l->p->grad[v];
    if (at->buffer < 0)
        *at = (struct ref){
            lower_buffer(l, info->name, inside ? MEM_EXCHANGE : MEM_ACTIVATIONS, outer_bytes(l, node, arg)), 0
        };
    return *at;
}

/* Inside a region, the segment ends are those of the round. */
struct ref lower_region_arg(struct lower *l, int node, int arg)
{
    const struct node *n = &l->p->graph->nodes[node];
    const struct anno_arg *f = &n->anno->arg[arg];
    const bool is_end = arg < n->anno->n_inputs && !f->model_float && f->dtype == I32 && f->n_dims == 2;
    return is_end ? l->round_end[l->round] : lower_value(l, node, arg, true);
}

void lower_work(struct lower *l, struct instr *i)
{
    size_t bytes[2] = { 0, 0 };
    struct call c = { 0 };
    memcpy(c.dim, i->dim, sizeof c.dim);
    memcpy(c.attr, i->attr, sizeof c.attr);
    const enum backend backend = l->p->plan.numbers.backend;
    if (i->op->work[backend])
        i->op->work[backend](&c, bytes);
    if (i->both && bytes[0] > bytes[1])
        bytes[1] = bytes[0];
    if (bytes[i->backward])
        i->work = (struct ref){ lower_buffer(l, i->name, MEM_WORK, (int64_t)bytes[i->backward]), 0 };
}

struct instr *lower_emit_op(struct lower *l, enum list_kind which, int node, bool backward)
{
    const struct node *n = &l->p->graph->nodes[node];
    struct instr *i = lower_emit(l, which, RUN_OP, n->name);
    i->op = n->op;
    i->node = node;
    i->backward = backward;
    i->both = backward && lower_is_merged(l, node);
    const struct sizes *s = sizes_of(l, node);
    memcpy(i->dim, s->dim, sizeof i->dim);
    memcpy(i->attr, s->attr, sizeof i->attr);
    lower_work(l, i);
    return i;
}

/* Where argument j of forward lies, after it has come in. */
static struct ref forward_arg(struct lower *l, enum list_kind which, int node, int j, bool inside)
{
    if (inside)
        return lower_region_arg(l, node, j);
    if (!lower_crosses(l, node, j))
        return lower_value(l, node, j, false);
    return j < l->p->graph->nodes[node].anno->n_inputs
               ? lower_enter(l, which, node, j, lower_value(l, node, j, false))
               : lower_inside(l, node, j);
}

struct instr *lower_run_forward(struct lower *l, enum list_kind which, int node, bool inside, uint32_t used)
{
    const struct anno *a = l->p->graph->nodes[node].anno;
    struct ref arg[OP_ARGS];
    for (int j = 0; j < a->n_args; j++)
        arg[j] = used >> j & 1 ? forward_arg(l, which, node, j, inside) : NOWHERE;
    lower_emit_op(l, which, node, false);
    const int at = l->p->list[which].n - 1;
    memcpy(l->p->list[which].item[at].arg, arg, (size_t)a->n_args * sizeof *arg);
    for (int j = a->n_inputs; j < a->n_args && !inside; j++)
        if ((used >> j & 1) && lower_crosses(l, node, j))
            lower_leave(l, which, node, j, arg[j], lower_value(l, node, j, false), false);
    return &l->p->list[which].item[at];
}

void lower_forward_op(struct lower *l, enum list_kind which, int node, bool inside)
{
    if (which == LIST_MICRO)
        offload_enter(l, node);
    lower_run_forward(l, which, node, inside, UINT32_MAX);
}

static void fetch_ahead(struct lower *l, enum list_kind which, int node, int last)
{
    lower_fetch(l, node, false);
    for (int next = node + 1; next < last; next++)
        if (!(which == LIST_MICRO && lower_is_merged(l, next)) && !lower_fetch_next(l, next, false))
            return;
}

void lower_forward(struct lower *l, enum list_kind which, int first, int last)
{
    for (int node = first; node < last; node++) {
        if (which == LIST_MICRO && lower_is_merged(l, node))
            continue;
        fetch_ahead(l, which, node, last);
        if (!lower_is_region(l, node)) {
            lower_forward_op(l, which, node, false);
            continue;
        }
        const struct region r = lower_region_at(l, node);
        const int behind = lower_beside_forward(l, which, &r, last);
        lower_region_forward(l, which, &r, (struct section){ r.last, behind });
        node = behind - 1;
    }
}

static void begin_eval(struct lower *l)
{
    const struct graph *g = l->p->graph;
    for (int v = 0; v < g->n_values; v++)
        if (g->values[v].kind == VALUE_ACT)
            l->p->value[v] = NOWHERE;
}

static void use_kept(struct lower *l)
{
    for (int v = 0; v < l->p->graph->n_values; v++)
        if (l->kept[v].buffer >= 0)
            l->p->value[v] = l->kept[v];
}

static struct ref *no_refs(struct arena *a, int n)
{
    struct ref *r = ARENA_NEW(a, struct ref, n);
    for (int i = 0; i < n; i++)
        r[i] = NOWHERE;
    return r;
}

/* What all lists share. */
static struct lower begin(struct arena *a, const struct graph *g, const struct plan *plan,
                          const struct layout *layout, struct program *p)
{
    *p = (struct program){ .graph = g,
                           .plan = *plan,
                           .layout = *layout,
                           .value = no_refs(a, g->n_values),
                           .grad = no_refs(a, g->n_values) };
    struct lower l = { .arena = a,
                       .p = p,
                       .split = ARENA_NEW(a, struct node_split, g->n_nodes),
                       .inner = { no_refs(a, g->n_values), no_refs(a, g->n_values) },
                       .left = { no_refs(a, g->n_values), no_refs(a, g->n_values) },
                       .inner_grad = { no_refs(a, g->n_values), no_refs(a, g->n_values) },
                       .kept = no_refs(a, g->n_values),
                       .parts = no_refs(a, g->params.n),
                       .in_place = ARENA_NEW(a, bool, g->n_nodes),
                       .back_of = ARENA_NEW(a, int, g->n_nodes),
                       .sizes = ARENA_NEW(a, struct sizes, g->n_nodes),
                       .present = ARENA_NEW(a, bool, g->n_values),
                       .node_counts = no_refs(a, g->n_nodes),
                       .node_twins = no_refs(a, g->n_nodes),
                       .node_twins_inside = no_refs(a, g->n_nodes),
                       .box = { ARENA_NEW(a, struct pass_box, 2 * g->n_values),
                                ARENA_NEW(a, struct pass_box, 2 * g->n_values) },
                       .n_parts = plan->reproducible ? plan->expert_parallel : 1 };
    layout_split(a, g, l.split);
    for (int i = 0; i < g->n_nodes; i++)
        l.back_of[i] = -1;
    for (int i = 0; i < g->n_backs; i++)
        l.back_of[g->backs[i].node] = i;
    for (int i = 0; i < g->n_nodes; i++)
        if (l.split[i].expert >= 0 && g->nodes[i].dim[l.split[i].expert] > l.most_experts)
            l.most_experts = g->nodes[i].dim[l.split[i].expert];
    return l;
}

int64_t sched_least_bytes(struct arena *a, const struct graph *g, const struct plan *plan,
                          const struct layout *layout)
{
    struct program p;
    struct lower l = begin(a, g, plan, layout, &p);
    int64_t bytes = 0;
    lower_make_persistent(&l, true);
    for (int i = 0; i < p.n_buffers; i++)
        bytes += p.buffers[i].bytes;
    return bytes;
}

static const int64_t *value_bytes(const struct lower *l)
{
    const struct graph *g = l->p->graph;
    int64_t *bytes = ARENA_NEW(l->arena, int64_t, g->n_values);
    for (value v = 0; v < g->n_values; v++)
        bytes[v] = g->values[v].kind == VALUE_ACT ? lower_passed_bytes(l, v) : 0;
    return bytes;
}

void sched_lower_lists(struct arena *a, const struct graph *g, const struct plan *plan,
                       const struct layout *layout, bool training, const struct adamw *o, struct program *p)
{
    struct lower l = begin(a, g, plan, layout, p);
    in_place_make(g, plan, l.split, l.in_place);
    stash_make(a, g, plan, l.split, l.in_place, value_bytes(&l), &l.stash);
    p->recompute_most = l.stash.n_nodes;
    p->recompute_place = l.stash.place;
    lower_shards_begin(&l);
    lower_make_persistent(&l, training);
    for (int i = 0; i < p->n_buffers; i++)
        p->kept_bytes += p->buffers[i].bytes;
    use_kept(&l);
    if (training) {
        offload_choose(&l);
        lower_micro(&l);
        lower_update(&l, o);
        begin_eval(&l);
        use_kept(&l);
    }
    l.which = LIST_EVAL;
    lower_eval(&l);
    lanes_make(p, a);
    sched_lifetimes(p, a);
}

void sched_lower(struct arena *a, const struct graph *g, const struct plan *plan, int rank, bool training,
                 const struct adamw *o, struct program *p)
{
    struct layout layout;
    layout_make(a, g, plan, rank, &layout);
    sched_lower_lists(a, g, plan, &layout, training, o, p);
    sched_assign(p, a);
}
