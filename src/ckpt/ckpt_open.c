/* ckpt_open.c - a model directory becomes one table of tensors, whatever files they lie in. */
#include "ckpt/ckpt_impl.h"
#include <stdlib.h>
#include <string.h>

const struct safetensor *ckpt_tensor(const struct ckpt *c, const char *name)
{
    const int64_t i = name_table_find(&c->names, name);
    return i < 0 ? NULL : c->tensor[i];
}

int64_t ckpt_n_tensors(const struct ckpt *c)
{
    return c->n;
}

const char *ckpt_train_state(const struct ckpt *c)
{
    return c->train_state;
}

void ckpt_close(struct ckpt *c)
{
    for (int64_t i = 0; c && i < c->n_files; i++)
        safetensors_close(c->file[i]);
}

static bool open_file(struct ckpt *c, const char *name, const char *listed_in, struct err *e)
{
    const char *path = path_in(c->arena, c->dir, name);
    if (!file_exists(path))
        return err_set(e, "%s: missing, %s lists it", path, listed_in);
    if (c->manifest && !manifest_find(c->manifest, name))
        return err_set(e, "%s: not listed in %s", path, MANIFEST_NAME);
    c->file[c->n_files] = safetensors_open(c->arena, path, e);
    return c->file[c->n_files] && ++c->n_files;
}

static int by_name(const void *x, const void *y)
{
    const struct safetensor *const *a = x, *const *b = y;
    return name_compare((*a)->name, (*b)->name);
}

/* All tensors of the model's files; a name in two of them is an error. */
static bool collect_tensors(struct ckpt *c, struct err *e)
{
    int64_t n = 0;
    for (int64_t f = 0; f < c->n_files; f++)
        n += safetensors_count(c->file[f]);
    c->tensor = ARENA_NEW(c->arena, const struct safetensor *, n);
    for (int64_t f = 0; f < c->n_files; f++)
        for (int64_t i = 0; i < safetensors_count(c->file[f]); i++)
            c->tensor[c->n++] = safetensors_at(c->file[f], i);
    if (n > 1)
        qsort(c->tensor, (size_t)n, sizeof(void *), by_name);
    c->names = name_table_new(c->arena, n);
    for (int64_t i = 0; i < n; i++) {
        const int64_t other = name_table_add(&c->names, c->tensor[i]->name, i);
        if (other >= 0)
            return err_set(e, "%s: tensor %s: also in %s, expected once", c->tensor[i]->path,
                           c->tensor[i]->name, base_name(c->tensor[other]->path));
    }
    return true;
}

/* Index and files must say the same. */
static bool check_index(const struct ckpt *c, const struct index *x, struct err *e)
{
    for (int64_t i = 0; i < x->n; i++)
        if (!safetensors_find(c->file[x->file_of[i]], x->tensor[i]))
            return err_set(e, "%s: tensor %s: missing, %s lists it", safetensors_path(c->file[x->file_of[i]]),
                           x->tensor[i], INDEX_NAME);
    for (int64_t i = 0; i < c->n; i++)
        if (name_table_find(&x->names, c->tensor[i]->name) < 0)
            return err_set(e, "%s: tensor %s: not listed in %s", c->tensor[i]->path, c->tensor[i]->name,
                           INDEX_NAME);
    return true;
}

static bool open_indexed(struct ckpt *c, struct err *e)
{
    struct index x;
    size_t bytes;
    const char *path = path_in(c->arena, c->dir, INDEX_NAME);
    const char *text = file_read(c->arena, path, max_text_bytes, &bytes, e);
    if (!text || !index_parse(c->arena, text, bytes, path, &x, e))
        return false;
    const char *single = path_in(c->arena, c->dir, SINGLE_NAME);
    if (file_exists(single) && !(x.n_files == 1 && !strcmp(x.file[0], SINGLE_NAME)))
        return err_set(e, "%s: lies beside %s, expected only one of them", single, INDEX_NAME);
    c->file = ARENA_NEW(c->arena, struct safetensors *, x.n_files);
    for (int64_t i = 0; i < x.n_files; i++)
        if (!open_file(c, x.file[i], INDEX_NAME, e))
            return false;
    return collect_tensors(c, e) && check_index(c, &x, e);
}

