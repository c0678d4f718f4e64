/* deepseek_v2.h - DeepSeek-V2 (arXiv 2405.04434). */
#pragma once
#include "model/model.h"
/* The functions of struct model_family. */
bool deepseek_v2_read(const struct json *j, struct model_config *m, struct err *e);
struct graph *deepseek_v2_graph(struct arena *a, const struct model_config *m, const struct model_options *o,
                                struct model_values *v);
double deepseek_v2_active(const struct model_config *m, int64_t layer);
void deepseek_v2_describe(const struct model_config *m, struct str *out);
/* Layer L is MoE iff L >= first_dense && L % moe_every == 0. */
bool model_is_moe(const struct model_config *m, int64_t layer);
/* Softmax scale (Dn+Dr)^-1/2 * mscale(factor, mscale_all_dim)^2, model code of DeepSeek-V2. */
double model_softmax_scale(const struct model_config *m);
