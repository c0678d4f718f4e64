/* ckpt_bad_test.c - damaged, incomplete and contradictory directories: each gives one line that names the place. */
#include "tests/ckpt_fixture.h"
#include <unistd.h>

static const char *save_small(struct fixture *f, const char *name)
{
    struct err e = { 0 };
    const char *dir = in_test_dir(f->arena, name);
    EXPECTF(save(f, job_of(f, dir, "{\"step\": 7}", 2, holdings(f, 2, 2, true, false), 600), 0, &e), "%s",
            e.text);
    return dir;
}

/* The error of opening and matching; "" when there is none. */
static const char *verdict(struct fixture *f, const char *dir, int *code)
{
    struct err e = { 0 };
    struct ckpt *c = ckpt_open(f->arena, dir, &e);
    if (c && ckpt_match(c, &f->params, &e) && c->manifest)
        for (int i = 0; i < f->params.n && !e.text[0]; i++) {
            const int64_t n = f->params.item[i].n_elements;
            float *x = ARENA_NEW(f->arena, float, n);
            (void)(ckpt_read_weight(c, &f->params.item[i], 0, n, x, &e) &&
                   ckpt_read_state(c, &f->params.item[i], 0, n, x, x, x, &e));
        }
    ckpt_close(c);
    EXPECT((e.code != 0) == (e.text[0] != 0));
    if (code)
        *code = e.code;
    return arena_strdup(f->arena, e.text);
}

#define EXPECT_VERDICT(dir, part)                                                                            \
    do {                                                                                                     \
        const char *verdict_ = verdict(&f, dir, NULL);                                                       \
        EXPECTF(strstr(verdict_, part), "got '%s', expected '%s'", verdict_, part);                          \
    } while (0)

TEST(every_flipped_bit_is_found)
{
    struct fixture f;
    struct err e = { 0 };
    int64_t n;
    fixture_new(&f, BF16);
    const char *dir = save_small(&f, "flip");
    char **names = file_list(f.arena, dir, &n, &e);
    EXPECT(names && n > 8 && verifies(dir));
    for (int64_t i = 0; names && i < n; i++) {
        size_t bytes;
        const char *path = path_in(f.arena, dir, names[i]);
        unsigned char *data = (unsigned char *)file_read(f.arena, path, 1 << 20, &bytes, &e);
        const size_t step = bytes < 2000 ? 7 : bytes / 31 + 1;
        for (size_t at = 0; data && at < bytes; at += step) {
            const unsigned char flip = (unsigned char)(1 << at % 8);
            data[at] ^= flip;
            EXPECT(file_write(path, data, bytes, &e));
            EXPECTF(!verifies(dir), "%s: byte %zu with %02x flipped passes", names[i], at, flip);
            EXPECTF(strstr(problems, dir), "'%s' does not name the file", problems);
            data[at] ^= flip;
        }
        EXPECT(data && file_write(path, data, bytes, &e) && verifies(dir));
    }
    EXPECT_TEXT(e.text, "");
    arena_free(f.arena);
}

