/* ckpt_model.c - a Hugging Face directory from one rank's weights, without optimizer state. */
#include "ckpt/ckpt_impl.h"
#include <string.h>

/* One shard has the name without numbers and needs no index: the convention of Hugging Face. */
static bool write_files(struct arena *a, const struct ckpt_job *job, const char *dir, struct err *e)
{
    struct assignment x;
    assignment_make(a, job, &x);
    CHECK(shared_count(job, &x) == 0, "the rank does not hold every parameter");
    struct mine m = { job, &x, 0, ARENA_NEW(a, float, CKPT_ROOM / (int)sizeof(float)) };
    if (x.shards.n == 1)
        x.shards.name[0] = SINGLE_NAME;
    return shards_write(a, dir, x.list, &x.shards, 0, weight_put, &m, NULL, e) &&
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
