/* Documents from files, JSONL lines, prepare and the dataset that it writes. */
#include "base/file.h"
#include "base/json.h"
#include "base/str.h"
#include "data/bpe.h"
#include "data/dataset.h"
#include "data/jsonl.h"
#include "data/prepare.h"
#include "data/text.h"
#include "tests/test.h"
#include <stdlib.h>
#include <unistd.h>

static const char *path_of(struct arena *a, const char *name)
{
    return arena_printf(a, "%s/%s", test_dir(), name);
}

static const char *write_file(struct arena *a, const char *name, const char *text)
{
    struct err e = { 0 };
    const char *path = path_of(a, name);
    EXPECTF(file_write(path, text, strlen(text), &e), "%s", e.text);
    return path;
}

/* --- JSONL --- */
static void take_line(const char *line, size_t bytes, bool by_scanner, const char *want, size_t want_bytes)
{
    struct err e = { 0 };
    struct buffer out = { 0 }, scanned = { 0 };
    EXPECTF(jsonl_text(line, bytes, "text", "f:7", &out, &e), "%s: %s", line, e.text);
    EXPECTF(out.bytes == want_bytes && (want_bytes == 0 || memcmp(out.data, want, want_bytes) == 0),
            "%s: got %.*s", line, (int)out.bytes, out.data ? out.data : "");
    EXPECTF(jsonl_scan(line, bytes, "text", &scanned) == by_scanner, "%s: the scanner %s", line,
            by_scanner ? "gave up" : "took it");
    buffer_free(&out);
    buffer_free(&scanned);
}

#define TAKE(line, by_scanner, want)                                                                         \
    take_line((line), sizeof(line) - 1, (by_scanner), (want), sizeof(want) - 1)

TEST(jsonl_lines)
{
    TAKE("{\"text\": \"abc\"}", true, "abc");
    TAKE(" {\"id\": -12.5, \"m\": {\"text\": \"no\", \"x\": [1, {}, []]}, \"text\" : \"yes\", \"b\": null}\r",
         true, "yes");
    TAKE("{\"text\": \"\"}", true, "");
    TAKE("{\"text\": \"q\\\" b\\\\ s\\/ \\b\\f\\n\\r\\t\"}", true, "q\" b\\ s/ \b\f\n\r\t");
    TAKE("{\"text\": \"\\u00e9 \\u4e2d \\ud83d\\udc4d\"}", true, "\xc3\xa9 \xe4\xb8\xad \xf0\x9f\x91\x8d");
    TAKE("{\"text\": \"a\\u0000b\"}", false, "a\0b");
    TAKE("{\"text\": \"\xc3\xa9\"}", true, "\xc3\xa9");
    TAKE("{\"\\u0074ext\": \"key with an escape\"}", false, "key with an escape");
    TAKE("{\"n\": 1e5, \"text\": \"a\"}", false, "a");
}

static void refuse_line(const char *line, const char *words)
{
    struct err e = { 0 };
    struct buffer out = { 0 };
    EXPECTF(!jsonl_text(line, strlen(line), "text", "corpus.jsonl:7", &out, &e), "accepted: %s", line);
    EXPECTF(strstr(e.text, "corpus.jsonl:7") == e.text && strstr(e.text, words), "%s: '%s'", line, e.text);
    EXPECT_INT(out.bytes, 0);
    buffer_free(&out);
}

TEST(bad_jsonl_lines)
{
    refuse_line("{\"text\": \"abc", "");
    refuse_line("{\"text\": \"abc\"} x", "");
    refuse_line("{\"text\": \"\\ud83d\"}", "");
    refuse_line("{\"text\": \"\\x\"}", "");
    refuse_line("{\"text\": \"\xff\"}", "");
    refuse_line("{\"text\": \"a\", \"n\": NaN}", "");
    refuse_line("{\"text\": \"a\", \"n\": 01}", "");
    refuse_line("{\"text\": 5}", "string");
    refuse_line("{\"text\": null}", "string");
    refuse_line("{\"txt\": \"a\"}", "text");
    refuse_line("[\"text\"]", "object");
    refuse_line("{\"a\": {\"text\": \"inner\"}}", "text");
}