TEST(every_truncated_or_missing_file_is_found)
{
    struct fixture f;
    struct err e = { 0 };
    int64_t n;
    int code;
    fixture_new(&f, F16);
    const char *dir = save_small(&f, "cut");
    char **names = file_list(f.arena, dir, &n, &e);
    for (int64_t i = 0; names && i < n; i++) {
        size_t bytes;
        const char *path = path_in(f.arena, dir, names[i]);
        const char *data = file_read(f.arena, path, 1 << 20, &bytes, &e);
        const size_t cuts[] = { 0, 1, 7, 9, bytes / 3, bytes / 2, bytes - 1 };
        const bool manifest = !strcmp(names[i], MANIFEST_NAME); /* its last newline says nothing */
        for (int k = 0; data && k < 7 - manifest && cuts[k] < bytes; k++) {
            EXPECT(file_write(path, data, cuts[k], &e));
            EXPECTF(!verifies(dir), "%s cut to %zu of %zu bytes passes", names[i], cuts[k], bytes);
            EXPECTF(verdict(&f, dir, &code)[0] && code == EXIT_CORRUPT, "%s cut to %zu bytes opens, code %d",
                    names[i], cuts[k], code);
        }
        EXPECT(unlink(path) == 0);
        EXPECTF(!verifies(dir), "verifies without %s", names[i]);
        const char *text = verdict(&f, dir, &code);
        EXPECTF(strstr(text, names[i]) && code == EXIT_CORRUPT, "without %s: '%s', code %d", names[i], text,
                code);
        EXPECT(data && file_write(path, data, bytes, &e) && verifies(dir));
    }
    EXPECT(file_write(path_in(f.arena, dir, "model-00009-of-00009.safetensors"), "", 0, &e));
    EXPECT(!verifies(dir) &&
           strstr(problems, "model-00009-of-00009.safetensors: not listed in checkpoint.json"));
    arena_free(f.arena);
}

/* Makes the manifest fit the files again, so that what lies behind it is tested. */
static void sign_again(struct arena *a, const char *dir)
{
    struct err e = { 0 };
    struct manifest m, fresh = { 0 };
    const char *path = path_in(a, dir, MANIFEST_NAME);
    EXPECT(manifest_read(a, path, &m, &e));
    fresh.n_ranks = m.n_ranks;
    for (int64_t i = 0; i < m.n; i++)
        EXPECT(manifest_add_file(a, &fresh, dir, m.file[i].name, &e));
    EXPECTF(manifest_write(path, &fresh, &e), "%s", e.text);
}

/* Replaces a text in a file by one of the same length. */
static void edit(struct arena *a, const char *dir, const char *name, const char *from, const char *to)
{
    struct err e = { 0 };
    size_t bytes;
    const char *path = path_in(a, dir, name);
    char *data = file_read(a, path, 1 << 20, &bytes, &e);
    char *at = data ? memmem(data, bytes, from, strlen(from)) : NULL;
    EXPECTF(at && strlen(from) == strlen(to), "%s: no '%s'", path, from);
    for (size_t i = 0; at && to[i]; i++)
        at[i] = to[i];
    EXPECT(data && file_write(path, data, bytes, &e));
}

TEST(optimizer_state_must_fit_the_model)
{
    static const struct {
        const char *file, *from, *to, *text;
    } cases[] = {
        { "optimizer-00001-of-00002.safetensors", "lm_head.weight.exp_avg[0:69]",
          "lm_head.weight.exp_avg[1:70]", "lm_head.weight.exp_avg: elements 0 to 1 are in no file" },
        { "optimizer-00002-of-00002.safetensors", "lm_head.weight.exp_avg[69:138]",
          "lm_head.weight.exp_avg[68:137]",
          "tensor lm_head.weight.exp_avg[68:137]: overlaps lm_head.weight.exp_avg[0:69] of optimizer-00001" },
        { "optimizer-00002-of-00002.safetensors", "lm_head.weight.exp_avg[69:138]",
          "lm_head.weight.exp_avg[70:139]", "passes the end of the tensor, which has 138 elements" },
        { "optimizer-00001-of-00002.safetensors", "lm_head.weight.exp_avg[0:69]",
          "lm_head.weight.exp_avg[0:68]", "shape [69], expected [68]" },
        { "optimizer-00001-of-00002.safetensors", "lm_head.weight.exp_avg[", "lm_heat.weight.exp_avg[",
          "the model has no tensor lm_heat.weight" },
        { "optimizer-00001-of-00002.safetensors", "lm_head.weight.exp_avg[0:69]",
          "lm_head.weight.exp_avh[0:69]", "expected a name that ends in .exp_avg, .exp_avg_sq or .master" },
        { "optimizer-00001-of-00002.safetensors", "lm_head.weight.exp_avg[0:69]\":{\"dtype\":\"F32\"",
          "lm_head.weight.exp_avg[0:69]\":{\"dtype\":\"I32\"", "dtype I32, expected F32" },
        { "optimizer-00001-of-00002.safetensors", "lm_head.weight.exp_avg[0:69]",
          "model.layers.0.norm.weight.x", "expected a name that ends in" },
        { "model.safetensors.index.json", "\"lm_head.weight\"", "\"lm_heat.weight\"",
          "tensor lm_heat.weight: missing" },
        { "checkpoint.json", "\"ranks\": 2", "\"ranks\": 3",
          "optimizer-00001-of-00003.safetensors: missing" },
        { "checkpoint.json", "\"version\": 3", "\"version\": 4",
          "version: 4, this program reads versions 1 to 3" },
        { "checkpoint.json", "tokenizer.json", "./kenizer.json",
          "name: './kenizer.json' is not the name of a file" },
        { "checkpoint.json", "train_state.json", "train_stats.json", "train_stats.json: missing" },
    };
    struct fixture f;
    fixture_new(&f, BF16);
    for (int i = 0; i < (int)(sizeof cases / sizeof *cases); i++) {
        int code;
        const char *dir = save_small(&f, arena_printf(f.arena, "fit-%d", i));
        edit(f.arena, dir, cases[i].file, cases[i].from, cases[i].to);
        if (strcmp(cases[i].file, MANIFEST_NAME) != 0)
            sign_again(f.arena, dir);
        const char *text = verdict(&f, dir, &code);
        EXPECTF(strstr(text, cases[i].text), "got '%s', expected '%s'", text, cases[i].text);
        EXPECT_INT(code, EXIT_CORRUPT);
        EXPECT(!verifies(dir));
    }
    arena_free(f.arena);
}

