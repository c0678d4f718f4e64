/* lower.c - graph + plan + rank -> instruction lists of forward and backward. The update list is update.c. */
#include "sched/lower.h"
#include "base/str.h"
#include <limits.h>
#include <string.h>

const struct ref NOWHERE = { .buffer = -1 };

int lower_buffer(struct lower *l, const char *name, enum memory_class class, int64_t bytes)
{
    struct program *p = l->p;
    if (p->n_buffers == p->buffers_capacity) {
        const int capacity = p->buffers_capacity ? 2 * p->buffers_capacity : 512;
        struct buffer *more = ARENA_NEW(l->arena, struct buffer, capacity);
        if (p->n_buffers)
            memcpy(more, p->buffers, (size_t)p->n_buffers * sizeof *more);
        p->buffers = more;
        p->buffers_capacity = capacity;
    }
    p->buffers[p->n_buffers] = (struct buffer){ name, class, bytes, 0, -1, -1 };
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
    if (list->n == list->capacity) {
        const int capacity = list->capacity ? 2 * list->capacity : 256;
        struct instr *more = ARENA_NEW(l->arena, struct instr, capacity);
        if (list->n)
            memcpy(more, list->item, (size_t)list->n * sizeof *more);
        list->item = more;
        list->capacity = capacity;
    }
    struct instr *i = &list->item[list->n++];
    *i = (struct instr){ .kind = kind, .name = name, .node = -1, .work = NOWHERE };
    for (int j = 0; j < OP_ARGS; j++)
        i->arg[j] = i->grad[j] = NOWHERE;
    for (int j = 0; j < 5; j++)
        i->ref[j] = NOWHERE;
    return i;
}

bool lower_is_region(const struct lower *l, int node)
{
    return l->split[node].expert >= 0 && l->p->plan.expert_parallel > 1;
}

/* Rows of the token copies of this rank, with the padding that whole tiles need. */
int64_t lower_local_rows(const struct lower *l, int64_t rows)
{
    const struct plan *p = &l->p->plan;
    if (p->expert_parallel > 1) /* copies are sorted without tiles, and sent */
        return rows / p->n_ranks;
    return (rows / p->n_ranks + l->most_experts * (p->tile - 1)) / p->tile * p->tile;
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
        return lower_is_region(l, node) ? p->row_capacity : lower_local_rows(l, n->dim[letter]);
    if (letter == s.batch)
        return n->dim[letter] / p->n_ranks;
    if (lower_is_region(l, node) && letter == s.expert)
        return n->dim[letter] / p->expert_parallel;
    if (lower_is_region(l, node) && is_senders_letter(n->anno, letter, s.expert))
        return p->expert_parallel;
    if (attr_is(n->anno, n->anno->letter_attr[letter], "chunk")) {
        const int64_t rows = s.batch >= 0 ? n->dim[s.batch] / p->n_ranks : n->dim[letter];
        return rows < p->head_chunk ? rows : p->head_chunk;
    }
    return n->dim[letter];
}

static void local_sizes(const struct lower *l, int node, int64_t *dim, double *attr)
{
    const struct node *n = &l->p->graph->nodes[node];
    const struct plan *p = &l->p->plan;
    for (int i = 0; i < n->anno->n_letters; i++)
        dim[i] = local_dim(l, node, i);
    for (int i = 0; i < n->anno->n_attrs; i++) {
        attr[i] = n->attr[i];
        if (attr_is(n->anno, i, "tile"))
            attr[i] = l->split[node].expert >= 0 || p->expert_parallel == 1 ? (double)p->tile : 1;
        if (attr_is(n->anno, i, "parts"))
            attr[i] = l->n_parts;
    }
    for (int i = 0; i < n->anno->n_letters; i++)
        if (n->anno->letter_attr[i] >= 0)
            attr[n->anno->letter_attr[i]] = (double)dim[i];
}

static enum dtype value_dtype(const struct lower *l, const struct value_info *v)
{
    return v->model_float ? plan_float(&l->p->plan) : v->dtype;
}

