/* ckpt_test.c - what is written is read back: all dtypes, layouts and directions. */
#include "tests/ckpt_fixture.h"
#include <unistd.h>

static const enum dtype dtypes[] = { F32, BF16, F16 };
static const struct {
    int n_ranks, ep, tensor;
    bool zero, sharded;
} layouts[] = { { 1, 1, 1, false, false }, { 2, 1, 1, true, false },  { 2, 2, 1, false, false },
                { 4, 2, 1, true, false },  { 4, 4, 1, true, false },  { 4, 2, 1, false, false },
                { 8, 4, 1, true, false },  { 2, 1, 2, false, false }, { 4, 2, 2, true, false },
                { 3, 1, 3, true, false },  { 4, 2, 1, true, true },   { 8, 4, 2, true, true },
                { 6, 1, 3, true, true } };

static const char *save_as(struct fixture *f, const char *name, int layout, int64_t max_shard_bytes)
{
    struct err e = { 0 };
    const char *dir = in_test_dir(f->arena, name);
    slice(f, layouts[layout].tensor);
    const struct ckpt_holding *h = holdings(f, layouts[layout].n_ranks, layouts[layout].ep,
                                            layouts[layout].zero, layouts[layout].sharded);
    EXPECTF(save(f, job_of(f, dir, "{\"step\": 7}", layouts[layout].n_ranks, h, max_shard_bytes), 0, &e),
            "%s", e.text);
    return dir;
}

TEST(round_trips_in_every_dtype_and_layout)
{
    for (int t = 0; t < 3; t++)
        for (int i = 0; i < (int)(sizeof layouts / sizeof *layouts); i++) {
            struct fixture f;
            fixture_new(&f, dtypes[t]);
            const char *dir = save_as(&f, arena_printf(f.arena, "t%d/step-%d", t, i), i, i % 2 ? 1000 : 500);
            expect_all(&f, dir);
            EXPECTF(verifies(dir), "%s", problems);
            arena_free(f.arena);
        }
}

/* Merging gives one layout from all: the same bytes, and those that one rank writes by itself. */
TEST(merge_forgets_the_layout)
{
    for (int t = 0; t < 3; t++) {
        struct fixture f;
        const char *one = NULL;
        fixture_new(&f, dtypes[t]);
        for (int i = 0; i < (int)(sizeof layouts / sizeof *layouts); i++) {
            struct err e = { 0 };
            const char *dir = save_as(&f, arena_printf(f.arena, "m%d/step-%d", t, i), i, 700);
            const char *merged = in_test_dir(f.arena, arena_printf(f.arena, "m%d/merged-%d", t, i));
            one = one ? one : dir;
            EXPECTF(ckpt_merge(dir, merged, 700, &e), "%s", e.text);
            EXPECTF(same_directories(f.arena, merged, one), "%s differs from %s", merged, one);
            EXPECTF(verifies(merged), "%s", problems);
            expect_all(&f, merged);
            EXPECT(!ckpt_merge(dir, merged, 700, &e) && strstr(e.text, "is there already and not empty"));
        }
        arena_free(f.arena);
    }
}

/* A checkpoint of format 1, which differs in the manifest only: it has no 8-bit moments. */
TEST(version_1_is_read)
{
    struct fixture f;
    struct err e = { 0 };
    size_t bytes;
    fixture_new(&f, BF16);
    const char *dir = save_as(&f, "old/step-1", 1, 700), *path = path_in(f.arena, dir, MANIFEST_NAME);
    char *text = file_read(f.arena, path, 1 << 20, &bytes, &e),
         *at = text ? strstr(text, "\"version\": 3") : NULL;
    EXPECT(at);
    if (at)
        at[11] = '1';
    EXPECT(at && file_write(path, text, bytes, &e) && verifies(dir));
    expect_all(&f, dir);
    arena_free(f.arena);
}

TEST(same_contents_same_bytes)
{
    struct fixture f;
    fixture_new(&f, BF16);
    for (int i = 4; i < 12; i += 7) {
        const char *x = save_as(&f, arena_printf(f.arena, "b%d/step-1", i), i, 700),
                   *y = save_as(&f, arena_printf(f.arena, "b%d/step-2", i), i, 700);
        EXPECT(same_directories(f.arena, x, y));
    }
    arena_free(f.arena);
}