TEST(a_rank_without_state_is_a_hole)
{
    struct fixture f;
    struct err e = { 0 };
    uint64_t bytes, hash;
    fixture_new(&f, BF16);
    const char *dir = save_small(&f, "hole");
    struct safetensors_writer *w =
        safetensors_create(path_in(f.arena, dir, optimizer_file(f.arena, 1, 2)), NULL, 0, &e);
    EXPECT(w && safetensors_publish(w, &bytes, &hash, &e));
    sign_again(f.arena, dir);
    EXPECT_VERDICT(dir, "hole: lm_head.weight.exp_avg: elements 69 to 138 are in no file");
    arena_free(f.arena);
}

TEST(nan_in_a_file_names_tensor_and_element)
{
    struct fixture f;
    struct err e = { 0 };
    size_t bytes;
    fixture_new(&f, BF16);
    const char *dir = save_small(&f, "nan");
    struct ckpt *c = ckpt_open(f.arena, dir, &e);
    const struct safetensor *t = ckpt_tensor(c, "model.layers.10.o_proj.weight");
    const char *path = t->path;
    unsigned char *data = (unsigned char *)file_read(f.arena, path, 1 << 20, &bytes, &e);
    unsigned char *found = memmem(data, bytes, t->data, t->bytes);
    found[2 * 17] = 0xc0;
    found[2 * 17 + 1] = 0x7f;
    ckpt_close(c);
    EXPECT(file_write(path, data, bytes, &e));
    sign_again(f.arena, dir);
    EXPECT_VERDICT(dir, "tensor model.layers.10.o_proj.weight: element 17 is nan, expected a finite number");
    EXPECT(!verifies(dir) && strstr(problems, "element 17 is nan"));
    arena_free(f.arena);
}

