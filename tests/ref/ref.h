/* ref.h - the definition of every operator: plain loops in float64, from the formula. A file NAME.c here
 * defines ref_NAME; an operator without one does not link. In a call for a reference every float argument is
 * double and every @i32 argument int32_t. Backward writes every gradient that is not NULL (the add bits are
 * for devices); gradients of outputs are given for all of `of`. Elements that a definition leaves open are
 * not written. */
#pragma once
#include "graph/op.h"
struct ref {
    const char *of, *by; /* outputs through which gradients flow, inputs that have one; "" = no backward */
    kernel *fwd, *bwd;
};
#define OP(name) extern const struct ref ref_##name;
#include "ops.def"
#undef OP