TEST(pieces_and_threads_change_no_byte)
{
    static const size_t pieces[] = { 7, 100, 4096 };
    struct fixture f;
    fixture_new(&f, BF16);
    for (int layout = 1; layout < 12; layout += 5) {
        f.piece_bytes = 0;
        f.n_threads = 1;
        const char *whole = save_as(&f, arena_printf(f.arena, "whole%d/step-1", layout), layout, 700);
        for (int i = 0; i < 6; i++) {
            f.piece_bytes = pieces[i % 3];
            f.n_threads = 1 + i / 3 * 3;
            const char *cut = save_as(&f, arena_printf(f.arena, "cut%d-%d/step-1", layout, i), layout, 700);
            EXPECTF(same_directories(f.arena, whole, cut), "%s", cut);
        }
    }
    arena_free(f.arena);
}

/* Rank 1 of 2 ends before it has written, before it has sealed, or finds a value that cannot be stored. */
TEST(shared_files_need_every_rank)
{
    struct fixture f;
    struct err e = { 0 };
    fixture_new(&f, BF16);
    slice(&f, 2);
    const char *dir = in_test_dir(f.arena, "shared/step-1");
    const struct ckpt_job job = job_of(&f, dir, "{}", 2, holdings(&f, 2, 1, true, false), 100);
    const struct ckpt_job first = job_as(&f, job, 0), second = job_as(&f, job, 1);
    EXPECT(ckpt_has_shared(&job) && ckpt_begin(&job, &e) && ckpt_write(&first, 0, &e));
    EXPECT(ckpt_seal(&job, 0, &e) && ckpt_seal(&job, 1, &e) && !ckpt_publish(&job, 0, &e));
    EXPECTF(strstr(e.text, "sums-00002.json: missing: rank 1 has not written its part"), "%s", e.text);
    e = (struct err){ 0 };
    EXPECT(ckpt_begin(&job, &e) && ckpt_write(&first, 0, &e) && ckpt_write(&second, 1, &e));
    EXPECT(ckpt_seal(&job, 0, &e) && !ckpt_publish(&job, 0, &e));
    EXPECTF(strstr(e.text, "seals-00002.json: missing: rank 1 has not written its part"), "%s", e.text);
    f.weight[7][4] = INFINITY; /* columns 3 to 5 are those of rank 1 */
    e = (struct err){ 0 };
    const struct ckpt_job bad = job_as(&f, job, 1);
    EXPECT(ckpt_begin(&job, &e) && ckpt_write(&first, 0, &e) && !ckpt_write(&bad, 1, &e));
    EXPECTF(e.code == EXIT_NONFINITE && strstr(e.text, "tensor lm_head.weight: element 4 is inf"), "%s",
            e.text);
    EXPECT(!file_exists(dir));
    arena_free(f.arena);
}

/* A model directory of another program: one file, any bits but infinities and NaNs. */
static const char *foreign_model(struct fixture *f, const char *name, struct err *e)
{
    struct assignment x;
    uint64_t bytes, hash, n_words = 0;
    const char *dir = in_test_dir(f->arena, name);
    const struct ckpt_job job = job_of(f, dir, "", 1, holdings(f, 1, 1, false, false), 1 << 30);
    assignment_make(f->arena, &job, &x);
    EXPECT(file_mkdirs(dir, e) && copy_model_texts(f->arena, f->model_dir, dir, NULL, NULL, e));
    struct safetensor *list = ARENA_NEW(f->arena, struct safetensor, x.n + 1);
    memcpy(list, x.list, (size_t)x.n * sizeof *list);
    list[x.n] =
        safetensors_entry("model.layers.0.self_attn.rotary_emb.inv_freq", F32, 1, (const int64_t[]){ 2 });
    struct safetensors_writer *w = safetensors_create(path_in(f->arena, dir, SINGLE_NAME), list, x.n + 1, e);
    for (int64_t i = 0; w && i <= x.n; i++)
        for (size_t k = 0; k < list[i].bytes; k += 2) {
            uint16_t word = (uint16_t)rng_u64(9, 9, n_words++);
            if ((word & 0x7c00) == 0x7c00 || (word & 0x7f80) == 0x7f80) /* a NaN in one of the dtypes */
                word &= 0xbbff;
            EXPECT(safetensors_put(w, &word, 2, e));
        }
    EXPECT(w && safetensors_publish(w, &bytes, &hash, e));
    return dir;
}

