/* model.c - see model.h. */
#include "model/model.h"
#include <string.h>

static const struct model_family *const families[] = { &model_deepseek_v2, &model_llama, NULL };

const struct model_family *model_family_find(const char *type)
{
    for (int i = 0; families[i]; i++)
        if (strcmp(families[i]->type, type) == 0)
            return families[i];
    return NULL;
}

const char *model_family_names(struct arena *a)
{
    const char *text = "";
    for (int i = 0; families[i]; i++)
        text = arena_printf(a, "%s%s\"%s\"", text, i ? ", " : "", families[i]->type);
    return text;
}

struct graph *model_graph(struct arena *a, const struct model_config *m, const struct model_options *o,
                          struct model_values *v)
{
    return m->family->graph(a, m, o, v);
}

void model_flops_per_token(const struct model_config *m, int64_t sequence, double *honest, double *example)
{
    const double head = (double)m->vocab * (double)m->width,
                 widths = (double)(m->nope_width + m->rope_width + m->v_width);
    double active = head;
    for (int64_t i = 0; i < m->layers; i++)
        active += m->family->active(m, i);
    const double core =
        (double)(m->layers * m->heads) * widths * (double)sequence; /* causal: half of 2 x 2 S */
    *honest = 6 * active + 3 * core;
    *example = 6 * (active + head);
}
