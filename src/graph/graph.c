/* graph.c - building a graph: values, nodes, shapes from annotations. */
#include "graph/graph.h"
#include "base/hash.h"
#include "base/str.h"
#include <stdio.h>
#include <string.h>
enum { FIRST = 256 }; /* room of a list at first */

struct graph *graph_new(struct arena *a)
{
    struct graph *g = ARENA_NEW(a, struct graph, 1);
    g->arena = a;
    return g;
}

static value add_value(struct graph *g, struct value_info v)
{
    g->values = arena_grow(g->arena, g->values, g->n_values, &g->values_capacity, FIRST, sizeof *g->values);
    v.name = arena_strdup(g->arena, v.name);
    g->values[g->n_values] = v;
    return g->n_values++;
}

static value add_shaped(struct graph *g, struct value_info v, int n_dims, const int64_t *shape)
{
    CHECK(n_dims <= 6, "%s has %d dimensions", v.name, n_dims);
    v.n_dims = n_dims;
    for (int i = 0; i < n_dims; i++)
        v.shape[i] = shape[i];
    return add_value(g, v);
}

value graph_input(struct graph *g, const char *name, enum dtype t, int n_dims, const int64_t *shape)
{
    return add_shaped(
        g, (struct value_info){ .name = name, .kind = VALUE_INPUT, .dtype = t, .node = -1, .param = -1 },
        n_dims, shape);
}

value graph_const(struct graph *g, const char *name, enum dtype t, int n_dims, const int64_t *shape,
                  const void *data)
{
    return add_shaped(
        g,
        (struct value_info){
            .name = name, .kind = VALUE_CONST, .dtype = t, .node = -1, .param = -1, .data = data },
        n_dims, shape);
}

value graph_param(struct graph *g, const char *name, int n_dims, const int64_t *shape, enum init init,
                  double scale)
{
    struct param_list *list = &g->params;
    list->item = arena_grow(g->arena, list->item, list->n, &g->params_capacity, FIRST, sizeof *list->item);
    struct param *p = &list->item[list->n];
    *p = (struct param){ .name = arena_strdup(g->arena, name),
                         .n_dims = n_dims,
                         .init = init,
                         .init_scale = scale,
                         .decay = n_dims > 1,
                         .n_pieces = 1,
                         .n_elements = 1 };
    p->piece = ARENA_NEW(g->arena, struct piece, 1);
    p->piece->tensor = p->name;
    p->piece->n_dims = n_dims;
    for (int i = 0; i < n_dims; i++) {
        p->shape[i] = shape[i];
        p->n_elements *= shape[i];
        if (i < 4)
            p->piece->shape[i] = shape[i];
    }
    p->piece->n_elements = p->n_elements;
    const int index = list->n++;
    return add_shaped(g,
                      (struct value_info){ .name = name,
                                           .kind = VALUE_PARAM,
                                           .dtype = F32,
                                           .model_float = true,
                                           .node = -1,
                                           .param = index },
                      n_dims, shape);
}

int64_t graph_elements(const struct value_info *v)
{
    int64_t n = 1;
    for (int i = 0; i < v->n_dims; i++)
        n *= v->shape[i];
    return n;
}

static _Noreturn void shape_mismatch(const struct graph *g, const struct node *n, int arg)
{
    const struct value_info *v = &g->values[n->arg[arg]];
    char text[128] = "";
    for (int i = 0, at = 0; i < v->n_dims; i++)
        at += snprintf(text + at, sizeof text - (size_t)at, "%s%lld", i ? " " : "", (long long)v->shape[i]);
    die("%s: argument %s [%s] of %s does not match \"%s\"", n->name, n->anno->arg[arg].name, text,
        n->op->name, n->op->anno);
}

static bool is_leading(const struct anno *a, int letter)
{
    return letter >= 0 && strcmp(a->letter[letter], "n") == 0;
}

