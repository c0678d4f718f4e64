/* checkpoint_parts_fuzz.c - the readers inside a checkpoint. The first byte chooses the reader: manifest, index,
 * names of optimizer tensors, torch_dtype in config.json, or an optimizer file beside a fixed model. */
#include "base/json.h"
#include "ckpt/ckpt_impl.h"
#include "tests/fuzz/fuzz.h"

static void read_manifest(struct arena *a, const char *text, size_t bytes)
{
    struct manifest m;
    struct err e = { 0 };
    const bool read = manifest_parse(a, text, bytes, MANIFEST_NAME, &m, &e);
    fuzz_outcome(read, &e);
    for (int64_t i = 0; read && i < m.n; i++) {
        fuzz_expect(m.file[i].bytes >= 0 && !strchr(m.file[i].name, '/'), "a file beside the manifest");
        fuzz_expect(manifest_find(&m, m.file[i].name) == &m.file[i], "every file once");
    }
}

static void read_index(struct arena *a, const char *text, size_t bytes)
{
    struct index x;
    struct err e = { 0 };
    const bool read = index_parse(a, text, bytes, INDEX_NAME, &x, &e);
    fuzz_outcome(read, &e);
    for (int64_t i = 0; read && i < x.n; i++) {
        fuzz_expect(x.file_of[i] >= 0 && x.file_of[i] < x.n_files, "a file for every tensor");
        fuzz_expect(name_table_find(&x.names, x.tensor[i]) == i, "every tensor once");
    }
}

static void read_name(struct arena *a, const char *text)
{
    struct state_name s;
    if (state_name_parse(a, text, &s))
        fuzz_expect(!strcmp(state_name_print(a, &s), text), "a name is printed as it was read");
}

static void replace_dtype(struct arena *a, const char *text, size_t bytes)
{
    struct err e = { 0 };
    struct json *before = json_parse(text, bytes, "config.json", &e), *after = NULL;
    const char *out = replace_torch_dtype(a, text, &bytes, "config.json", "float16", &e);
    fuzz_outcome(out != NULL, &e);
    if (out)
        after = json_parse(out, bytes, "config.json", &e);
    fuzz_expect((after != NULL) == (before != NULL), "JSON stays JSON");
    if (before && json_type(json_get(json_root(before), "torch_dtype")) == JSON_STRING)
        fuzz_expect(!strcmp(json_string(json_get(json_root(after), "torch_dtype"), NULL), "float16"),
                    "the new dtype");
    json_free(before);
    json_free(after);
}

/* A model of a [3, 2] in BF16 and b [4] in F32, and an optimizer file from the input. */
static void read_states(struct arena *a, const char *text, size_t bytes)
{
    static const int64_t a_shape[] = { 3, 2 }, b_shape[] = { 4 };
    struct safetensor model[] = { safetensors_entry("a", BF16, 2, a_shape),
                                  safetensors_entry("b", F32, 1, b_shape) };
    const struct safetensor *tensor[] = { &model[0], &model[1] };
    struct err e = { 0 };
    size_t n = bytes;
    while (n > 0 && text[n - 1] != '}')
        n--;
    unsigned char *file = arena_alloc(a, bytes + 8);
    for (int i = 0; i < 8; i++)
        file[i] = (unsigned char)((uint64_t)n >> 8 * i & 0xff);
    memcpy(file + 8, text, bytes);
    struct safetensors *s = safetensors_parse(a, file, bytes + 8, "optimizer.safetensors", &e);
    fuzz_outcome(s != NULL, &e);
    if (!s)
        return;
    struct ckpt c = { .arena = a, .dir = "dir", .n_files = 1, .file = &s, .n = 2, .tensor = tensor };
    c.names = name_table_new(a, 2);
    name_table_add(&c.names, "a", 0);
    name_table_add(&c.names, "b", 1);
    static const float values[256] = { [7] = 1 };
    ckpt_set_values(&c, values, values);
    const bool complete = ckpt_index_states(&c, &e);
    fuzz_outcome(complete, &e);
    for (int t = 0; complete && t < 2; t++)
        for (int k = 0; k < (t ? MASTER : STATE_KINDS); k++)
            for (int64_t i = 0; i < model[t].n_elements; i++) {
                const struct state_range *r = ckpt_state_at(&c, t, (enum state_kind)k, i);
                const int64_t count = r->end - r->begin;
                float x;
                struct err bad = { 0 };
                fuzz_expect(r->begin <= i && i < r->end &&
                                r->data->n_elements ==
                                    count + (r->data->dtype == U8 ? 4 * blocks_of(r->skip, count) : 0),
                            "every element once");
                fuzz_outcome(state_floats(&c, r, i - r->begin, 1, &x, &bad), &bad);
                const struct state_run run = ckpt_state_run(&c, t, (enum state_kind)k, i, 3);
                fuzz_expect(run.n > 0 && run.n <= 3 && run.at >= 0 &&
                                run.at + run.n <= run.range->end - run.range->begin,
                            "a run inside its range");
            }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (bytes == 0)
        return 0;
    struct arena *a = arena_new("fuzz");
    const char *text = arena_strndup(a, (const char *)data + 1, bytes - 1);
    switch (data[0] % 5) {
    case 0:
        read_manifest(a, text, bytes - 1);
        break;
    case 1:
        read_index(a, text, bytes - 1);
        break;
    case 2:
        read_name(a, text);
        break;
    case 3:
        replace_dtype(a, text, bytes - 1);
        break;
    default:
        read_states(a, text, bytes - 1);
        break;
    }
    arena_free(a);
    return 0;
}