/* --- documents --- */
static void expect_documents(struct arena *a, const char *path, const char *separator, const char *want)
{
    struct err e = { 0 };
    struct text_list list;
    struct buffer out = { 0 };
    struct str got = str_new(a, 1 << 16);
    int64_t offset, line;
    int found = -1;
    EXPECTF(text_list_files(a, path, &list, &e), "%s", e.text);
    for (int64_t i = 0; i < list.n; i++) {
        struct text_reader *r = text_open(&list.file[i], separator, &e);
        EXPECTF(r != NULL, "%s", e.text);
        while (r && (found = text_next(r, &out, &offset, &line, &e)) == 1) {
            str_addf(&got, "%lld,%lld[%.*s]", (long long)offset, (long long)line, (int)out.bytes,
                     out.data ? out.data : "");
            out.bytes = 0;
        }
        EXPECT_INT(found, 0);
        text_close(r);
    }
    EXPECT_TEXT(got.text, want);
    buffer_free(&out);
}

TEST(documents_of_files)
{
    struct arena *a = arena_new("test");
    expect_documents(a, write_file(a, "d1.txt", "one\ntwo\n"), NULL, "0,1[one\ntwo\n]");
    expect_documents(a, write_file(a, "d2.txt", ""), NULL, "0,1[]");
    expect_documents(a, write_file(a, "d3.txt", "a\n---\nb\nc\n---\r\n---\nd"), "---",
                     "0,1[a\n]6,3[b\nc\n]19,7[d]");
    expect_documents(a, write_file(a, "d4.txt", "---\n"), "---", "");
    expect_documents(a, write_file(a, "d5.txt", "----\n ---\n"), "---", "0,1[----\n ---\n]");
    expect_documents(a, write_file(a, "d6.jsonl", "{\"a\":1}\n\n \t\n{}\r\n{2}"), NULL,
                     "0,1[{\"a\":1}]12,4[{}]16,5[{2}]");
    arena_free(a);
}

TEST(files_of_directories)
{
    struct arena *a = arena_new("test");
    struct err e = { 0 }, none = { 0 }, absent = { 0 };
    struct text_list list;
    EXPECT(file_mkdirs(path_of(a, "tree/b/c"), &e) && file_mkdirs(path_of(a, "bare/in"), &e));
    const char *names[] = { "tree/b/c/x.txt", "tree/b.txt", "tree/b/a.jsonl",
                            "tree/a.txt.gz",  "tree/no.md", "bare/in/z.h" };
    for (int i = 0; i < 6; i++)
        write_file(a, names[i], "{}");
    EXPECTF(text_list_files(a, path_of(a, "tree"), &list, &e), "%s", e.text);
    const char *want[] = { "tree/a.txt.gz", "tree/b.txt", "tree/b/a.jsonl", "tree/b/c/x.txt" };
    EXPECT_INT(list.n, 4);
    for (int i = 0; i < 4 && list.n == 4; i++) {
        EXPECT_TEXT(list.file[i].path, path_of(a, want[i]));
        EXPECT(list.file[i].jsonl == (i == 2));
    }
    EXPECT(text_list_files(a, arena_printf(a, "%s,%s", path_of(a, "tree/no.md"), path_of(a, "tree/b")), &list,
                           &e));
    EXPECT_INT(list.n, 3);
    EXPECT(!text_list_files(a, path_of(a, "bare"), &list, &none));
    EXPECTF(strstr(none.text, "bare") && strstr(none.text, ".h"), "%s", none.text);
    EXPECT(!text_list_files(a, path_of(a, "nowhere.txt"), &list, &absent));
    EXPECTF(strstr(absent.text, "nowhere.txt"), "%s", absent.text);
    arena_free(a);
}

