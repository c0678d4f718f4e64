/* ckpt_publish.c - a checkpoint comes into being under a temporary name, and becomes one by a rename. */
#include "ckpt/ckpt_impl.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#define TEMPORARY ".tmp"
static const char step_prefix[] = "step-";

const char *temporary_name(struct arena *a, const char *directory)
{
    return arena_printf(a, "%s" TEMPORARY, without_slashes(a, directory));
}

static bool is_leftover(const char *name)
{
    return (!strncmp(name, step_prefix, strlen(step_prefix)) && strstr(name, TEMPORARY)) ||
           !strncmp(name, "last.tmp.", 9);
}

/* What a killed run left: half-written and half-removed checkpoints. */
static bool remove_leftovers(struct arena *a, const char *parent, struct err *e)
{
    int64_t n;
    char **names = file_list(a, parent, &n, e);
    for (int64_t i = 0; names && i < n; i++)
        if (is_leftover(names[i]) && !file_remove_tree(path_in(a, parent, names[i]), e))
            return false;
    return names != NULL;
}

bool ckpt_begin(const struct ckpt_job *job, struct err *e)
{
    struct arena *a = arena_new("checkpoint");
    const char *dir = temporary_name(a, job->directory), *parent = parent_of(a, dir);
    assignment_check_states(job);
    const bool begun = file_mkdirs(parent, e) && remove_leftovers(a, parent, e) && file_remove_tree(dir, e) &&
                       file_mkdirs(dir, e);
    arena_free(a);
    return begun;
}

/* Adds what one rank wrote, once it is there with the bytes that the rank counted. */
static bool take_sums(struct arena *a, const char *dir, const char *name, int rank, struct manifest *m,
                      struct err *e)
{
    struct manifest sums;
    const char *path = path_in(a, dir, name);
    if (!file_exists(path))
        return err_code(e, EXIT_WORLD,
                        "%s: missing: rank %d has not written its part, or to another file system", path,
                        rank);
    if (!manifest_read(a, path, &sums, e))
        return false;
    if (sums.n_ranks != m->n_ranks)
        return err_code(e, EXIT_CORRUPT, "%s: of %lld ranks, expected %lld", path, (long long)sums.n_ranks,
                        (long long)m->n_ranks);
    for (int64_t i = 0; i < sums.n; i++) {
        if (!manifest_check_file(a, dir, &sums.file[i], false, e))
            return false;
        manifest_add(a, m, sums.file[i].name, 0, 0);
        m->file[m->n - 1] = sums.file[i];
    }
    return file_remove_tree(path, e);
}

static bool write_texts(struct arena *a, const struct ckpt_job *job, const struct assignment *x,
                        const char *dir, struct manifest *m, struct err *e)
{
    return shards_write_index(a, dir, x->list, &x->shards, e) &&
           manifest_add_file(a, m, dir, INDEX_NAME, e) &&
           copy_model_texts(a, job->model_dir, dir, NULL, m, e) &&
           file_write(path_in(a, dir, STATE_NAME), job->train_state, strlen(job->train_state), e) &&
           manifest_add_file(a, m, dir, STATE_NAME, e);
}

static bool is_last(struct arena *a, const char *last, const char *directory)
{
    char target[4096];
    const ssize_t n = readlink(last, target, sizeof target - 1);
    return n > 0 && !strcmp(base_name(arena_strndup(a, target, (size_t)n)), base_name(directory));
}

/* Renamed first, so that no half of a checkpoint ever stands under its name. */
static bool remove_checkpoint(struct arena *a, const char *directory, struct err *e)
{
    const char *old = arena_printf(a, "%s" TEMPORARY ".old", directory);
    return file_remove_tree(old, e) && file_rename(directory, old, e) && file_remove_tree(old, e);
}

/* A checkpoint of the same step may be there: of a run that was killed before "last" moved, or resumed from
 * an earlier one. The two change places in one step. */
static bool move_into_place(struct arena *a, const char *temporary, const char *directory, const char *last,
                            struct err *e)
{
    if (!file_exists(directory))
        return file_rename(temporary, directory, e);
    if (renameat2(AT_FDCWD, temporary, AT_FDCWD, directory, RENAME_EXCHANGE) == 0)
        return file_sync_dir(parent_of(a, directory), e) && file_remove_tree(temporary, e);
    if (is_last(a, last, directory))
        return err_code(e, EXIT_WORLD,
                        "%s: is there already, is the last checkpoint, and cannot be exchanged: %s",
                        directory, strerror(errno));
    return remove_checkpoint(a, directory, e) && file_rename(temporary, directory, e);
}

/* The number behind "step-"; -1 when the name is not of that form. */
static int64_t step_of(const char *name)
{
    const char *digits = name + strlen(step_prefix);
    int64_t step = 0;
    if (strncmp(name, step_prefix, strlen(step_prefix)) != 0 || !*digits || strlen(digits) > 18)
        return -1;
    for (; *digits; digits++) {
        if (*digits < '0' || *digits > '9')
            return -1;
        step = 10 * step + *digits - '0';
    }
    return step;
}

/* Keeps the newest up to this step. Later ones are of an abandoned future and are overwritten when it comes. */
static bool remove_old(struct arena *a, const char *directory, const char *last, int keep_last, struct err *e)
{
    int64_t n, kept = 0;
    const char *parent = parent_of(a, directory);
    const int64_t newest = step_of(base_name(directory));
    char **names = file_list(a, parent, &n, e);
    if (!names || newest < 0)
        return names != NULL;
    for (int64_t step = newest; step >= 0;) {
        int64_t before = -1;
        for (int64_t i = 0; i < n; i++) {
            const int64_t s = step_of(names[i]);
            before = s < step && s > before ? s : before;
            const char *path = path_in(a, parent, names[i]);
            if (s != step || (kept++ < keep_last) || is_last(a, last, path))
                continue;
            if (!remove_checkpoint(a, path, e))
                return false;
        }
        step = before;
    }
    return true;
}

static bool publish(struct arena *a, const struct ckpt_job *job, int keep_last, struct err *e)
{
    struct assignment x;
    struct manifest m = { .n_ranks = job->n_ranks };
    const char *dir = temporary_name(a, job->directory), *final = without_slashes(a, job->directory);
    const char *last = path_in(a, parent_of(a, final), "last");
    assignment_make(a, job, &x);
    for (int r = 0; r < job->n_ranks; r++)
        if (!take_sums(a, dir, sums_file(a, r), r, &m, e) ||
            (r < shared_count(job, &x) && !take_sums(a, dir, seals_file(a, r), r, &m, e)))
            return false;
    return write_texts(a, job, &x, dir, &m, e) && manifest_write(path_in(a, dir, MANIFEST_NAME), &m, e) &&
           move_into_place(a, dir, final, last, e) && file_symlink(base_name(final), last, e) &&
           (keep_last <= 0 || remove_old(a, final, last, keep_last, e));
}

bool ckpt_publish(const struct ckpt_job *job, int keep_last, struct err *e)
{
    struct arena *a = arena_new("checkpoint");
    const bool published = publish(a, job, keep_last, e);
    arena_free(a);
    return published;
}

int64_t ckpt_bytes(const char *directory)
{
    struct arena *a = arena_new("checkpoint");
    struct manifest m = { 0 };
    struct err ignored = { 0 };
    int64_t bytes = 0;
    if (manifest_read(a, path_in(a, directory, MANIFEST_NAME), &m, &ignored))
        for (int64_t i = 0; i < m.n; i++)
            bytes += m.file[i].bytes;
    arena_free(a);
    return bytes;
}