TEST(values_that_cannot_be_stored_are_refused)
{
    static const struct {
        enum dtype stored;
        float x;
        const char *text;
    } cases[] = { { F16, 70000, "is 70000, which F16 cannot store" },
                  { BF16, 3.4e38f, "which BF16 cannot store" },
                  { F32, NAN, "is nan, which a checkpoint cannot store" },
                  { F16, -INFINITY, "is -inf, which a checkpoint cannot store" } };
    for (int i = 0; i < 40; i++) {
        struct fixture f;
        struct err e = { 0 };
        fixture_new(&f, cases[i % 4].stored);
        f.piece_bytes = i < 4 ? 0 : 20; /* a piece each for the two, and threads: the first is told */
        f.n_threads = i < 4 ? 0 : 4;
        const char *dir = save_small(&f, arena_printf(f.arena, "store-%d/step-1", i)),
                   *last = path_in(f.arena, parent_of(f.arena, dir), "last");
        f.weight[0][77] = f.weight[0][90] = cases[i % 4].x;
        const struct ckpt_job job =
            job_of(&f, arena_printf(f.arena, "%s2", dir), "{}", 2, holdings(&f, 2, 2, true, false), 600);
        EXPECT(!save(&f, job, 1, &e));
        EXPECTF(strstr(e.text, cases[i % 4].text) &&
                    strstr(e.text, "tensor model.embed_tokens.weight: element 77 "),
                "%s", e.text);
        EXPECT_INT(e.code, EXIT_NONFINITE);
        EXPECT(verifies(last) && !file_exists(job.directory));
        arena_free(f.arena);
    }
}

TEST(a_rank_that_did_not_write_is_missed)
{
    struct fixture f;
    struct err e = { 0 };
    fixture_new(&f, BF16);
    const char *dir = save_small(&f, "rank/step-1");
    const struct ckpt_job job =
        job_of(&f, arena_printf(f.arena, "%s2", dir), "{}", 2, holdings(&f, 2, 2, true, false), 600);
    const struct ckpt_job mine = job_as(&f, job, 0);
    EXPECT(ckpt_begin(&job, &e) && ckpt_write(&mine, 0, &e));
    EXPECT(!ckpt_publish(&job, 1, &e) &&
           strstr(e.text, "sums-00002.json: missing: rank 1 has not written its part"));
    EXPECT(!file_exists(job.directory) && verifies(path_in(f.arena, parent_of(f.arena, dir), "last")));
    arena_free(f.arena);
}

TEST(a_file_that_shrank_is_missed)
{
    struct fixture f;
    struct err e = { 0 };
    fixture_new(&f, BF16);
    const char *dir = in_test_dir(f.arena, "shrank/step-1");
    const struct ckpt_job job = job_of(&f, dir, "{}", 1, holdings(&f, 1, 1, true, false), 600),
                          mine = job_as(&f, job, 0);
    EXPECT(ckpt_begin(&job, &e) && ckpt_write(&mine, 0, &e));
    EXPECT(truncate(path_in(f.arena, temporary_name(f.arena, dir), optimizer_file(f.arena, 0, 1)), 100) == 0);
    EXPECT(!ckpt_publish(&job, 1, &e) &&
           strstr(e.text, "optimizer-00001-of-00001.safetensors: 100 bytes, expected "));
    EXPECT(!file_exists(dir));
    arena_free(f.arena);
}

/* Rank 1 of 2 owns elements 69 to 137 of lm_head; its second range of states makes element 100 the 31st. */
TEST(state_that_is_not_finite_is_refused)
{
    struct fixture f;
    struct err e = { 0 };
    fixture_new(&f, F32);
    f.piece_bytes = 100; /* that element stands in a piece that begins behind its tensor */
    f.exp_avg_sq[7][100] = INFINITY;
    const struct ckpt_job job =
        job_of(&f, in_test_dir(f.arena, "moment/step-1"), "{}", 2, holdings(&f, 2, 2, true, false), 600);
    EXPECT(!save(&f, job, 1, &e));
    EXPECT_TEXT(
        e.text,
        "tensor lm_head.weight.exp_avg_sq[69:138]: element 31 is inf, which a checkpoint cannot store");
    e = (struct err){ 0 };
    f.exp_avg_sq[7][100] = 0;
    f.exp_avg[2][17] = NAN; /* the second part of its tensor, of which one rank owns all */
    const struct ckpt_job whole = job_of(&f, job.directory, "{}", 1, holdings(&f, 1, 1, true, false), 600);
    EXPECT(!save(&f, whole, 1, &e));
    EXPECTF(strstr(e.text, arena_printf(f.arena, "kv_a_proj_with_mqa.weight.exp_avg: element %d is nan",
                                        KV * D + 17)),
            "%s", e.text);
    arena_free(f.arena);
}

