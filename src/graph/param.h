/* param.h - the list of parameters of a model, and how each maps to tensors of a Hugging Face directory.
 * A parameter may merge many tensors (all experts of a layer) or be a part of one (some rows of a matrix);
 * every piece is a contiguous range on both sides. A rank holds a contiguous range of elements of each
 * parameter (all of it, or its experts). */
#pragma once
#include "base/num.h"
#include <stdbool.h>
enum init { INIT_NORMAL, INIT_UNIFORM, INIT_ONE }; /* N(0, scale^2), U(-scale, scale), 1 */
struct piece {
    const char *tensor; /* name in the Hugging Face directory */
    int n_dims;
    int64_t shape[4]; /* of that tensor */
    int64_t at;       /* first element inside that tensor */
    int64_t offset;   /* first element inside the parameter */
    int64_t n_elements;
};
struct param {
    const char *name;
    int n_dims;
    int64_t shape[5], n_elements;
    enum init init;
    double init_scale;
    bool decay; /* weight decay applies (matrices; not norms) */
    int n_pieces;
    struct piece *piece; /* ascending offset, covering the parameter exactly */
};
struct param_list {
    int n;
    struct param *item;
};