static bool has_suffix(const char *name, const char *suffix)
{
    const size_t n = strlen(name), k = strlen(suffix);
    return n > k && !strcmp(name + n - k, suffix);
}

/* config.json alone is a model without weights; weights that cannot be read must not pass as that. */
static bool expect_no_weights(struct ckpt *c, struct err *e)
{
    int64_t n;
    char **names = file_list(c->arena, c->dir, &n, e);
    for (int64_t i = 0; names && i < n; i++)
        if (has_suffix(names[i], ".safetensors") ||
            (!strncmp(names[i], "pytorch_model", 13) && has_suffix(names[i], ".bin")))
            return err_set(e, "%s/%s: expected %s or %s beside it", c->dir, names[i], SINGLE_NAME,
                           INDEX_NAME);
    c->names = name_table_new(c->arena, 0);
    return names != NULL;
}

static bool open_model(struct ckpt *c, struct err *e)
{
    if (file_exists(path_in(c->arena, c->dir, INDEX_NAME)))
        return open_indexed(c, e);
    if (!file_exists(path_in(c->arena, c->dir, SINGLE_NAME)))
        return expect_no_weights(c, e);
    c->file = ARENA_NEW(c->arena, struct safetensors *, 1);
    return open_file(c, SINGLE_NAME, "the directory", e) && collect_tensors(c, e);
}

/* Sizes of all files, and the checksums of those that are small. */
static bool open_manifest(struct ckpt *c, const char *path, struct err *e)
{
    struct manifest *m = ARENA_NEW(c->arena, struct manifest, 1);
    if (!manifest_read(c->arena, path, m, e))
        return false;
    for (int64_t i = 0; i < m->n; i++)
        if (!manifest_check_file(c->arena, c->dir, &m->file[i], !has_suffix(m->file[i].name, ".safetensors"),
                                 e))
            return false;
    if (!manifest_find(m, STATE_NAME))
        return err_set(e, "%s: %s is not listed", path, STATE_NAME);
    c->manifest = m;
    return true;
}

static bool open_optimizer(struct ckpt *c, struct err *e)
{
    size_t bytes;
    const int64_t n_model = c->n_model_files = c->n_files, n_ranks = c->manifest->n_ranks;
    struct safetensors **file = ARENA_NEW(c->arena, struct safetensors *, n_model + n_ranks);
    if (n_model)
        memcpy(file, c->file, (size_t)n_model * sizeof(void *));
    c->file = file;
    for (int64_t r = 0; r < n_ranks; r++)
        if (!open_file(c, optimizer_file(c->arena, r, n_ranks), MANIFEST_NAME, e))
            return false;
    c->train_state = file_read(c->arena, path_in(c->arena, c->dir, STATE_NAME), max_text_bytes, &bytes, e);
    return c->train_state && ckpt_index_states(c, e);
}

static bool open_all(struct ckpt *c, struct err *e)
{
    const char *config = path_in(c->arena, c->dir, "config.json"),
               *manifest = path_in(c->arena, c->dir, MANIFEST_NAME);
    if (!file_is_dir(c->dir))
        return err_set(e, "%s: not a directory, expected a model directory", c->dir);
    if (!file_exists(manifest))
        return file_exists(path_in(c->arena, c->dir, STATE_NAME))
                   ? err_set(e, "%s: missing: the checkpoint is incomplete", manifest)
               : !file_exists(config) ? err_set(e, "%s: missing, expected in a model directory", config)
                                      : open_model(c, e);
    return open_manifest(c, manifest, e) && open_model(c, e) && open_optimizer(c, e);
}

struct ckpt *ckpt_open(struct arena *a, const char *dir, struct err *e)
{
    struct ckpt *c = ARENA_NEW(a, struct ckpt, 1);
    c->arena = a;
    c->dir = without_slashes(a, dir);
    if (open_all(c, e))
        return c;
    if (file_exists(path_in(a, c->dir, MANIFEST_NAME)) || file_exists(path_in(a, c->dir, STATE_NAME)))
        e->code = EXIT_CORRUPT;
    ckpt_close(c);
    return NULL;
}