/* A model directory with an index and two shards, as other programs write it. */
static const char *exported(struct fixture *f, const char *name)
{
    struct err e = { 0 };
    const char *dir = save_small(f, arena_printf(f->arena, "%s-from", name)),
               *out = in_test_dir(f->arena, name);
    EXPECTF(ckpt_export(dir, out, -1, 800, &e), "%s", e.text);
    return out;
}

TEST(model_directories_that_contradict_themselves)
{
    struct fixture f;
    struct err e = { 0 };
    int code;
    fixture_new(&f, BF16);
    struct arena *a = f.arena;
    const char *dir = exported(&f, "hf"), *index = path_in(a, dir, INDEX_NAME);
    EXPECT_TEXT(verdict(&f, dir, &code), "");
    edit(a, dir, INDEX_NAME, "\"lm_head.weight\"", "\"lm_heat.weight\"");
    EXPECT_VERDICT(dir, "tensor lm_heat.weight: missing, model.safetensors.index.json lists it");
    edit(a, dir, INDEX_NAME, "\"lm_heat.weight\"", "\"lm_head.weight\"");
    const char *shard = path_in(a, dir, "model-00001-of-00002.safetensors"), *away = path_in(a, dir, "away");
    EXPECT(file_exists(shard) && rename(shard, away) == 0);
    EXPECT_VERDICT(dir, "model-00001-of-00002.safetensors: missing, model.safetensors.index.json lists it");
    EXPECT(rename(away, shard) == 0);
    edit(a, dir, INDEX_NAME, "model-00001-of-00002.safetensors", "../el-00001-of-00002.safetensors");
    EXPECT_VERDICT(dir, "is not the name of a file beside this one");
    edit(a, dir, INDEX_NAME, "../el-00001-of-00002.safetensors", "model-00001-of-00002.safetensors");
    EXPECT(file_copy(shard, path_in(a, dir, SINGLE_NAME), &e));
    EXPECT_VERDICT(dir,
                   "model.safetensors: lies beside model.safetensors.index.json, expected only one of them");
    EXPECT(rename(index, away) == 0);
    EXPECT_VERDICT(dir, "missing, expected by config.json"); /* the one shard by itself */
    EXPECT(unlink(path_in(a, dir, SINGLE_NAME)) == 0);
    EXPECT_VERDICT(dir, "safetensors: expected model.safetensors or model.safetensors.index.json beside it");
    EXPECT(rename(away, index) == 0);
    EXPECT(file_write(index, "{\"weight_map\": {}}", 18, &e));
    EXPECT_VERDICT(dir, "missing, expected by config.json");
    EXPECT(file_write(index, "{\"weight_map\": {\"a\": 1}}", 24, &e));
    EXPECT_VERDICT(dir, "expected a string");
    EXPECT(file_write(index, "[]", 2, &e));
    EXPECT_VERDICT(dir, "expected an object with the key 'weight_map'");
    EXPECT(unlink(path_in(a, dir, "config.json")) == 0);
    EXPECT_VERDICT(dir, "config.json: missing, expected in a model directory");
    EXPECT_VERDICT(in_test_dir(a, "nowhere"), "nowhere: not a directory");
    EXPECT_INT((verdict(&f, dir, &code), code), EXIT_INPUT);
    arena_free(f.arena);
}

/* One file with these names; every tensor BF16 of two elements. */
static void write_file(struct arena *a, const char *path, const char *const *names, int n)
{
    struct err e = { 0 };
    uint64_t bytes, hash;
    const int64_t two = 2;
    struct safetensor *list = ARENA_NEW(a, struct safetensor, n);
    for (int i = 0; i < n; i++)
        list[i] = safetensors_entry(names[i], BF16, 1, &two);
    struct safetensors_writer *w = safetensors_create(path, list, n, &e);
    for (int i = 0; w && i < n; i++)
        EXPECT(safetensors_put(w, "\0\0\0\0", 4, &e));
    EXPECT(w && safetensors_publish(w, &bytes, &hash, &e));
}