/* --- prepare --- */
static const char *make_tokenizer(struct arena *a)
{
    struct err e = { 0 };
    const char *dir = path_of(a, "tokenizer");
    if (file_exists(dir))
        return dir;
    const char *file = "tests/golden/tokenizer/cases.jsonl";
    const char *text = path_of(a, "train.txt");
    EXPECTF(file_copy(file, text, &e) && bpe_train(&text, 1, 500, "text", dir, &e), "%s", e.text);
    return dir;
}

/* About `bytes` of lines with words, numbers, blanks, other scripts, the separator, and broken UTF-8. */
static const char *write_text(struct arena *a, const char *name, size_t bytes, uint32_t seed)
{
    static const char *const words[] = { "the",
                                         "mother",
                                         " 2024",
                                         "  ",
                                         "\n",
                                         "\n\n",
                                         "\xe4\xb8\xad\xe6\x96\x87",
                                         "\xff",
                                         "x = y;",
                                         "\t",
                                         "don't",
                                         "\xf0\x9f\x91\x8d",
                                         "\n---\n",
                                         ", and",
                                         "      \n",
                                         "<|end|>" };
    struct str s = str_new(a, bytes + 64);
    while (s.bytes < bytes) {
        seed = seed * 1664525 + 1013904223;
        str_add(&s, words[seed >> 28]);
    }
    return write_file(a, name, s.text);
}

static bool run_prepare(struct arena *a, struct prepare_options o, struct err *e)
{
    o.tokenizer_dir = o.tokenizer_dir ? o.tokenizer_dir : make_tokenizer(a);
    o.text_key = "text";
    fflush(stdout);
    const int out = dup(1);
    if (!freopen("/dev/null", "w", stdout))
        return false;
    const bool ok = prepare(a, &o, e);
    fflush(stdout);
    dup2(out, 1);
    close(out);
    return ok;
}

static bool same_file(struct arena *a, const char *x, const char *y, const char *name)
{
    struct err e = { 0 };
    size_t n = 0, m = 1;
    const char *p = file_read(a, arena_printf(a, "%s/%s", x, name), 1 << 28, &n, &e),
               *q = file_read(a, arena_printf(a, "%s/%s", y, name), 1 << 28, &m, &e);
    return p && q && n == m && memcmp(p, q, n) == 0;
}

static void expect_same(struct arena *a, const char *x, const char *y)
{
    EXPECTF(same_file(a, x, y, "tokens.bin"), "%s, %s: tokens", x, y);
    EXPECTF(same_file(a, x, y, "documents.bin"), "%s, %s: documents", x, y);
    EXPECTF(same_file(a, x, y, "dataset.json"), "%s, %s: description", x, y);
}

/* One large file, which is cut into parts, and many small ones; with and without a separator. */
TEST(prepare_does_not_depend_on_threads)
{
    static const int threads[] = { 1, 2, 7 };
    struct arena *a = arena_new("test");
    struct err e = { 0 };
    EXPECT(file_mkdirs(path_of(a, "many"), &e));
    write_text(a, "many/large.txt", 5 << 20, 1);
    for (int i = 0; i < 20; i++)
        write_text(a, arena_printf(a, "many/%d.txt", i), (size_t)i * (size_t)i * 97, (uint32_t)i);
    for (int s = 0; s < 2; s++) {
        const char *first = arena_printf(a, "%s/by-%d-1", test_dir(), s);
        for (int i = 0; i < 3; i++) {
            const char *save = arena_printf(a, "%s/by-%d-%d", test_dir(), s, threads[i]);
            EXPECTF(run_prepare(a,
                                (struct prepare_options){ .inputs = path_of(a, "many"),
                                                          .save_path = save,
                                                          .separator = s ? "---" : NULL,
                                                          .sequence_length = 100,
                                                          .threads = threads[i] },
                                &e),
                    "%s", e.text);
            expect_same(a, first, save);
        }
    }
    arena_free(a);
}