static int64_t compare_tensors(const struct ckpt *x, const struct ckpt *y)
{
    int64_t n_same = 0;
    for (int64_t i = 0; i < x->n; i++) {
        const struct safetensor *t = x->tensor[i], *u = ckpt_tensor(y, t->name);
        n_same += u && u->dtype == t->dtype && u->n_dims == t->n_dims && u->bytes == t->bytes &&
                  !memcmp(u->data, t->data, t->bytes);
    }
    return n_same;
}

/* HF -> ranks -> checkpoint -> HF gives back every tensor bit by bit, whatever the layout. */
TEST(foreign_model_comes_back_bit_by_bit)
{
    for (int t = 0; t < 3; t++)
        for (int layout = 0; layout < 5; layout += 2) {
            struct fixture f;
            struct err e = { 0 };
            fixture_new(&f, dtypes[t]);
            const char *name = arena_printf(f.arena, "f%d%d", t, layout);
            const char *source = foreign_model(&f, arena_printf(f.arena, "%s-source", name), &e);
            struct ckpt *c = ckpt_open(f.arena, source, &e);
            EXPECTF(c && ckpt_match(c, &f.params, &e) && !ckpt_train_state(c), "%s", e.text);
            for (int i = 0; c && i < f.params.n; i++) {
                EXPECT(
                    ckpt_read_weight(c, &f.params.item[i], 0, f.params.item[i].n_elements, f.weight[i], &e));
                f.stored[i] = ckpt_stored(c, &f.params.item[i]);
            }
            const char *dir = save_as(&f, name, layout, 400),
                       *out = in_test_dir(f.arena, arena_printf(f.arena, "%s-out", name));
            EXPECTF(ckpt_export(dir, out, -1, layout ? 900 : 1 << 30, &e), "%s", e.text);
            EXPECT(file_exists(path_in(f.arena, out, SINGLE_NAME)) == (layout == 0));
            EXPECT(file_exists(path_in(f.arena, out, INDEX_NAME)) == (layout != 0));
            struct ckpt *back = ckpt_open(f.arena, out, &e);
            EXPECTF(back && ckpt_n_tensors(back) == ckpt_n_tensors(c) - 1, "%s",
                    e.text); /* the buffer is not of the model */
            EXPECT_INT(compare_tensors(back, c), ckpt_n_tensors(back));
            EXPECT(!file_exists(path_in(f.arena, out, MANIFEST_NAME)) &&
                   !file_exists(path_in(f.arena, out, STATE_NAME)));
            EXPECT(file_exists(path_in(f.arena, out, "tokenizer.json")) &&
                   !file_exists(path_in(f.arena, out, "README.md")));
            const char *direct = in_test_dir(f.arena, arena_printf(f.arena, "%s-direct", name));
            EXPECTF(ckpt_export(source, direct, -1, 300, &e), "%s",
                    e.text); /* without a checkpoint between */
            struct ckpt *third = ckpt_open(f.arena, direct, &e);
            EXPECT(third && compare_tensors(c, third) == ckpt_n_tensors(c) &&
                   ckpt_n_tensors(third) == ckpt_n_tensors(c));
            ckpt_close(third);
            ckpt_close(back);
            ckpt_close(c);
            arena_free(f.arena);
        }
}