TEST(tensors_in_two_shards_or_unlisted)
{
    struct fixture f;
    struct err e = { 0 };
    fixture_new(&f, BF16);
    struct arena *a = f.arena;
    const char *dir = in_test_dir(a, "twice");
    static const char index[] = "{\"weight_map\": {\"a\": \"x.safetensors\", \"b\": \"y.safetensors\"}}";
    EXPECT(file_mkdirs(dir, &e) && file_write(path_in(a, dir, "config.json"), "{}", 2, &e) &&
           file_write(path_in(a, dir, INDEX_NAME), index, sizeof index - 1, &e));
    write_file(a, path_in(a, dir, "x.safetensors"), (const char *const[]){ "a" }, 1);
    write_file(a, path_in(a, dir, "y.safetensors"), (const char *const[]){ "b", "a" }, 2);
    EXPECT_VERDICT(dir, "tensor a: also in ");
    write_file(a, path_in(a, dir, "y.safetensors"), (const char *const[]){ "b", "c" }, 2);
    EXPECT_VERDICT(dir, "y.safetensors: tensor c: not listed in model.safetensors.index.json");
    write_file(a, path_in(a, dir, "y.safetensors"), (const char *const[]){ "c" }, 1);
    EXPECT_VERDICT(dir, "y.safetensors: tensor b: missing, model.safetensors.index.json lists it");
    arena_free(f.arena);
}

TEST(tensors_must_fit_the_parameters)
{
    struct fixture f;
    struct err e = { 0 };
    fixture_new(&f, BF16);
    const char *dir = exported(&f, "match");
    f.params.item[0].piece[0].shape[0]++;
    EXPECT_VERDICT(dir, "tensor model.embed_tokens.weight: shape [23, 6], expected [24, 6] from config.json");
    f.params.item[0].piece[0].shape[0]--;
    f.params.item[0].piece[0].n_dims = 1;
    EXPECT_VERDICT(dir, "tensor model.embed_tokens.weight: shape [23, 6], expected [23] from config.json");
    f.params.item[0].piece[0].n_dims = 2;
    f.params.n--;
    EXPECT_VERDICT(dir, "tensor lm_head.weight: unknown, the model of config.json has no such tensor");
    f.params.n++;
    f.params.item[7].piece[0].tensor = "other";
    EXPECT_VERDICT(dir, "tensor other: missing, expected by config.json");
    f.params.item[7].piece[0].tensor = "lm_head.weight";
    EXPECT_TEXT(verdict(&f, dir, NULL), "");
    struct ckpt *c = ckpt_open(f.arena, dir, &e);
    float x[4];
    EXPECT(c && !ckpt_read_state(c, &f.params.item[0], 0, 4, x, NULL, NULL, &e) &&
           strstr(e.text, "no optimizer state"));
    ckpt_close(c);
    e = (struct err){ 0 };
    EXPECT(!ckpt_merge(dir, in_test_dir(f.arena, "match-merged"), 1000, &e) &&
           strstr(e.text, "no optimizer state to merge"));
    e = (struct err){ 0 };
    EXPECT(!ckpt_export(f.model_dir, in_test_dir(f.arena, "match-out"), -1, 1000, &e) &&
           strstr(e.text, "holds no weights"));
    e = (struct err){ 0 };
    EXPECT(!ckpt_verify(dir, note_problem, &e) &&
           strstr(e.text, "checkpoint.json: missing: not a complete checkpoint"));
    EXPECT_INT(e.code, EXIT_CORRUPT);
    arena_free(f.arena);
}