/* The stream of tokens is BOS + bpe_encode(whole document) + EOS, though the document was cut for the threads. */
TEST(prepare_is_the_encoding_of_whole_documents)
{
    struct arena *a = arena_new("test");
    struct err e = { 0 };
    size_t bytes;
    const int32_t *ids;
    struct dataset d;
    const char *file = write_text(a, "whole.txt", 3 << 20, 5), *save = path_of(a, "whole");
    EXPECTF(run_prepare(a,
                        (struct prepare_options){
                            .inputs = file, .save_path = save, .sequence_length = 64, .threads = 2 },
                        &e),
            "%s", e.text);
    EXPECTF(dataset_open(a, save, false, &d, &e), "%s", e.text);
    struct bpe *t = bpe_open(make_tokenizer(a), &e);
    struct bpe_encoder *x = bpe_encoder_new(t);
    const char *text = file_read(a, file, 1 << 28, &bytes, &e);
    const int64_t n = bpe_encode(x, text, bytes, &ids, &e), kept = d.n_sequences * d.sequence_length;
    EXPECT_INT(kept, (n + 2) / 64 * 64);
    EXPECT_INT(d.tokens[0], bpe_bos(t));
    EXPECT(memcmp(d.tokens + 1, ids, (size_t)(kept - 1 < n ? kept - 1 : n) * sizeof *ids) == 0);
    EXPECT_INT(d.vocab_size, 500);
    EXPECT_INT(d.n_documents, 1);
    EXPECT_INT(d.n_bytes, bytes);
    bpe_encoder_free(x);
    bpe_close(t);
    dataset_close(&d);
    arena_free(a);
}

TEST(prepare_of_jsonl)
{
    struct arena *a = arena_new("test");
    struct err e = { 0 }, bad = { 0 };
    struct dataset d;
    const char *good = "{\"text\": \"one two\"}\n{\"n\": 1, \"text\": \"\"}\n\n{\"text\": \"three\"}\n";
    struct prepare_options o = { .inputs = write_file(a, "good.jsonl", good),
                                 .save_path = path_of(a, "jsonl"),
                                 .sequence_length = 4,
                                 .threads = 2 };
    EXPECTF(run_prepare(a, o, &e), "%s", e.text);
    EXPECTF(dataset_open(a, o.save_path, false, &d, &e), "%s", e.text);
    EXPECT_INT(d.n_documents, 3);
    EXPECT_INT(d.tokens[0], d.bos);
    dataset_close(&d);
    o.inputs = write_file(a, "bad.jsonl",
                          "{\"text\": \"one two three four five\"}\n{\"text\": 5}\n{\"text\": \"six\"}\n");
    o.save_path = path_of(a, "bad");
    EXPECT(!run_prepare(a, o, &bad));
    EXPECTF(strstr(bad.text, "bad.jsonl:2"), "%s", bad.text);
    EXPECT(!file_exists(o.save_path));
    o.skip_bad_lines = true;
    EXPECTF(run_prepare(a, o, &e), "%s", e.text);
    EXPECTF(dataset_open(a, o.save_path, false, &d, &e), "%s", e.text);
    EXPECT_INT(d.n_documents, 2);
    dataset_close(&d);
    arena_free(a);
}

static void refuse_prepare(struct arena *a, struct prepare_options o, const char *word)
{
    struct err e = { 0 };
    EXPECTF(!run_prepare(a, o, &e), "accepted; expected an error with '%s'", word);
    EXPECTF(strstr(e.text, word) != NULL, "'%s' is not in: %s", word, e.text);
}