TEST(export_converts_from_the_exact_weights)
{
    static const char *const names[] = { "float32", "bfloat16", "float16" };
    for (int t = 0; t < 3; t++) {
        struct fixture f;
        struct err e = { 0 };
        size_t bytes;
        fixture_new(&f, BF16);
        const char *dir = save_as(&f, arena_printf(f.arena, "x/step-%d", t), 3, 400);
        const char *out = in_test_dir(f.arena, arena_printf(f.arena, "x/out-%d", t));
        EXPECTF(ckpt_export(dir, out, (int)dtypes[t], 1 << 20, &e), "%s", e.text);
        const char *config = file_read(f.arena, path_in(f.arena, out, "config.json"), 1 << 20, &bytes, &e);
        const char *want = arena_printf(f.arena,
                                        "{\n  \"model_type\": \"deepseek_v2\",\n  \"x\": {\"torch_dtype\": "
                                        "\"no\"},\n  \"torch_dtype\": \"%s\"\n}\n",
                                        names[t]);
        EXPECT_TEXT(config ? config : "", want);
        struct ckpt *c = ckpt_open(f.arena, out, &e);
        EXPECTF(c != NULL, "%s", e.text);
        for (int i = 0; c && i < f.params.n; i++) {
            const int64_t n = f.params.item[i].n_elements;
            float *x = ARENA_NEW(f.arena, float, n);
            EXPECT_INT(ckpt_stored(c, &f.params.item[i]), dtypes[t]);
            EXPECT(ckpt_read_weight(c, &f.params.item[i], 0, n, x, &e));
            for (int64_t k = 0; k < n; k++)
                EXPECT(x[k] == rounded(f.weight[i][k], dtypes[t]));
        }
        ckpt_close(c);
        arena_free(f.arena);
    }
}

/* The tensors of a file fit the limit, unless it is one alone. */
static void expect_shard(struct arena *a, const char *path, size_t max_bytes)
{
    struct err e = { 0 };
    size_t bytes = 0;
    struct safetensors *s = safetensors_open(a, path, &e);
    EXPECTF(s && safetensors_count(s) > 0, "%s: %s", path, e.text);
    for (int64_t i = 0; s && i < safetensors_count(s); i++)
        bytes += safetensors_at(s, i)->bytes;
    EXPECTF(bytes <= max_bytes || (s && safetensors_count(s) == 1), "%s: %zu bytes of tensors", path, bytes);
    safetensors_close(s);
}

TEST(files_of_a_checkpoint)
{
    struct fixture f;
    struct err e = { 0 };
    size_t bytes;
    int64_t n;
    fixture_new(&f, BF16);
    const char *dir = save_as(&f, "files/step-00000010", 3, 300);
    char **names = file_list(f.arena, dir, &n, &e);
    int n_model = 0, n_optimizer = 0;
    int64_t all_bytes = -file_bytes(path_in(f.arena, dir, MANIFEST_NAME));
    for (int64_t i = 0; names && i < n; i++) {
        n_model += !strncmp(names[i], "model-", 6);
        n_optimizer += !strncmp(names[i], "optimizer-", 10);
        all_bytes += file_bytes(path_in(f.arena, dir, names[i]));
        EXPECTF(!strstr(names[i], "tmp") && !strstr(names[i], "sums"), "%s", names[i]);
        if (!strncmp(names[i], "model-", 6))
            expect_shard(f.arena, path_in(f.arena, dir, names[i]), 300);
    }
    EXPECT_INT(ckpt_bytes(dir), all_bytes);
    EXPECT_INT(n_optimizer, 4);
    EXPECT(n_model >= 6);
    EXPECT_INT(n, n_model + n_optimizer + 5); /* index, config, tokenizer, train_state, manifest */
    const char *state = file_read(f.arena, path_in(f.arena, dir, STATE_NAME), 1000, &bytes, &e);
    EXPECT_TEXT(state ? state : "", "{\"step\": 7}");
    const char *index = file_read(f.arena, path_in(f.arena, dir, INDEX_NAME), 1 << 20, &bytes, &e);
    int64_t total = 4 * D; /* the norm is F32 */
    for (int i = 0; i < f.params.n; i++)
        total += i == 3 ? 0 : 2 * f.params.item[i].n_elements;
    EXPECT(index && strstr(index, arena_printf(f.arena, "\"total_size\": %lld\n", (long long)total)));
    struct ckpt *c = ckpt_open(f.arena, dir, &e);
    EXPECT(c && ckpt_n_tensors(c) == 5 + 3 * E);
    EXPECT_TEXT(c ? ckpt_train_state(c) : "", "{\"step\": 7}");
    ckpt_close(c);
    arena_free(f.arena);
}