/* Sets or compares the length of a letter. */
static bool bind(struct node *n, int letter, int64_t length)
{
    if (n->dim[letter] < 0)
        n->dim[letter] = length;
    return n->dim[letter] == length;
}

static bool bind_dim(struct node *n, const struct anno_dim *d, int64_t length)
{
    if (d->letter < 0)
        return length == 1;
    if (d->factor < 0)
        return bind(n, d->letter, length);
    const int64_t inner = n->dim[d->factor]; /* (a h): h is known from an attribute or an earlier argument */
    return inner > 0 && length % inner == 0 && bind(n, d->letter, length / inner);
}

static bool bind_argument(struct graph *g, struct node *n, int arg, int64_t *leading)
{
    const struct anno_arg *f = &n->anno->arg[arg];
    const struct value_info *v = &g->values[n->arg[arg]];
    int at = 0;
    for (int i = 0; i < f->n_dims; i++) {
        int used = 1;
        int64_t length = at < v->n_dims ? v->shape[at] : -1;
        if (is_leading(n->anno, f->dim[i].letter) && f->dim[i].factor < 0) {
            used = v->n_dims - (f->n_dims - 1);
            if (used < 1 || used > 4)
                return false;
            length = 1;
            for (int j = 0; j < used; j++)
                length *= leading[j] = v->shape[at + j];
            n->n_leading = used;
        }
        if (length < 0 || !bind_dim(n, &f->dim[i], length))
            return false;
        at += used;
    }
    return at == v->n_dims;
}

static void infer_output(struct graph *g, struct node *n, int arg, const int64_t *leading, int node_index)
{
    const struct anno_arg *f = &n->anno->arg[arg];
    struct value_info v = {
        .kind = VALUE_ACT, .dtype = f->model_float ? F32 : f->dtype, .node = node_index, .param = -1
    };
    v.model_float = f->model_float;
    v.name = arena_printf(g->arena, "%s.%s", n->name, f->name);
    for (int i = 0; i < f->n_dims; i++) {
        const struct anno_dim *d = &f->dim[i];
        if (is_leading(n->anno, d->letter) && d->factor < 0) {
            for (int j = 0; j < n->n_leading; j++)
                v.shape[v.n_dims++] = leading[j];
            continue;
        }
        const int64_t length = d->letter < 0 ? 1 : n->dim[d->letter];
        CHECK(length > 0, "%s: length of '%s' is unknown in \"%s\"", n->name, n->anno->letter[d->letter],
              n->op->anno);
        v.shape[v.n_dims++] = d->factor < 0 ? length : length * n->dim[d->factor];
    }
    n->arg[arg] = add_value(g, v);
}

value graph_op(struct graph *g, const struct op *op, const char *name, const value *inputs, int n_inputs,
               const double *attrs, int n_attrs)
{
    struct anno *a = ARENA_NEW(g->arena, struct anno, 1);
    anno_parse(op, a);
    struct node n = { .op = op, .anno = a, .name = arena_strdup(g->arena, name) };
    CHECK(n_inputs == a->n_inputs && n_attrs == a->n_attrs,
          "%s: %s takes %d inputs and %d attributes, got %d and %d", name, op->name, a->n_inputs, a->n_attrs,
          n_inputs, n_attrs);
    for (int i = 0; i < n_attrs; i++)
        n.attr[i] = attrs[i];
    for (int i = 0; i < OP_DIMS; i++)
        n.dim[i] = i < a->n_letters && a->letter_attr[i] >= 0 ? (int64_t)attrs[a->letter_attr[i]] : -1;
    int64_t leading[4] = { 1, 1, 1, 1 };
    for (int i = 0; i < n_inputs; i++) {
        n.arg[i] = inputs[i];
        if (!bind_argument(g, &n, i, leading))
            shape_mismatch(g, &n, i);
    }
    for (int i = n_inputs; i < a->n_args; i++)
        infer_output(g, &n, i, leading, g->n_nodes);
    g->nodes = arena_grow(g->arena, g->nodes, g->n_nodes, &g->nodes_capacity, FIRST, sizeof *g->nodes);
    g->nodes[g->n_nodes++] = n;
    return n.arg[n_inputs];
}

