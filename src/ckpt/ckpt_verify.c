/* ckpt_verify.c - is a checkpoint what was written: sizes, checksums, structure, finite values. */
#include "base/pool.h"
#include "ckpt/ckpt_impl.h"
#include <string.h>

struct verify {
    struct arena *arena;
    const char *dir;
    void (*report)(const char *line);
    int64_t n_problems;
};

/* Reports an error and makes room for the next one. */
static void found(struct verify *v, struct err *e)
{
    v->report(e->text);
    v->n_problems++;
    *e = (struct err){ 0 };
}

/* Things that threads check, and what they found: told in the order of the things. */
struct checks {
    const struct verify *v;
    const struct manifest *manifest;
    const struct safetensor **tensor;
    struct err *err;
};

static void check_file(void *context, int64_t i)
{
    const struct checks *c = context;
    struct arena *a = arena_new("verify");
    manifest_check_file(a, c->v->dir, &c->manifest->file[i], true, &c->err[i]);
    arena_free(a);
}

static void check_all(struct verify *v, struct checks *c, int64_t n, pool_task *check)
{
    c->v = v;
    c->err = ARENA_NEW(v->arena, struct err, n);
    pool_run(n, check, c);
    for (int64_t i = 0; i < n; i++)
        if (c->err[i].code)
            found(v, &c->err[i]);
}

static void check_files(struct verify *v, const struct manifest *m)
{
    struct checks c = { .manifest = m };
    check_all(v, &c, m->n, check_file);
}

/* Weights that the manifest does not know would be read by other programs. */
static void check_strangers(struct verify *v, const struct manifest *m)
{
    int64_t n;
    struct err e = { 0 };
    char **names = file_list(v->arena, v->dir, &n, &e);
    if (!names)
        found(v, &e);
    for (int64_t i = 0; names && i < n; i++)
        if (strstr(names[i], ".safetensors") && !manifest_find(m, names[i])) {
            err_set(&e, "%s/%s: not listed in %s", v->dir, names[i], MANIFEST_NAME);
            found(v, &e);
        }
}

static void check_finite(void *context, int64_t i)
{
    const struct checks *c = context;
    const struct safetensor *t = c->tensor[i];
    float chunk[4096];
    const int64_t most = (int64_t)(sizeof chunk / sizeof *chunk);
    if (!safetensors_is_float(t))
        return;
    for (int64_t at = 0; at < t->n_elements; at += most)
        if (!safetensors_floats(t, at, t->n_elements - at < most ? t->n_elements - at : most, chunk,
                                &c->err[i]))
            return;
}

static void check_tensors(struct verify *v)
{
    struct err e = { 0 };
    int64_t n = 0;
    struct ckpt *c = ckpt_open(v->arena, v->dir, &e);
    if (!c) {
        found(v, &e);
        return;
    }
    for (int64_t i = 0; i < c->n_states; i++)
        if (!state_check_scales(&c->state[i], &e))
            found(v, &e);
    for (int64_t f = 0; f < c->n_files; f++)
        n += safetensors_count(c->file[f]);
    struct checks all = { .tensor = ARENA_NEW(v->arena, const struct safetensor *, n) };
    n = 0;
    for (int64_t f = 0; f < c->n_files; f++)
        for (int64_t i = 0; i < safetensors_count(c->file[f]); i++)
            all.tensor[n++] = safetensors_at(c->file[f], i);
    check_all(v, &all, n, check_finite);
    ckpt_close(c);
}

static bool verify_all(struct verify *v, struct err *e)
{
    struct manifest m;
    struct err first = { 0 };
    const char *path = path_in(v->arena, v->dir, MANIFEST_NAME);
    if (!file_exists(path))
        return err_code(e, EXIT_CORRUPT, "%s: missing: not a complete checkpoint", path);
    if (manifest_read(v->arena, path, &m, &first)) {
        check_files(v, &m);
        check_strangers(v, &m);
        if (v->n_problems == 0)
            check_tensors(v);
    } else {
        found(v, &first);
    }
    return v->n_problems == 0 || err_code(e, EXIT_CORRUPT, "%s: %lld problem%s found", v->dir,
                                          (long long)v->n_problems, v->n_problems == 1 ? "" : "s");
}

bool ckpt_verify(const char *dir, void (*report)(const char *line), struct err *e)
{
    struct arena *a = arena_new("verify");
    struct verify v = { a, without_slashes(a, dir), report, 0 };
    const bool sound = verify_all(&v, e);
    arena_free(a);
    return sound;
}
