/* in_place.h - which nodes write their first output over their first input, so that both values are one buffer. What is
 * overwritten cannot be read again: nobody else reads it, neither backward nor the host, and the output is not
 * computed again from it (stash.h). */
#pragma once
#include "plan/layout.h"
#include "plan/plan.h"
/* out: by node. split: by node (layout_split); exchange regions have buffers of their own and are left alone. */
void in_place_make(const struct graph *g, const struct plan *p, const struct node_split *split, bool *out);