TEST(prepare_refuses)
{
    struct arena *a = arena_new("test");
    struct err e = { 0 };
    const char *text = write_text(a, "some.txt", 5000, 9), *save = path_of(a, "kept");
    struct prepare_options o = { .inputs = text, .save_path = save, .sequence_length = 16, .threads = 1 };
    EXPECTF(run_prepare(a, o, &e), "%s", e.text);
    const int64_t before = file_bytes(arena_printf(a, "%s/tokens.bin", save));
    refuse_prepare(a, o, "overwrite");
    EXPECT(file_mkdirs(path_of(a, "mine/x"), &e));
    o.overwrite = true;
    o.save_path = path_of(a, "mine");
    refuse_prepare(a, o, "not a dataset");
    EXPECT(file_exists(path_of(a, "mine/x")));
    o.save_path = save;
    o.sequence_length = 1000000;
    refuse_prepare(a, o, "1000000");
    EXPECT_INT(file_bytes(arena_printf(a, "%s/tokens.bin", save)), before); /* a failed run leaves it alone */
    o.sequence_length = 32;
    EXPECTF(run_prepare(a, o, &e), "%s", e.text);
    o.overwrite = false;
    o.save_path = path_of(a, "never");
    EXPECT(file_mkdirs(path_of(a, "nameless"), &e));
    EXPECT(file_copy(arena_printf(a, "%s/tokenizer.json", make_tokenizer(a)),
                     path_of(a, "nameless/tokenizer.json"), &e));
    o.tokenizer_dir = path_of(a, "nameless");
    refuse_prepare(a, o, "bos_token");
    EXPECT(!file_exists(o.save_path));
    arena_free(a);
}

/* --- datasets that are not whole --- */
static void refuse_dataset(struct arena *a, const char *dir, int code, const char *word)
{
    struct err e = { 0 };
    struct dataset d;
    const bool opened = dataset_open(a, dir, false, &d, &e);
    EXPECTF(!opened, "opened; expected an error with '%s'", word);
    if (opened) {
        dataset_close(&d);
        return;
    }
    EXPECTF(strstr(e.text, word) != NULL, "'%s' is not in: %s", word, e.text);
    EXPECT_INT(e.code, code);
}

static const char *fresh_dataset(struct arena *a, const char *name)
{
    struct err e = { 0 };
    const char *dir = path_of(a, name);
    const struct prepare_options o = { .inputs = write_text(a, "fresh.txt", 3000, 3),
                                       .save_path = dir,
                                       .sequence_length = 16,
                                       .threads = 1,
                                       .overwrite = true };
    EXPECTF(run_prepare(a, o, &e), "%s", e.text);
    return dir;
}

/* dataset.json with one text replaced by another. */
static void edit_description(struct arena *a, const char *dir, const char *from, const char *to)
{
    struct err e = { 0 };
    size_t bytes;
    const char *path = arena_printf(a, "%s/dataset.json", dir);
    const char *text = file_read(a, path, 1 << 24, &bytes, &e), *at = text ? strstr(text, from) : NULL;
    EXPECTF(at != NULL, "no %s in %s", from, path);
    const char *changed =
        at ? arena_printf(a, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from)) : "";
    EXPECT(file_write(path, changed, strlen(changed), &e));
}

TEST(damaged_datasets_do_not_open)
{
    struct arena *a = arena_new("test");
    struct err e = { 0 };
    size_t bytes;
    const char *dir = fresh_dataset(a, "damaged"), *tokens = arena_printf(a, "%s/tokens.bin", dir);
    char *data = file_read(a, tokens, 1 << 24, &bytes, &e);
    EXPECT(file_write(tokens, data, bytes - 4, &e));
    refuse_dataset(a, dir, EXIT_CORRUPT, "tokens.bin");
    data[100] ^= 1;
    EXPECT(file_write(tokens, data, bytes, &e));
    refuse_dataset(a, dir, EXIT_CORRUPT, "checksum");
    dir = fresh_dataset(a, "damaged");
    edit_description(a, dir, "\"sequences\": ", "\"sequences\": 1");
    refuse_dataset(a, dir, EXIT_INPUT, "sequences");
    dir = fresh_dataset(a, "damaged");
    edit_description(a, dir, "\"version\": 1", "\"version\": 99");
    refuse_dataset(a, dir, EXIT_INPUT, "version");
    dir = fresh_dataset(a, "damaged");
    edit_description(a, dir, "\"vocab_size\": 500", "\"vocab_size\": 9223372036854775807");
    refuse_dataset(a, dir, EXIT_INPUT, "vocab_size");
    dir = fresh_dataset(a, "damaged");
    const char *json = arena_printf(a, "%s/dataset.json", dir);
    const char *text = file_read(a, json, 1 << 24, &bytes, &e);
    for (size_t n = 0; n + 3 < bytes; n += 1 + bytes / 30) {
        EXPECT(file_write(json, text, n, &e));
        refuse_dataset(a, dir, EXIT_INPUT, "dataset.json");
    }
    EXPECT(unlink(json) == 0); /* the last file that is written: without it nothing opens */
    refuse_dataset(a, dir, EXIT_INPUT, "dataset.json");
    refuse_dataset(a, path_of(a, "no-dataset"), EXIT_INPUT, "no-dataset");
    arena_free(a);
}

