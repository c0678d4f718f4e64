/* model.h - a family of models: from config.json to a graph. Adding one: model/NAME.c with a `struct model_family`, and
 * its line in model.c; nothing else knows families. */
#pragma once
#include "graph/graph.h"
#include "model/model_config.h"
struct json;
struct str;
struct model_options {
    int64_t batch, sequence; /* B, S of one micro-batch over all ranks */
    int vocabulary_parts;    /* that the embedding and the loss are made of; 0 and 1: whole */
    bool logits;             /* head gives logits [B S V] instead of the loss (generate, check) */
    bool compat_nnscaler;    /* softmax scale without mscale^2, no aux loss: the example's curve */
};
struct model_values { /* what the runtime fills and reads; -1 = absent */
    value tokens, labels, nll, logits;
    int n_moe;
    value aux[256], load[256];
    int moe_layer[256];
};
struct model_family {
    const char *type; /* model_type of config.json */
    /* The rest of config.json, the fingerprint included; m is zeros but for .family */
    bool (*read)(const struct json *j, struct model_config *m, struct err *e);
    struct graph *(*graph)(struct arena *a, const struct model_config *m, const struct model_options *o,
                           struct model_values *v);
    /* Elements of matrices that a token is multiplied with in one layer */
    double (*active)(const struct model_config *m, int64_t layer);
    void (*describe)(const struct model_config *m, struct str *out); /* lines for `inspect` */
};
extern const struct model_family model_deepseek_v2, model_llama;
const struct model_family *model_family_find(const char *type); /* NULL when there is none */
const char *model_family_names(struct arena *a);                /* "deepseek_v2", "llama" */
struct graph *model_graph(struct arena *a, const struct model_config *m, const struct model_options *o,
                          struct model_values *v);
/* Training FLOPs per token at sequence length S: "honest" = 6 x active parameters without the input embedding
 * + causal attention, "example" = 6 x active parameters with it, no attention. */
void model_flops_per_token(const struct model_config *m, int64_t sequence, double *honest, double *example);
