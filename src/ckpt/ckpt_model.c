/* ckpt_model.c - a Hugging Face directory from one rank's weights, without optimizer state. */
#include "ckpt/ckpt_impl.h"
#include <string.h>

struct source {
    const struct ckpt_job *job;
    const struct assignment *x;
    float *room; /* CKPT_PIECE */
};

static bool put_part(const struct source *m, const struct part *part, const struct safetensor *entry,
                     struct safetensors_writer *w, struct err *e)
{
    const struct piece *p = &m->job->params->item[part->param].piece[part->piece];
    const struct ckpt_holding *h = m->job->holding;
    const struct ckpt_range *r = range_at(h->weights, h->n_weights, part->param, p->offset);
    for (int64_t i = 0; i < p->n_elements; i += CKPT_PIECE) {
        const int64_t n = p->n_elements - i < CKPT_PIECE ? p->n_elements - i : CKPT_PIECE;
        const float *x =
            m->job->read(m->job->context, CKPT_WEIGHT, r - h->weights, p->offset - r->begin + i, n, m->room);
        if (!put_floats(w, entry->name, x, p->at + i, n, entry->dtype, e))
            return false;
    }
    return true;
}

static bool put_weight(void *context, int64_t tensor, struct safetensors_writer *w, struct err *e)
{
    const struct source *m = context;
    const struct stored_tensor *t = &m->x->tensor[tensor];
    for (int i = 0; i < t->n_parts; i++)
        if (!put_part(m, &t->part[i], &m->x->list[tensor], w, e))
            return false;
    return true;
}

/* One shard has the name without numbers and needs no index: the convention of Hugging Face. */
static bool write_files(struct arena *a, const struct ckpt_job *job, const char *dir, struct err *e)
{
    struct assignment x;
    assignment_make(a, job, &x);
    CHECK(shared_count(job, &x) == 0, "the rank does not hold every parameter");
    struct source m = { job, &x, ARENA_NEW(a, float, CKPT_PIECE) };
    shards_plan(a, x.list, x.n, NULL, 1, job->max_shard_bytes, &x.shards);
    if (x.shards.n == 1)
        x.shards.name[0] = SINGLE_NAME;
    return shards_write(a, dir, x.list, &x.shards, 0, put_weight, &m, NULL, e) &&
           (x.shards.n == 1 || shards_write_index(a, dir, x.list, &x.shards, e)) &&
           copy_model_texts(a, job->model_dir, dir, NULL, NULL, e);
}

bool ckpt_write_model(const struct ckpt_job *job, struct err *e)
{
    struct arena *a = arena_new("model");
    struct err ignored = { 0 };
    const char *final = without_slashes(a, job->directory), *dir = temporary_name(a, final);
    bool written = !file_exists(final) ||
                   err_code(e, EXIT_USAGE, "%s: is there already, expected a new directory", final);
    if (written) {
        written = file_remove_tree(dir, e) && file_mkdirs(dir, e) && write_files(a, job, dir, e) &&
                  file_sync_dir(dir, e) && file_rename(dir, final, e);
        if (!written)
            file_remove_tree(dir, &ignored);
    }
    arena_free(a);
    return written;
}