/* Replicas: the bytes of the model are spread evenly, not all on rank 0. */
TEST(model_is_spread_over_the_ranks)
{
    struct fixture f;
    struct assignment x;
    size_t load[4] = { 0 }, total = 0;
    fixture_new(&f, BF16);
    const struct ckpt_job job = job_of(&f, "x", "", 4, holdings(&f, 4, 2, true, false), 1 << 20);
    assignment_make(f.arena, &job, &x);
    for (int r = 0; r < 4; r++)
        for (int64_t s = x.shards.first[r]; s < x.shards.first[r + 1]; s++)
            for (int64_t k = x.shards.begin[s]; k < x.shards.begin[s + 1]; k++)
                load[r] += x.list[x.shards.order[k]].bytes;
    for (int r = 0; r < 4; r++)
        total += load[r];
    for (int r = 0; r < 4; r++)
        EXPECTF(load[r] <= total * 35 / 100 && load[r] >= total * 15 / 100, "rank %d writes %zu of %zu bytes",
                r, load[r], total);
    arena_free(f.arena);
}

static const char *link_target(struct arena *a, const char *path)
{
    char target[200];
    const ssize_t n = readlink(path, target, sizeof target);
    return n < 0 ? "" : arena_strndup(a, target, (size_t)n);
}

TEST(last_moves_and_old_ones_go)
{
    struct fixture f;
    struct err e = { 0 };
    int64_t n;
    fixture_new(&f, F32);
    const char *dir = in_test_dir(f.arena, "keep/checkpoints"), *last = path_in(f.arena, dir, "last");
    const struct ckpt_holding *h = holdings(&f, 2, 2, true, false);
    EXPECT(file_mkdirs(path_in(f.arena, dir, "step-00000005.tmp/x"), &e)); /* of a killed run */
    EXPECT(file_mkdirs(path_in(f.arena, dir, "step-00000001.tmp.old"), &e));
    EXPECT(file_mkdirs(path_in(f.arena, dir, "mine"), &e));
    for (int step = 10; step <= 50; step += 10) {
        const char *name = arena_printf(f.arena, "step-%08d", step), *path = path_in(f.arena, dir, name);
        fill(&f, (uint64_t)step);
        EXPECTF(save(&f, job_of(&f, path, "{}", 2, h, 1000), 2, &e), "%s", e.text);
        EXPECT_TEXT(link_target(f.arena, last), name);
        expect_all(&f, last);
    }
    char **names = file_list(f.arena, dir, &n, &e);
    EXPECT_INT(n, 4);
    EXPECT(names && n == 4 && !strcmp(names[0], "last") && !strcmp(names[1], "mine") &&
           !strcmp(names[2], "step-00000040") && !strcmp(names[3], "step-00000050"));
    /* resumed from 40 with other data: 50 is replaced in place */
    fill(&f, 51);
    EXPECTF(save(&f, job_of(&f, path_in(f.arena, dir, "step-00000050"), "{}", 2, h, 1000), 1, &e), "%s",
            e.text);
    expect_all(&f, last);
    file_list(f.arena, dir, &n, &e);
    EXPECT_INT(n, 3);
    /* resumed from before 50: what is newer stays, "last" goes back */
    EXPECTF(save(&f, job_of(&f, path_in(f.arena, dir, "step-00000045"), "{}", 2, h, 1000), 1, &e), "%s",
            e.text);
    EXPECT_TEXT(link_target(f.arena, last), "step-00000045");
    EXPECT(file_exists(path_in(f.arena, dir, "step-00000050")));
    EXPECT_TEXT(e.text, "");
    arena_free(f.arena);
}

