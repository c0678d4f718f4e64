/* ckpt_shards.c - tensors cut into files of a Hugging Face directory, the index, and what is copied beside them. */
#include "base/json.h"
#include "base/str.h"
#include "ckpt/ckpt_impl.h"
#include <math.h>
#include <string.h>

/* Shard of every tensor, counted through the owners; returns how many there are. */
static int64_t cut(const struct safetensor *list, int64_t n, const int *owner, int n_owners,
                   int64_t max_shard_bytes, struct shards *s, int64_t *shard)
{
    int64_t n_shards = 0;
    for (int r = 0; r < n_owners; r++) {
        int64_t bytes = 0;
        bool open = false;
        s->first[r] = n_shards;
        for (int64_t i = 0; i < n; i++) {
            if (owner && owner[i] != r)
                continue;
            if (!open || bytes > max_shard_bytes - (int64_t)list[i].bytes) {
                n_shards++;
                bytes = 0;
            }
            open = true;
            bytes += (int64_t)list[i].bytes;
            shard[i] = n_shards - 1;
        }
    }
    s->first[n_owners] = n_shards;
    return n_shards;
}

void shards_plan(struct arena *a, const struct safetensor *list, int64_t n, const int *owner, int n_owners,
                 int64_t max_shard_bytes, struct shards *out)
{
    int64_t *shard = ARENA_NEW(a, int64_t, n);
    *out = (struct shards){ .first = ARENA_NEW(a, int64_t, n_owners + 1) };
    const int64_t n_shards = out->n = cut(list, n, owner, n_owners, max_shard_bytes, out, shard);
    out->begin = ARENA_NEW(a, int64_t, n_shards + 2);
    out->order = ARENA_NEW(a, int64_t, n);
    out->name = ARENA_NEW(a, const char *, n_shards);
    for (int64_t i = 0; i < n; i++)
        out->begin[shard[i] + 2]++;
    for (int64_t s = 0; s < n_shards; s++)
        out->begin[s + 2] += out->begin[s + 1];
    for (int64_t i = 0; i < n; i++)
        out->order[out->begin[shard[i] + 1]++] = i;
    for (int64_t s = 0; s < n_shards; s++)
        out->name[s] =
            arena_printf(a, "model-%05lld-of-%05lld.safetensors", (long long)s + 1, (long long)n_shards);
}

bool shards_write_one(struct arena *a, const char *dir, const struct safetensor *list, const struct shards *s,
                      int64_t shard, put_tensor *put, void *context, struct manifest *m, struct err *e)
{
    const char *path = path_in(a, dir, s->name[shard]);
    const int64_t *order = s->order + s->begin[shard], n = s->begin[shard + 1] - s->begin[shard];
    uint64_t bytes, hash;
    struct safetensor *mine = ARENA_NEW(a, struct safetensor, n);
    for (int64_t i = 0; i < n; i++)
        mine[i] = list[order[i]];
    struct safetensors_writer *w = safetensors_create(path, mine, n, e);
    if (!w)
        return false;
    for (int64_t i = 0; i < n; i++)
        if (!put(context, order[i], w, e)) {
            safetensors_drop(w);
            return false;
        }
    if (!safetensors_publish(w, &bytes, &hash, e))
        return false;
    if (m)
        manifest_add(a, m, s->name[shard], bytes, hash);
    return true;
}

bool shards_write(struct arena *a, const char *dir, const struct safetensor *list, const struct shards *s,
                  int owner, put_tensor *put, void *context, struct manifest *m, struct err *e)
{
    for (int64_t i = s->first[owner]; i < s->first[owner + 1]; i++)
        if (!shards_write_one(a, dir, list, s, i, put, context, m, e))
            return false;
    return true;
}

bool shards_write_index(struct arena *a, const char *dir, const struct safetensor *list,
                        const struct shards *s, struct err *e)
{
    struct str text = str_new(a, max_text_bytes);
    int64_t n = s->begin[s->n];
    uint64_t total_bytes = 0;
    const char **file = ARENA_NEW(a, const char *, n);
    for (int64_t i = 0; i < s->n; i++)
        for (int64_t k = s->begin[i]; k < s->begin[i + 1]; k++)
            file[s->order[k]] = s->name[i];
    for (int64_t i = 0; i < n; i++)
        total_bytes += list[i].bytes;
    str_addf(&text, "{\n  \"metadata\": {\n    \"total_size\": %llu\n  },\n  \"weight_map\": {",
             (unsigned long long)total_bytes);
    for (int64_t i = 0; i < n; i++) {
        str_add(&text, i ? ",\n    " : "\n    ");
        str_add_json(&text, list[i].name, strlen(list[i].name));
        str_addf(&text, ": \"%s\"", file[i]);
    }
    str_add(&text, "\n  }\n}\n");
    return file_write(path_in(a, dir, INDEX_NAME), text.text, text.bytes, e);
}

