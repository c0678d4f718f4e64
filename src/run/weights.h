/* weights.h - filling the weights of a rank: random numbers that depend on (seed, tensor name, element) only,
 * or a model directory; and what every rank holds, for checkpoints. Files are read by the pool's threads. */
#pragma once
#include "ckpt/ckpt.h"
#include "run/source.h"
void weights_init(struct exec *x, int64_t seed);
/* Random elements [begin, end) of a parameter, as weights_init makes them; by all threads of the pool. */
void weights_initial(const struct param_list *list, int param, int64_t seed, int64_t begin, int64_t end,
                     float *out);
/* Elements [*begin, *end) whose weights this rank keeps, in held order (plan/layout.h). */
void weights_held(const struct exec *x, int param, int64_t *begin, int64_t *end);
bool weights_load(struct exec *x, const struct ckpt *c, struct err *e);
bool weights_load_state(struct exec *x, struct ckpt *c, struct err *e); /* weights and moments */
/* n elements of the gradient of a parameter, from `element` of the full parameter on. */
void weights_gradient(const struct exec *x, int param, int64_t element, int64_t n, float *out);
/* Holdings of all ranks under a plan; states are the fine ranges, so that they are disjoint. */
struct ckpt_holding *weights_holdings(struct arena *a, const struct graph *g, const struct plan *p);
struct ckpt_order *weights_order(struct arena *a, const struct graph *g,
                                 const struct plan *p); /* by parameter */
/* Place of an element of the full parameter, which this rank holds. */
struct ref weights_ref(const struct exec *x, int param, int64_t element);
/* Elements [*begin, *end) of the full parameter whose states this rank owns; false: none. */
bool weights_owned(const struct exec *x, int param, int64_t *begin, int64_t *end);
/* The sources of a ckpt_job of this rank; their context. */
struct weights_source {
    struct source *states;
    const struct ckpt_holding *holding; /* of this rank */
};
ckpt_source weights_read;
ckpt_code_source weights_read_codes; /* these two where the plan has 8-bit moments */
ckpt_scale_source weights_read_scales;
/* Name of the stored tensor that holds gradient chunk `id`, for messages. */
const char *weights_chunk_tensor(struct arena *a, const struct graph *g, const struct plan *p, int64_t id);