/* What a killed run leaves does not open, and does not disturb the next run. */
TEST(interrupted_writing)
{
    struct arena *a = arena_new("test");
    struct err e = { 0 };
    struct dataset d;
    const char *dir = path_of(a, "cut-off"), *temporary = arena_printf(a, "%s.tmp", dir);
    EXPECT(file_mkdirs(temporary, &e));
    EXPECT(file_write(arena_printf(a, "%s/tokens.bin.tmp.1", temporary), "abcd", 4, &e));
    refuse_dataset(a, temporary, EXIT_INPUT, "dataset.json");
    refuse_dataset(a, dir, EXIT_INPUT, "dataset.json");
    fresh_dataset(a, "cut-off");
    EXPECT(!file_exists(temporary));
    EXPECTF(dataset_open(a, dir, false, &d, &e), "%s", e.text);
    dataset_close(&d);
    arena_free(a);
}

/* torch.randperm(10) with seeds 0 and 1. */
TEST(order_of_samples)
{
    static const int64_t want[2][10] = { { 4, 1, 7, 5, 3, 9, 0, 8, 6, 2 }, { 5, 6, 1, 2, 0, 8, 9, 3, 7, 4 } };
    int64_t order[10];
    dataset_order(0, 0, 10, order);
    EXPECT(memcmp(order, want[0], sizeof order) == 0);
    dataset_order(0, 1, 10, order);
    EXPECT(memcmp(order, want[1], sizeof order) == 0);
}

static const char *inspect(struct arena *a, const char *dir, int64_t sequence, bool *ok, struct err *e)
{
    size_t bytes;
    const char *path = path_of(a, "inspected");
    fflush(stdout);
    const int out = dup(1);
    if (!freopen(path, "w", stdout))
        return "";
    *ok = dataset_inspect(dir, sequence, e);
    fflush(stdout);
    dup2(out, 1);
    close(out);
    return file_read(a, path, 1 << 24, &bytes, e);
}

TEST(inspection)
{
    struct arena *a = arena_new("test");
    struct err e = { 0 }, past = { 0 };
    bool ok = false;
    struct prepare_options o = { .inputs = write_file(a, "look.jsonl",
                                                      "{\"text\": \"one two\"}\n{\"text\": \"abcdefgh\"}\n"),
                                 .save_path = path_of(a, "look"),
                                 .sequence_length = 10,
                                 .threads = 1 };
    EXPECTF(run_prepare(a, o, &e), "%s", e.text);
    const char *text = inspect(a, o.save_path, 0, &ok, &e);
    EXPECTF(ok, "%s", e.text);
    EXPECTF(strstr(text, "look.jsonl, byte 0") && strstr(text, "look.jsonl, byte 20") &&
                strstr(text, "one two"),
            "%s", text);
    inspect(a, o.save_path, 5, &ok, &past);
    EXPECT(!ok && past.code == EXIT_USAGE);
    arena_free(a);
}