static bool read_index(struct arena *a, const struct json *j, struct index *x, struct err *e)
{
    jval map;
    if (!json_want_object(j, json_root(j), "weight_map", &map, e))
        return false;
    const int64_t n = x->n = json_count(map);
    x->tensor = ARENA_NEW(a, const char *, n);
    x->file = ARENA_NEW(a, const char *, n);
    x->file_of = ARENA_NEW(a, int64_t, n);
    x->names = name_table_new(a, n);
    struct name_table files = name_table_new(a, n);
    for (int64_t i = 0; i < n; i++) {
        const char *key, *file;
        json_entry(map, i, &key);
        if (!json_want_string(j, map, key, &file, e))
            return false;
        if (!is_plain_name(file))
            return json_err(j, map, key, e, "'%.80s' is not the name of a file beside this one", file);
        x->tensor[i] = arena_strdup(a, key);
        name_table_add(&x->names, x->tensor[i], i);
        const char *name = arena_strdup(a, file);
        x->file_of[i] = name_table_add(&files, name, x->n_files);
        if (x->file_of[i] >= 0)
            continue;
        x->file_of[i] = x->n_files;
        x->file[x->n_files++] = name;
    }
    return true;
}

bool index_parse(struct arena *a, const char *text, size_t bytes, const char *path, struct index *x,
                 struct err *e)
{
    *x = (struct index){ 0 };
    struct json *j = json_parse(text, bytes, path, e);
    const bool parsed = j && read_index(a, j, x, e);
    json_free(j);
    return parsed;
}

/* The first element that is not finite, before or after rounding to t; -1 = none. `back` is for n floats. */
static int64_t first_bad(const float *x, const void *stored, enum dtype t, float *back, int64_t n)
{
    const int64_t bad = num_first_nonfinite(x, n);
    if (bad >= 0 || t == F32)
        return bad;
    num_to_float(back, stored, t, n);
    return num_first_nonfinite(back, n);
}

static bool cannot_store(const char *tensor, int64_t element, float x, enum dtype t, struct err *e)
{
    return err_code(e, EXIT_NONFINITE, "tensor %s: element %lld is %g, which %s cannot store", tensor,
                    (long long)element, (double)x, isfinite(x) ? num_dtype_name(t) : "a checkpoint");
}

bool put_floats(struct safetensors_writer *w, const char *tensor, const float *x, int64_t first, int64_t n,
                enum dtype t, struct err *e)
{
    uint16_t stored[4096];
    float back[4096];
    const int64_t most = t == F32 ? CHUNK : (int64_t)(sizeof back / sizeof *back);
    for (int64_t i = 0; i < n; i += most) {
        const int64_t k = n - i < most ? n - i : most;
        if (t != F32)
            num_from_float(stored, x + i, t, k);
        const int64_t bad = first_bad(x + i, stored, t, back, k);
        if (bad >= 0)
            return cannot_store(tensor, first + i + bad, x[i + bad], t, e);
        if (!safetensors_put(w, t == F32 ? (const void *)(x + i) : stored, (size_t)k * num_dtype_bytes(t), e))
            return false;
    }
    return true;
}

bool copy_model_texts(struct arena *a, const char *from, const char *to, const char *skip, struct manifest *m,
                      struct err *e)
{
    int64_t n;
    char **names = file_list(a, from, &n, e);
    for (int64_t i = 0; names && i < n; i++) {
        const char *path = path_in(a, from, names[i]);
        if (!is_model_text(names[i]) || file_is_dir(path) || (skip && !strcmp(skip, names[i])))
            continue;
        if (!file_copy(path, path_in(a, to, names[i]), e) || (m && !manifest_add_file(a, m, to, names[i], e)))
            return false;
    }
    return names != NULL;
}
