/* anno.h - the only parser of the annotation language of op.h. */
#pragma once
#include "base/num.h"
#include "graph/op.h"
#include <stdbool.h>
enum dim_kind { DIM_SPLIT, DIM_REDUCE, DIM_WHOLE };
struct anno_dim { /* one dimension of an argument */
    int letter;   /* index into anno.letter; -1 for the literal 1 */
    int factor;   /* (a h): index of h; -1 otherwise */
    int rows_of;  /* r(e): index of e; -1 otherwise */
};
struct anno_arg {
    char name[16];
    int n_dims;
    struct anno_dim dim[6];
    bool output, model_float; /* model_float: no @dtype given */
    enum dtype dtype;         /* where given */
};
struct anno {
    int n_args, n_inputs, n_letters, n_attrs;
    struct anno_arg arg[OP_ARGS];
    char letter[OP_DIMS][12]; /* name of each dimension */
    enum dim_kind kind[OP_DIMS];
    int letter_attr[OP_DIMS]; /* attribute that gives its length, or -1 */
    char attr[OP_ATTRS][16];
    uint32_t saved; /* bit per argument */
};
/* Parses a record; a mistake in it is a bug and dies with the place in the text. */
void anno_parse(const struct op *op, struct anno *out);
/* Elements of one argument for given dimension lengths. */
int64_t anno_elements(const struct anno *a, int arg, const int64_t *dim);
/* The attribute of that name among `attr` of a call; `otherwise` where the operator has none. */
double anno_attr(const struct anno *a, const double *attr, const char *name, double otherwise);