static int64_t value_bytes(const struct lower *l, int node, int arg)
{
    int64_t dim[OP_DIMS];
    double attr[OP_ATTRS];
    const struct node *n = &l->p->graph->nodes[node];
    local_sizes(l, node, dim, attr);
    return anno_elements(n->anno, arg, dim) *
           (int64_t)num_dtype_bytes(value_dtype(l, &l->p->graph->values[n->arg[arg]]));
}

static struct ref param_ref(const struct lower *l, const struct ref *flats, int param, enum dtype t)
{
    const struct place *at = &l->p->layout.place[param];
    return lower_at(flats[at->flat], at->at, t);
}

/* Inputs and constants are made once; their local size follows from the first reader. */
static struct ref fixed_value(struct lower *l, int node, int arg)
{
    const value v = l->p->graph->nodes[node].arg[arg];
    if (l->p->value[v].buffer < 0)
        l->p->value[v] = (struct ref){
            lower_persistent(l, l->p->graph->values[v].name, MEM_BATCH, value_bytes(l, node, arg)), 0
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
        return param_ref(l, l->p->weights, info->param, plan_float(&l->p->plan));
    if (info->kind != VALUE_ACT)
        return fixed_value(l, node, arg);
    struct ref *at = inside ? &l->inner[v] : &l->p->value[v];
    if (at->buffer < 0)
        *at = (struct ref){
            lower_buffer(l, info->name, inside ? MEM_EXCHANGE : MEM_ACTIVATIONS, value_bytes(l, node, arg)), 0
        };
    return *at;
}

struct ref lower_grad(struct lower *l, int node, int arg, bool inside)
{
    const struct graph *g = l->p->graph;
    const value v = g->nodes[node].arg[arg];
    const struct value_info *info = &g->values[v];
    if (info->kind == VALUE_PARAM) {
        const bool in_parts = l->n_parts > 1 && l->p->layout.place[info->param].flat == EXPERT;
        return in_parts ? l->parts[info->param]
                        : param_ref(l, l->p->gradients, info->param, l->p->plan.numbers.gradient);
    }
    struct ref *at = inside ? &l->inner_grad[v] : &l->p->grad[v];
    if (at->buffer < 0)
        *at = (struct ref){
            lower_buffer(l, info->name, inside ? MEM_EXCHANGE : MEM_ACTIVATIONS, value_bytes(l, node, arg)), 0
        };
    return *at;
}

/* Inside a region, the segment ends are those of the round. */
static struct ref region_arg(struct lower *l, int node, int arg)
{
    const struct node *n = &l->p->graph->nodes[node];
    const struct anno_arg *f = &n->anno->arg[arg];
    const bool is_end = arg < n->anno->n_inputs && !f->model_float && f->dtype == I32 && f->n_dims == 2;
    return is_end ? l->round_end : lower_value(l, node, arg, true);
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
    if (bytes[i->backward])
        i->work = (struct ref){ lower_buffer(l, i->name, MEM_WORK, (int64_t)bytes[i->backward]), 0 };
}

static struct instr *emit_op(struct lower *l, enum list_kind which, int node, bool backward)
{
    const struct node *n = &l->p->graph->nodes[node];
    struct instr *i = lower_emit(l, which, RUN_OP, n->name);
    i->op = n->op;
    i->node = node;
    i->backward = backward;
    local_sizes(l, node, i->dim, i->attr);
    lower_work(l, i);
    return i;
}

void lower_forward_op(struct lower *l, enum list_kind which, int node, bool inside)
{
    struct instr *i = emit_op(l, which, node, false);
    for (int j = 0; j < l->p->graph->nodes[node].anno->n_args; j++)
        i->arg[j] = inside ? region_arg(l, node, j) : lower_value(l, node, j, false);
}

static void compute_again(struct lower *l, int node);

/* A dropped value gets a new place, in which backward finds it. */
void lower_want_again(struct lower *l, value v)
{
    if (!l->stash.dropped[v] || l->present[v])
        return;
    l->present[v] = true;
    l->p->value[v] = NOWHERE;
    compute_again(l, l->p->graph->values[v].node);
}

/* Forward of a node once more, or its kernel `again` where it has one. */
static void compute_again(struct lower *l, int node)
{
    const struct node *n = &l->p->graph->nodes[node];
    const bool again = n->op->again[l->p->plan.numbers.backend] != NULL;
    for (int j = 0; j < n->anno->n_args; j++)
        if (again ? (n->anno->saved >> j & 1) : j < n->anno->n_inputs)
            lower_want_again(l, n->arg[j]);
    lower_forward_op(l, LIST_MICRO, node, false);
    struct list *list = &l->p->list[LIST_MICRO];
    struct instr *i = &list->item[list->n - 1];
    i->again = again;
    for (int j = 0; again && j < n->anno->n_inputs; j++)
        if (!(n->anno->saved >> j & 1))
            i->arg[j] = NOWHERE;
    for (int j = n->anno->n_inputs; j < n->anno->n_args; j++)
        l->present[n->arg[j]] = true;
}

/* Index of the backward step that reads the gradient of v: that of its producer. */
static int reader_of(const struct graph *g, value v)
{
    for (int i = 0; i < g->n_backs; i++)
        if (g->backs[i].node == g->values[v].node)
            return i;
    return -1;
}

/* First backward step after `step` that adds to the gradient of v. */
static int writer_after(const struct graph *g, int step, value v)
{
    for (int i = step + 1; i < g->n_backs; i++)
        for (int j = 0; j < g->nodes[g->backs[i].node].anno->n_inputs; j++)
            if ((g->backs[i].want >> j & 1) && g->nodes[g->backs[i].node].arg[j] == v)
                return i;
    return INT_MAX;
}

/* May the gradient of input j be the output's buffer itself? Not if somebody adds to it while another input that
 * has the same buffer is still to be read, or the other way round. */
static bool may_pass(const struct lower *l, const struct back *b, int j)
{
    const struct graph *g = l->p->graph;
    const struct node *n = &g->nodes[b->node];
    const int step = (int)(b - g->backs);
    const value v = n->arg[j];
    if (!n->op->passes || (b->add >> j & 1) || !(b->want >> j & 1) || g->values[v].kind != VALUE_ACT ||
        l->p->grad[v].buffer >= 0)
        return false;
    for (int k = 0; k < n->anno->n_inputs; k++) {
        const value other = n->arg[k];
        if (k == j || !(b->want >> k & 1))
            continue;
        if (other == v || writer_after(g, step, v) <= reader_of(g, other) ||
            writer_after(g, step, other) <= reader_of(g, v))
            return false;
    }
    return true;
}

/* Inputs whose gradient is the output's; returns those that are left for the kernel. */
static uint32_t pass_gradients(struct lower *l, const struct back *b)
{
    const struct node *n = &l->p->graph->nodes[b->node];
    uint32_t left = b->want;
    for (int j = 0; j < n->anno->n_inputs; j++)
        if (may_pass(l, b, j)) {
            l->p->grad[n->arg[j]] = lower_grad(l, b->node, n->anno->n_inputs, false);
            left &= ~(1u << j);
        }
    return left;
}

void lower_backward_op(struct lower *l, const struct back *b, bool inside)
{
    const uint32_t want = inside ? b->want : pass_gradients(l, b);
    if (want == 0)
        return;
    const struct graph *g = l->p->graph;
    const struct anno *a = g->nodes[b->node].anno;
    for (int j = 0; j < a->n_args && !inside; j++)
        if (a->saved >> j & 1)
            lower_want_again(l, g->nodes[b->node].arg[j]);
    struct instr *i = emit_op(l, LIST_MICRO, b->node, true);
    i->add = b->add;
    for (int j = 0; j < a->n_args; j++) {
        const bool wanted = j < a->n_inputs ? want >> j & 1 : g->has_grad[g->nodes[b->node].arg[j]];
        if (a->saved >> j & 1)
            i->arg[j] = inside ? region_arg(l, b->node, j) : lower_value(l, b->node, j, false);
        if (wanted)
            i->grad[j] = lower_grad(l, b->node, j, inside);
        if (g->values[g->nodes[b->node].arg[j]].kind == VALUE_PARAM && l->p->plan.numbers.gradient == F32)
            i->wide |= 1u << j;
    }
}

static void lower_forward(struct lower *l, enum list_kind which)
{
    for (int node = 0; node < l->p->graph->n_nodes; node++) {
        if (!lower_is_region(l, node)) {
            lower_forward_op(l, which, node, false);
            continue;
        }
        const struct region r = lower_region_at(l, node);
        lower_region_forward(l, which, &r);
        node = r.last - 1;
    }
}

static void lower_backward(struct lower *l)
{
    const struct graph *g = l->p->graph;
    for (int i = 0; i < g->n_backs; i++) {
        const int node = g->backs[i].node;
        if (!lower_is_region(l, node)) {
            lower_backward_op(l, &g->backs[i], false);
            continue;
        }
        const struct region r = lower_region_at(l, node);
        lower_region_backward(l, &r);
        while (i + 1 < g->n_backs && lower_in_region(&r, g->backs[i + 1].node))
            i++;
    }
}

static void begin_eval(struct lower *l)
{
    const struct graph *g = l->p->graph;
    for (int v = 0; v < g->n_values; v++)
        if (g->values[v].kind == VALUE_ACT)
            l->p->value[v] = NOWHERE;
}

/* Kept values share one buffer between the lists, so that the host finds them in one place. */
static void make_kept(struct lower *l)
{
    const struct graph *g = l->p->graph;
    for (int i = 0; i < g->n_kept; i++) {
        const value v = g->kept[i];
        const struct node *n = &g->nodes[g->values[v].node];
        for (int j = n->anno->n_inputs; j < n->anno->n_args; j++)
            if (n->arg[j] == v)
                l->kept[v] = (struct ref){
                    lower_persistent(l, g->values[v].name, MEM_BATCH, value_bytes(l, g->values[v].node, j)), 0
                };
    }
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

static struct ref flat_buffer(struct lower *l, const char *name, enum memory_class class, int64_t bytes)
{
    return (struct ref){ lower_persistent(l, name, class, bytes), 0 };
}

static void make_flats(struct lower *l, bool training)
{
    static const char *const names[FLATS][2] = { { "dense weights", "dense gradients" },
                                                 { "expert weights", "expert gradients" } };
    struct program *p = l->p;
    for (int i = 0; i < FLATS; i++) {
        const int64_t n = p->layout.flat[i].n_elements;
        p->weights[i] =
            flat_buffer(l, names[i][0], MEM_WEIGHTS, n * (int64_t)num_dtype_bytes(plan_float(&p->plan)));
        if (training)
            p->gradients[i] = flat_buffer(l, names[i][1], MEM_GRADIENTS,
                                          n * (int64_t)num_dtype_bytes(p->plan.numbers.gradient));
    }
}

/* One buffer for each kind of state of all parameters of a flat space; every part begins at a multiple of 64. */
static void make_states(struct lower *l)
{
    static const char *const names[FLATS][3] = { { "dense exp_avg", "dense exp_avg_sq", "dense master" },
                                                 { "expert exp_avg", "expert exp_avg_sq", "expert master" } };
    struct program *p = l->p;
    int64_t moments[FLATS] = { 0 }, masters[FLATS] = { 0 };
    p->state = ARENA_NEW(l->arena, struct state, p->graph->params.n);
    for (int i = 0; i < p->graph->params.n; i++) {
        const struct place *at = &p->layout.place[i];
        const struct flat *f = &p->layout.flat[at->flat];
        struct state *s = &p->state[i];
        layout_coarse(f, f->index, &s->begin, &s->end);
        s->begin = at->at > s->begin ? at->at : s->begin;
        s->end = at->at + at->end - at->begin < s->end ? at->at + at->end - at->begin : s->end;
        s->end = s->end > s->begin ? s->end : s->begin;
        s->exp_avg.at_bytes = s->exp_avg_sq.at_bytes = moments[at->flat];
        s->low.at_bytes = masters[at->flat];
        moments[at->flat] += (plan_moment_bytes(&p->plan, s->end - s->begin) + 63) / 64 * 64;
        masters[at->flat] += (plan_master_bytes(&p->plan, s->end - s->begin) + 63) / 64 * 64;
    }
    for (int k = 0; k < FLATS; k++) {
        const int exp_avg = flat_buffer(l, names[k][0], MEM_OPTIMIZER, moments[k]).buffer,
                  exp_avg_sq = flat_buffer(l, names[k][1], MEM_OPTIMIZER, moments[k]).buffer,
                  low = flat_buffer(l, names[k][2], MEM_OPTIMIZER, masters[k]).buffer;
        for (int i = 0; i < p->graph->params.n; i++)
            if (p->layout.place[i].flat == k) {
                p->state[i].exp_avg.buffer = exp_avg;
                p->state[i].exp_avg_sq.buffer = exp_avg_sq;
                p->state[i].low.buffer = low;
            }
    }
}

/* Reproducible mode: expert gradients of each sender apart, so that they are added in the order of ranks. */
static void make_parts(struct lower *l)
{
    const struct param_list *params = &l->p->graph->params;
    for (int i = 0; i < params->n; i++) {
        const struct place *at = &l->p->layout.place[i];
        if (at->flat == EXPERT)
            l->parts[i] =
                (struct ref){ lower_persistent(l, params->item[i].name, MEM_GRADIENTS,
                                               (at->end - at->begin) * l->n_parts *
                                                   (int64_t)num_dtype_bytes(l->p->plan.numbers.gradient)),
                              0 };
    }
}

static void make_roots(struct lower *l)
{
    const struct graph *g = l->p->graph;
    struct program *p = l->p;
    for (int i = 0; i < g->n_roots; i++) {
        const value v = g->roots[i].of;
        struct ref *weight = g->roots[i].kind == ROOT_NLL ? &p->nll_weight : &p->aux_weight;
        if (weight->buffer < 0)
            *weight = (struct ref){
                lower_persistent(l, "loss weights", MEM_BATCH, p->buffers[l->kept[v].buffer].bytes), 0
            };
        p->grad[v] = *weight;
    }
}

static void make_persistent(struct lower *l, bool training)
{
    struct program *p = l->p;
    for (int i = 0; i < FLATS; i++)
        p->weights[i] = p->gradients[i] = NOWHERE;
    p->control = p->chunk_sums = p->nll_weight = p->aux_weight = NOWHERE;
    make_flats(l, training);
    make_kept(l);
    if (!training)
        return;
    make_states(l);
    if (l->n_parts > 1)
        make_parts(l);
    make_roots(l);
    p->control = (struct ref){ lower_persistent(l, "control", MEM_OPTIMIZER, 6 * (int64_t)sizeof(float)), 0 };
    p->chunk_sums = (struct ref){
        lower_persistent(l, "norm sums", MEM_OPTIMIZER, p->layout.n_chunks_total * (int64_t)sizeof(double)), 0
    };
}

void sched_lower(struct arena *a, const struct graph *g, const struct plan *plan, int rank, bool training,
                 const struct adamw *o, struct program *p)
{
    *p = (struct program){
        .graph = g, .plan = *plan, .value = no_refs(a, g->n_values), .grad = no_refs(a, g->n_values)
    };
    struct lower l = { .arena = a,
                       .p = p,
                       .split = ARENA_NEW(a, struct node_split, g->n_nodes),
                       .inner = no_refs(a, g->n_values),
                       .inner_grad = no_refs(a, g->n_values),
                       .kept = no_refs(a, g->n_values),
                       .parts = no_refs(a, g->params.n),
                       .present = ARENA_NEW(a, bool, g->n_values),
                       .node_counts = no_refs(a, g->n_nodes),
                       .n_parts = plan->reproducible ? plan->expert_parallel : 1 };
    layout_make(a, g, plan, rank, &p->layout);
    layout_split(a, g, l.split);
    for (int i = 0; i < g->n_nodes; i++)
        if (l.split[i].expert >= 0 && g->nodes[i].dim[l.split[i].expert] > l.most_experts)
            l.most_experts = g->nodes[i].dim[l.split[i].expert];
    stash_make(a, g, plan, l.split, &l.stash);
    p->recompute_kinds = l.stash.n_kinds;
    make_persistent(&l, training);
    use_kept(&l);
    if (training) {
        lower_forward(&l, LIST_MICRO);
        lower_backward(&l);
        lower_update(&l, o);
        begin_eval(&l);
        use_kept(&l);
    }
    lower_forward(&l, LIST_EVAL);
    p->batch = plan->micro_batch;
    sched_assign(p, a);
}