value graph_output(const struct graph *g, value first, int i)
{
    const struct node *n = &g->nodes[g->values[first].node];
    CHECK(n->anno->n_inputs + i < n->anno->n_args, "%s has no output %d", n->name, i);
    return n->arg[n->anno->n_inputs + i];
}

void graph_root(struct graph *g, value v, enum root_kind kind)
{
    CHECK(g->n_roots < GRAPH_ROOTS, "more than %d losses", GRAPH_ROOTS);
    g->roots[g->n_roots++] = (struct root){ v, kind };
    graph_keep(g, v);
}

void graph_keep(struct graph *g, value v)
{
    CHECK(g->n_kept < 2 * GRAPH_ROOTS, "more than %d kept values", 2 * GRAPH_ROOTS);
    g->kept[g->n_kept++] = v;
}

bool graph_check(const struct graph *g, struct err *e)
{
    for (int i = 0; i < g->n_nodes; i++) {
        const struct node *n = &g->nodes[i];
        for (int j = 0; j < n->anno->n_args; j++) {
            const struct value_info *v = &g->values[n->arg[j]];
            const int64_t want = anno_elements(n->anno, j, n->dim);
            if (graph_elements(v) != want)
                return err_set(e, "graph: %s.%s has %lld elements, its annotation says %lld", n->name,
                               n->anno->arg[j].name, (long long)graph_elements(v), (long long)want);
            if (j < n->anno->n_inputs ? v->node >= i : v->node != i)
                return err_set(e, "graph: %s reads %s before it is computed", n->name, v->name);
        }
    }
    for (int i = 0; i < g->params.n; i++) {
        const struct param *p = &g->params.item[i];
        int64_t at = 0;
        for (int j = 0; j < p->n_pieces; at += p->piece[j++].n_elements)
            if (p->piece[j].offset != at)
                return err_set(e, "graph: %s: piece %s begins at %lld, expected %lld", p->name,
                               p->piece[j].tensor, (long long)p->piece[j].offset, (long long)at);
        if (at != p->n_elements)
            return err_set(e, "graph: pieces of %s cover %lld of %lld elements", p->name, (long long)at,
                           (long long)p->n_elements);
    }
    return true;
}

void graph_print(const struct graph *g, struct str *out)
{
    for (int i = 0; i < g->n_nodes; i++) {
        const struct node *n = &g->nodes[i];
        str_addf(out, "%s = %s(", n->name, n->op->name);
        for (int j = 0; j < n->anno->n_inputs; j++)
            str_addf(out, "%s%s", j ? ", " : "", g->values[n->arg[j]].name);
        for (int j = 0; j < n->anno->n_attrs; j++)
            str_addf(out, ", %s=%.9g", n->anno->attr[j], n->attr[j]);
        str_add(out, ")  #");
        for (int j = 0; j < n->anno->n_letters; j++)
            str_addf(out, " %s=%lld", n->anno->letter[j], (long long)n->dim[j]);
        str_add(out, "\n");
    }
}

uint64_t graph_signature(const struct graph *g)
{
    struct str s = str_new(g->arena, 64u << 20);
    graph_print(g, &s);
    for (int i = 0; i < g->params.n; i++)
        str_addf(&s, "%s %lld\n", g->params.item[i].name, (long long)g->params.item[i].n_elements);
    return hash_bytes(s.text, s.bytes);
}

void op_cost(const struct op *op, const int64_t *dim, const double *attr, double flops[2], double bytes[2])
{
    struct call c = { 0 };
    memcpy(c.dim, dim, sizeof c.dim);
    memcpy(c.attr, attr, sizeof c.attr);
    flops[0] = flops[1] = bytes[0] = bytes[1] = 0;
    op->cost(&c, flops, bytes);
}
