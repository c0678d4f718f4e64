/* deepseek_v2.h - the architecture (arXiv 2405.04434): from a configuration to a graph. */
#pragma once
#include "graph/graph.h"
#include "model/model_config.h"
struct model_options {
    int64_t batch, sequence; /* B, S of one micro-batch over all ranks */
    bool logits;             /* head gives logits [B S V] instead of the loss (generate, check) */
    bool compat_nnscaler;    /* softmax scale without mscale^2, no aux loss: the example's curve */
};
struct model_values { /* what the runtime fills and reads; -1 = absent */
    value tokens, labels, nll, logits;
    int n_moe;
    value aux[256], load[256];
    int moe_layer[256];
};
struct graph *deepseek_v2_graph(struct arena *a, const struct model_config *m, const struct model_options *o,
                                struct model_values *v);
