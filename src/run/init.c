/* init.c - see init.h. */
#include "run/init.h"
#include "model/model.h"
#include "run/weights.h"
#include <stdio.h>

struct random {
    const struct param_list *params;
    int64_t seed;
};

static const float *read_random(void *context, enum ckpt_part part, int64_t index, int64_t at, int64_t n,
                                float *room)
{
    const struct random *r = context;
    (void)part;
    weights_initial(r->params, (int)index, r->seed, at, at + n, room);
    return room;
}

/* Every parameter, whole. */
static struct ckpt_holding hold_all(struct arena *a, const struct param_list *params)
{
    struct ckpt_holding h = { .n_weights = params->n, .weights = ARENA_NEW(a, struct ckpt_range, params->n) };
    for (int i = 0; i < params->n; i++)
        h.weights[i] = (struct ckpt_range){ i, 0, params->item[i].n_elements, 0 };
    return h;
}

bool init_run(struct arena *a, const struct config *c, struct err *e)
{
    struct model_config m;
    struct model_values v;
    const struct model_options o = { .batch = 1, .sequence = 2 };
    const char *dir = ckpt_find_model(a, c->model_id, e);
    if (!dir || !model_config_read(dir, &m, e))
        return false;
    const struct param_list *params = &model_graph(a, &m, &o, &v)->params;
    struct random r = { params, c->seed };
    const struct ckpt_holding all = hold_all(a, params);
    enum dtype *stored = ARENA_NEW(a, enum dtype, params->n);
    int64_t n = 0;
    for (int i = 0; i < params->n; i++) {
        stored[i] = m.stored;
        n += params->item[i].n_elements;
    }
    const struct ckpt_job job = { .directory = c->output,
                                  .params = params,
                                  .n_ranks = 1,
                                  .holding = &all,
                                  .stored = stored,
                                  .model_dir = dir,
                                  .max_shard_bytes = c->max_shard_size,
                                  .read = read_random,
                                  .context = &r };
    if (!ckpt_write_model(&job, e))
        return false;
    printf("%s: %lld random parameters in %s, seed %lld\n", c->output, (long long)n, num_dtype_name(m.stored),
           (long long)c->seed);
    return true;
}
