/* ckpt_export.c - merge (one file set with optimizer state) and export (a clean model directory). Everything is
 * streamed from the maps of the source. */
#include "ckpt/ckpt_impl.h"
#include <string.h>

struct target { /* while one directory is written */
    struct arena *arena;
    const struct ckpt *from;
    const char *temporary;
    int dtype;               /* < 0 = as stored */
    struct safetensor *list; /* of the model */
    struct shards shards;
    struct manifest manifest;
};

/* Same dtype: the bytes as they are. */
static bool put_bytes(const struct target *x, const struct safetensor *t, struct safetensors_writer *w,
                      struct err *e)
{
    (void)x;
    return safetensors_put(w, t->data, t->bytes, e);
}

/* From the exact weights where the checkpoint has them, so that a wider dtype gains precision. */
static bool put_converted(const struct target *x, int64_t tensor, struct safetensors_writer *w, struct err *e)
{
    const struct safetensor *t = x->from->tensor[tensor];
    const bool exact = x->from->manifest && t->dtype != F32 && !is_buffer(t->name);
    float chunk[4096];
    for (int64_t at = 0, n; at < t->n_elements; at += n) {
        const int64_t most = (int64_t)(sizeof chunk / sizeof *chunk), left = t->n_elements - at;
        n = left < most ? left : most;
        const struct state_run s =
            exact ? ckpt_state_run(x->from, tensor, MASTER, at, n) : (struct state_run){ NULL, at, n };
        n = s.n;
        if (!safetensors_floats(s.range ? s.range->data : t, s.at, n, chunk, e) ||
            !put_floats(w, t->name, chunk, at, n, x->list[tensor].dtype, e))
            return false;
    }
    return true;
}

static bool put_tensor_of(void *context, int64_t tensor, struct safetensors_writer *w, struct err *e)
{
    const struct target *x = context;
    const struct safetensor *t = x->from->tensor[tensor];
    return x->list[tensor].dtype_name == t->dtype_name || !strcmp(x->list[tensor].dtype_name, t->dtype_name)
               ? put_bytes(x, t, w, e)
               : put_converted(x, tensor, w, e);
}

static void plan_model(struct target *x, int64_t max_shard_bytes)
{
    const struct ckpt *c = x->from;
    x->list = ARENA_NEW(x->arena, struct safetensor, c->n);
    for (int64_t i = 0; i < c->n; i++) {
        const struct safetensor *t = c->tensor[i];
        const bool convert = x->dtype >= 0 && safetensors_is_float(t) && !is_buffer(t->name);
        x->list[i] = convert ? safetensors_entry(t->name, (enum dtype)x->dtype, t->n_dims, t->shape) : *t;
    }
    shards_plan(x->arena, x->list, c->n, NULL, 1, max_shard_bytes, &x->shards);
}

static bool write_model(struct target *x, struct err *e)
{
    return shards_write(x->arena, x->temporary, x->list, &x->shards, 0, put_tensor_of, x, &x->manifest, e);
}

/* The floats of a kind of state of a tensor, in the order of the tensor. */
static bool put_state(const struct ckpt *c, int64_t tensor, enum state_kind kind,
                      struct safetensors_writer *w, struct err *e)
{
    const int64_t n = c->tensor[tensor]->n_elements;
    for (int64_t at = 0; at < n;) {
        const struct state_run r = ckpt_state_run(c, tensor, kind, at, n - at);
        if (!safetensors_put(w, r.range->data->data + r.at * 4, (size_t)r.n * 4, e))
            return false;
        at += r.n;
    }
    return true;
}

/* Every state in order: the ranges of one tensor and kind make one tensor, but codes stay apart. */
static bool put_states(const struct ckpt *c, struct safetensors_writer *w, struct err *e)
{
    for (int64_t i = 0; i < c->n_states; i++) {
        const struct state_range *s = &c->state[i];
        if (s->data->dtype == U8 ? !safetensors_put(w, s->data->data, s->data->bytes, e)
                                 : s->begin == 0 && !put_state(c, s->tensor, s->kind, w, e))
            return false;
    }
    return true;
}

/* What the range that begins a tensor's state becomes; a range of codes stays what it is, since its blocks begin
 * where they do. */
static struct safetensor merged_entry(struct arena *a, const struct ckpt *c, const struct state_range *s)
{
    const struct safetensor *t = c->tensor[s->tensor];
    const struct state_name name = { .tensor = t->name, .kind = s->kind, .end = -1 };
    return s->data->dtype == U8 ? *s->data
                                : safetensors_entry(state_name_print(a, &name), F32, t->n_dims, t->shape);
}