TEST(finds_checkpoints)
{
    struct fixture f;
    struct err e = { 0 };
    fixture_new(&f, F32);
    struct arena *a = f.arena;
    const char *run = in_test_dir(a, "find"),
               *dir = save_as(&f, "find/checkpoints/step-00000002", 0, 1 << 20);
    const char *below = path_in(a, run, "checkpoints"), *last = path_in(a, below, "last");
    EXPECT_TEXT(ckpt_find(a, run, &e), dir);
    EXPECT_TEXT(ckpt_find(a, arena_printf(a, "%s/", run), &e), dir);
    EXPECT_TEXT(ckpt_find(a, below, &e), dir);
    EXPECT_TEXT(ckpt_find(a, last, &e), dir);
    EXPECT_TEXT(ckpt_find(a, dir, &e), dir);
    EXPECT(unlink(last) == 0); /* killed before the first "last" */
    EXPECT(rename(dir, path_in(a, below, "step-9")) == 0);
    EXPECT(rename(save_as(&f, "other/step-1", 0, 1 << 20), path_in(a, below, "step-10")) == 0);
    EXPECT(file_mkdirs(path_in(a, below, "step-11"), &e)); /* no checkpoint */
    EXPECT_TEXT(ckpt_find(a, run, &e), path_in(a, below, "step-10"));
    EXPECT(rename(path_in(a, below, "step-9"), dir) == 0);
    EXPECT(file_remove_tree(path_in(a, below, "step-10"), &e));
    EXPECT_TEXT(ckpt_find(a, run, &e), dir);
    EXPECT_TEXT(ckpt_find(a, last, &e), dir);
    EXPECT(!ckpt_find(a, f.model_dir, &e) && strstr(e.text, "no complete checkpoint here"));
    e = (struct err){ 0 };
    EXPECT(!ckpt_find(a, in_test_dir(a, "nowhere"), &e) && strstr(e.text, "nowhere: no such directory"));
    arena_free(a);
}

TEST(finds_models_in_the_cache)
{
    struct arena *a = arena_new("test");
    struct err e = { 0 };
    const char *hub = in_test_dir(a, "home/hub"), *model = path_in(a, hub, "models--org--name-1.0");
    const char *snapshot = path_in(a, model, "snapshots/0123abcd");
    unsetenv("HF_HUB_CACHE");
    setenv("HF_HOME", in_test_dir(a, "home"), 1);
    EXPECT(!ckpt_find_model(a, "org/name-1.0", &e) &&
           strstr(e.text, "huggingface-cli download org/name-1.0") && strstr(e.text, hub));
    e = (struct err){ 0 };
    EXPECT(file_mkdirs(snapshot, &e) && file_mkdirs(path_in(a, model, "refs"), &e));
    EXPECT(!ckpt_find_model(a, "org/name-1.0", &e) && strstr(e.text, "not complete"));
    e = (struct err){ 0 };
    EXPECT(file_write(path_in(a, snapshot, "config.json"), "{}", 2, &e));
    EXPECT_TEXT(ckpt_find_model(a, "org/name-1.0", &e), snapshot); /* the only snapshot */
    EXPECT(file_mkdirs(path_in(a, model, "snapshots/other"), &e));
    EXPECT(!ckpt_find_model(a, "org/name-1.0", &e)); /* which of the two? */
    e = (struct err){ 0 };
    EXPECT(file_write(path_in(a, model, "refs/main"), "0123abcd\n", 9, &e));
    EXPECT_TEXT(ckpt_find_model(a, "org/name-1.0", &e), snapshot);
    setenv("HF_HUB_CACHE", hub, 1);
    setenv("HF_HOME", "/nowhere", 1);
    EXPECT_TEXT(ckpt_find_model(a, "org/name-1.0", &e), snapshot);
    EXPECT_TEXT(ckpt_find_model(a, snapshot, &e), snapshot);
    static const char *const bad[] = { "", "a/b/c", "../org", "org/", "/org", "org/..", "a b", "org/na$me" };
    for (int i = 0; i < 8; i++) {
        struct err x = { 0 };
        EXPECTF(!ckpt_find_model(a, bad[i], &x) && strstr(x.text, "not an id"), "'%s': %s", bad[i], x.text);
    }
    EXPECT(file_mkdirs(in_test_dir(a, "outside"), &e));
    EXPECT(file_write(in_test_dir(a, "outside/config.json"), "{}", 2, &e));
    const char *out = "../../../../outside"; /* of snapshots, the model, hub and home */
    EXPECT(file_exists(arena_printf(a, "%s/snapshots/%s/config.json", model, out)));
    EXPECT(file_write(path_in(a, model, "refs/main"), out, strlen(out), &e));
    EXPECT(!ckpt_find_model(a, "org/name-1.0", &e));
    unsetenv("HF_HUB_CACHE");
    unsetenv("HF_HOME");
    arena_free(a);
}
