/* registry.h - all operators, from the listing of src/ops (build/.../ops.def). */
#pragma once
#include "graph/op.h"
#define OP(name) extern const struct op op_##name;
#include "ops.def"
#undef OP
extern const struct op *const registry_ops[];
extern const int registry_n_ops;
const struct op *registry_find(const char *name); /* NULL when there is none */