static bool write_states(struct target *x, struct err *e)
{
    const struct ckpt *c = x->from;
    uint64_t bytes, hash;
    int64_t n = 0;
    struct safetensor *list = ARENA_NEW(x->arena, struct safetensor, c->n_states);
    for (int64_t i = 0; i < c->n_states; i++)
        if (c->state[i].data->dtype == U8 || c->state[i].begin == 0)
            list[n++] = merged_entry(x->arena, c, &c->state[i]);
    const char *name = optimizer_file(x->arena, 0, 1);
    struct safetensors_writer *w = safetensors_create(path_in(x->arena, x->temporary, name), list, n, e);
    if (!w)
        return false;
    if (!put_states(c, w, e)) {
        safetensors_drop(w);
        return false;
    }
    if (!safetensors_publish(w, &bytes, &hash, e))
        return false;
    manifest_add(x->arena, &x->manifest, name, bytes, hash);
    return true;
}

static bool write_merged(struct target *x, struct err *e)
{
    struct arena *a = x->arena;
    const char *dir = x->temporary;
    return write_model(x, e) && write_states(x, e) && shards_write_index(a, dir, x->list, &x->shards, e) &&
           manifest_add_file(a, &x->manifest, dir, INDEX_NAME, e) &&
           copy_model_texts(a, x->from->dir, dir, NULL, &x->manifest, e) &&
           file_write(path_in(a, dir, STATE_NAME), x->from->train_state, strlen(x->from->train_state), e) &&
           manifest_add_file(a, &x->manifest, dir, STATE_NAME, e) &&
           manifest_write(path_in(a, dir, MANIFEST_NAME), &x->manifest, e);
}

static bool write_config(struct target *x, struct err *e)
{
    static const char *const names[DTYPES] = { [F32] = "float32", [BF16] = "bfloat16", [F16] = "float16" };
    size_t bytes;
    const char *path = path_in(x->arena, x->from->dir, "config.json");
    const char *text = file_read(x->arena, path, max_text_bytes, &bytes, e);
    if (text)
        text = replace_torch_dtype(x->arena, text, &bytes, path, names[x->dtype], e);
    return text && file_write(path_in(x->arena, x->temporary, "config.json"), text, bytes, e);
}

/* One shard has the name without numbers and needs no index: the convention of Hugging Face. */
static bool write_exported(struct target *x, struct err *e)
{
    if (x->shards.n == 1)
        x->shards.name[0] = SINGLE_NAME;
    return write_model(x, e) &&
           (x->shards.n == 1 || shards_write_index(x->arena, x->temporary, x->list, &x->shards, e)) &&
           copy_model_texts(x->arena, x->from->dir, x->temporary, x->dtype >= 0 ? "config.json" : NULL, NULL,
                            e) &&
           (x->dtype < 0 || write_config(x, e));
}

static bool is_free(struct arena *a, const char *to, struct err *e)
{
    int64_t n = 0;
    if (!file_exists(to))
        return true;
    if (!file_is_dir(to))
        return err_code(e, EXIT_USAGE, "%s: is a file, expected a directory to make", to);
    if (!file_list(a, to, &n, e))
        return false;
    return n == 0 ||
           err_code(e, EXIT_USAGE, "%s: is there already and not empty, expected a new directory", to);
}

typedef bool write_target(struct target *x, struct err *e);

/* Writes beside `to` and renames at the end; on an error nothing is left. */
static bool write_directory(struct target *x, const char *to, write_target *write, struct err *e)
{
    const char *final = without_slashes(x->arena, to);
    struct err ignored = { 0 };
    if (!is_free(x->arena, final, e))
        return false;
    x->temporary = arena_printf(x->arena, "%s.moec-tmp", final);
    const bool written = file_remove_tree(x->temporary, e) && file_mkdirs(x->temporary, e) && write(x, e) &&
                         file_sync_dir(x->temporary, e) && file_rename(x->temporary, final, e);
    if (!written)
        file_remove_tree(x->temporary, &ignored);
    return written;
}

static bool convert(const char *from, const char *to, int dtype, int64_t max_shard_bytes, write_target *write,
                    struct err *e)
{
    struct arena *a = arena_new("export");
    struct target x = {
        .arena = a, .from = ckpt_open(a, from, e), .dtype = dtype, .manifest = { .n_ranks = 1 }
    };
    bool done = x.from != NULL;
    if (done && x.from->n == 0)
        done = err_set(e, "%s: holds no weights", from);
    if (done && write == write_merged && !x.from->manifest)
        done =
            err_set(e, "%s: no %s: it holds a model, but no optimizer state to merge", from, MANIFEST_NAME);
    if (done) {
        plan_model(&x, max_shard_bytes);
        done = write_directory(&x, to, write, e);
    }
    ckpt_close((struct ckpt *)x.from);
    arena_free(a);
    return done;
}

bool ckpt_merge(const char *from, const char *to, int64_t max_shard_bytes, struct err *e)
{
    return convert(from, to, -1, max_shard_bytes, write_merged, e);
}

bool ckpt_export(const char *from, const char *to, int dtype, int64_t max_shard_bytes, struct err *e)
{
    CHECK(dtype < 0 || dtype == F32 || dtype == BF16 || dtype == F16, "dtype %d", dtype);
    return convert(from, to, dtype, max_shard_bytes, write_exported, e);
}
