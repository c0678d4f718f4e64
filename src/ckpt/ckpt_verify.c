/* ckpt_verify.c - is a checkpoint what was written: sizes, checksums, structure, finite values. */
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

static void check_files(struct verify *v, const struct manifest *m)
{
    struct err e = { 0 };
    for (int64_t i = 0; i < m->n; i++) {
        const size_t mark = arena_mark(v->arena);
        if (!manifest_check_file(v->arena, v->dir, &m->file[i], true, &e))
            found(v, &e);
        arena_reset(v->arena, mark);
    }
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

static void check_finite(struct verify *v, const struct safetensor *t, float *chunk)
{
    struct err e = { 0 };
    if (!safetensors_is_float(t))
        return;
    for (int64_t at = 0; at < t->n_elements; at += CHUNK)
        if (!safetensors_floats(t, at, t->n_elements - at < CHUNK ? t->n_elements - at : CHUNK, chunk, &e)) {
            found(v, &e);
            return;
        }
}

static void check_tensors(struct verify *v)
{
    struct err e = { 0 };
    float *chunk = ARENA_NEW(v->arena, float, CHUNK);
    struct ckpt *c = ckpt_open(v->arena, v->dir, &e);
    if (!c) {
        found(v, &e);
        return;
    }
    for (int64_t i = 0; i < c->n_states; i++)
        if (!state_check_scales(&c->state[i], &e))
            found(v, &e);
    for (int64_t f = 0; f < c->n_files; f++)
        for (int64_t i = 0; i < safetensors_count(c->file[f]); i++)
            check_finite(v, safetensors_at(c->file[f], i), chunk);
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