/* Writes config.json and one file in which expert 2 has another dtype than the others. */
TEST(one_parameter_has_one_dtype)
{
    struct fixture f;
    struct err e = { 0 };
    struct assignment x;
    uint64_t bytes, hash;
    fixture_new(&f, BF16);
    const char *dir = in_test_dir(f.arena, "mixed");
    const struct ckpt_job job = job_of(&f, dir, "", 1, holdings(&f, 1, 1, false, false), 1 << 30);
    assignment_make(f.arena, &job, &x);
    EXPECT(file_mkdirs(dir, &e) && file_write(path_in(f.arena, dir, "config.json"), "{}", 2, &e));
    for (int64_t i = 0; i < x.n; i++)
        if (strstr(x.list[i].name, "experts.2.up_proj"))
            x.list[i] = safetensors_entry(x.list[i].name, F16, x.list[i].n_dims, x.list[i].shape);
    struct safetensors_writer *w = safetensors_create(path_in(f.arena, dir, SINGLE_NAME), x.list, x.n, &e);
    for (int64_t i = 0; w && i < x.n; i++)
        EXPECT(safetensors_put(w, arena_alloc(f.arena, x.list[i].bytes), x.list[i].bytes, &e));
    EXPECT(w && safetensors_publish(w, &bytes, &hash, &e));
    EXPECT_VERDICT(dir, "experts.2.up_proj.weight: dtype F16, expected BF16, as tensor "
                        "model.layers.1.mlp.experts.0.gate_proj.weight has");
    arena_free(f.arena);
}

TEST(names_of_states)
{
    static const char *const bad[] = { "",
                                       ".exp_avg",
                                       "a",
                                       "a.exp",
                                       "a.exp_avg[0:0]",
                                       "a.exp_avg[2:1]",
                                       "a.exp_avg[01:2]",
                                       "a.exp_avg[-1:2]",
                                       "a.exp_avg[1:2",
                                       "a.exp_avg1:2]",
                                       "a.exp_avg[1:2]]",
                                       "a.exp_avg[ 1:2]",
                                       "a.exp_avg[1:]",
                                       "a.exp_avg[:1]",
                                       "a.exp_avg[0:9223372036854775808]",
                                       "a.exp_avg[0:1:0]",
                                       "a.exp_avg[0:1:256]",
                                       "a.exp_avg[0:1:2:3]",
                                       "a.exp_avg[0:1:]",
                                       "a.exp_avg[0:1@1x2]",
                                       "a.exp_avg[0:1@2x0]",
                                       "a.exp_avg[0:1@02x1]",
                                       "a.exp_avg[0:1@2x]",
                                       "a.exp_avg[0:1@2]",
                                       "a.exp_avg[0:1@2x3:4]",
                                       "[0:1]" };
    struct arena *a = arena_new("test");
    struct state_name s;
    for (int i = 0; i < (int)(sizeof bad / sizeof *bad); i++)
        EXPECTF(!state_name_parse(a, bad[i], &s), "'%s' is accepted", bad[i]);
    const struct state_name good[] = {
        { "a", 0, -1, EXP_AVG, 0, { 0, 0 } },           { "a.exp_avg", 0, 1, EXP_AVG_SQ, 0, { 0, 0 } },
        { "b", 7, 9, EXP_AVG, 255, { 0, 0 } },          { "b", 0, 9, EXP_AVG, 0, { 2, 3 } },
        { "b", 7, 9, EXP_AVG, 255, { 16, INT64_MAX } }, { "a[0:1]", 5, INT64_MAX, MASTER, 0, { 0, 0 } }
    };
    for (int i = 0; i < (int)(sizeof good / sizeof *good); i++) {
        const char *text = state_name_print(a, &good[i]);
        EXPECT(state_name_parse(a, text, &s) && s.kind == good[i].kind && s.begin == good[i].begin &&
               s.end == good[i].end && s.skip == good[i].skip && s.order.slices == good[i].order.slices &&
               s.order.run == good[i].order.run);
        EXPECT_TEXT(s.tensor, good[i].tensor);
    }
    arena_free(a);
}
