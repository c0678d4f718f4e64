/* graph.h - what is computed for one micro-batch, in full (unsplit) sizes: values and nodes in the order of
 * execution, and the backward steps that grad.c derives. No placement, no memory, no device. */
#pragma once
#include "base/arena.h"
#include "base/err.h"
#include "graph/anno.h"
#include "graph/op.h"
#include "graph/param.h"
typedef int value; /* index into graph.values */
enum value_kind { VALUE_INPUT, VALUE_CONST, VALUE_PARAM, VALUE_ACT };
struct value_info {
    const char *name;
    enum value_kind kind;
    enum dtype dtype;
    bool model_float; /* stored in the device's float (F32 on the CPU) */
    int n_dims;
    int64_t shape[6]; /* full sizes */
    int node, param;  /* producer, or index into the parameter list; -1 */
    const void *data; /* VALUE_CONST: full contents */
};
struct node {
    const struct op *op;
    const struct anno *anno;
    const char *name;   /* "layers.3.mlp.gate" */
    value arg[OP_ARGS]; /* order of anno */
    double attr[OP_ATTRS];
    int64_t dim[OP_DIMS]; /* full sizes */
    int n_leading;        /* dimensions that the letter n stands for */
};
/* A value whose gradient starts backward; `weight` is d loss / d element, set for each step. */
struct root {
    value of;
    enum root_kind { ROOT_NLL, ROOT_AUX } kind;
};
struct back { /* one backward step: the bwd kernel of a node */
    int node;
    uint32_t want, add; /* bit per argument: gradient wanted; already written, or that of a parameter */
    uint32_t first;     /* of add: no earlier step writes it, but micro-batches before may have */
};
enum { GRAPH_ROOTS = 256 };
struct graph {
    struct arena *arena;
    int n_values, n_nodes, n_roots, n_backs, n_kept;
    int values_capacity, nodes_capacity;
    struct value_info *values;
    struct node *nodes;
    struct root roots[GRAPH_ROOTS];
    value kept[2 * GRAPH_ROOTS]; /* values that the host reads after the last node; roots are kept too */
    struct back *backs;
    struct param_list params;
    int params_capacity;
    bool *has_grad; /* per value, after graph_grad */
};
struct graph *graph_new(struct arena *a);
value graph_input(struct graph *g, const char *name, enum dtype t, int n_dims, const int64_t *shape);
value graph_const(struct graph *g, const char *name, enum dtype t, int n_dims, const int64_t *shape,
                  const void *data);
/* A parameter with one piece of the same name and shape; change .piece afterwards where that is wrong. */
value graph_param(struct graph *g, const char *name, int n_dims, const int64_t *shape, enum init init,
                  double scale);
/* Appends a node; shapes are inferred from the annotation. A mismatch is a bug of the model file: dies with
 * the annotation and the shapes. Returns the first output; graph_output(g, v, i) gives the i-th of its node. */
value graph_op(struct graph *g, const struct op *op, const char *name, const value *inputs, int n_inputs,
               const double *attrs, int n_attrs);
value graph_output(const struct graph *g, value first, int i);
void graph_root(struct graph *g, value v, enum root_kind kind);
int64_t graph_elements(const struct value_info *v);
void graph_keep(struct graph *g, value v);
/* Derives .backs and .has_grad: every float value between a parameter and a root. */
void graph_grad(struct graph *g);
/* Every rule that later stages rely on: order, shapes against annotations, one producer, params covered by
 * their pieces. Used on graphs of any origin. */
bool graph_check(const struct graph *g, struct err *e);
uint64_t graph_signature(const struct graph *g); /* hash of the text form */
struct str;
void graph_print(const struct graph *g, struct str *out); /* one line per node */
/* What a call of an operator with these sizes costs: [0] forward, [1] backward. */
void op_cost(const struct op *op, const int64_t *dim, const double *attr, double flops[2], double bytes[2]);
