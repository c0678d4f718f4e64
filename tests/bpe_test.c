/* Golden ids: python3 tests/golden/tokenizer.py (Hugging Face's tokenizers). One small vocabulary, one tokenizer per
 * line of cases.jsonl; each differs in its pre-tokenizer, normalizer or added tokens. */
#include "tests/bpe_fixture.h"

static char *from_hex(struct arena *a, const char *hex, size_t *bytes)
{
    *bytes = strlen(hex) / 2;
    char *out = arena_alloc(a, *bytes + 1);
    for (size_t i = 0; i < *bytes; i++)
        out[i] = (char)strtol((char[]){ hex[2 * i], hex[2 * i + 1], 0 }, NULL, 16);
    return out;
}

/* Every place where the tokenizer says that the text can be divided gives the same ids. */
static void check_cuts(const struct bpe *t, const char *name, const char *text, size_t bytes,
                       const int32_t *ids, int64_t n)
{
    struct err e = { 0 };
    struct bpe_encoder *x = bpe_encoder_new(t);
    const int32_t *part;
    for (size_t most = bytes; most > 0;) {
        const size_t at = bpe_cut(t, text, bytes, most);
        if (at == 0)
            break;
        const int64_t left = bpe_encode(x, text, at, &part, &e);
        bool same = left >= 0 && left <= n && memcmp(part, ids, (size_t)left * sizeof *ids) == 0;
        const int64_t right = bpe_encode(x, text + at, bytes - at, &part, &e);
        same = same && left + right == n && memcmp(part, ids + left, (size_t)right * sizeof *ids) == 0;
        EXPECTF(same, "%s: other ids when divided at byte %zu", name, at);
        most = at - 1;
    }
    bpe_encoder_free(x);
}

static void check_text(const struct bpe *t, struct bpe_encoder *x, const char *name, const char *text,
                       size_t bytes, jval want)
{
    struct err e = { 0 };
    const int32_t *ids;
    const int64_t n = bpe_encode(x, text, bytes, &ids, &e);
    EXPECTF(n >= 0, "%s: %s", name, e.text);
    EXPECTF(n == json_count(want), "%s: %lld ids, expected %lld", name, (long long)n,
            (long long)json_count(want));
    for (int64_t i = 0; i < n && n == json_count(want); i++)
        if (ids[i] != json_int(json_at(want, i))) {
            test_fail(__FILE__, __LINE__, "%s: id %lld is %d, expected %lld", name, (long long)i, ids[i],
                      (long long)json_int(json_at(want, i)));
            break;
        }
    if (n > 0)
        check_cuts(t, name, text, bytes, ids, n);
}

static void check_case(struct arena *a, const char *line)
{
    struct err e = { 0 };
    size_t bytes;
    struct json *j = json_parse(line, strcspn(line, "\n"), "cases.jsonl", &e);
    EXPECTF(j != NULL, "%s", e.text);
    if (!j)
        return;
    jval root = json_root(j), texts = json_get(root, "texts");
    const char *name = json_string(json_get(root, "name"), NULL);
    char *model = read_golden(a, "model.json"), *flag = strstr(model, "\"ignore_merges\":false");
    if (json_bool(json_get(root, "ignore_merges")))
        memcpy(flag, "\"ignore_merges\": true", sizeof "\"ignore_merges\": true" - 1);
    struct bpe *t = bpe_open(write_tokenizer(a, json_string(json_get(root, "head"), NULL), model), &e);
    EXPECTF(t != NULL, "%s: %s", name, e.text);
    struct bpe_encoder *x = t ? bpe_encoder_new(t) : NULL;
    for (int repeat = 0; t && repeat < 2; repeat++) /* the second time from the cache */
        for (int64_t i = 0; i < json_count(texts); i++) {
            jval pair = json_at(texts, i);
            const char *text = from_hex(a, json_string(json_at(pair, 0), NULL), &bytes);
            check_text(t, x, name, text, bytes, json_at(pair, 1));
        }
    bpe_encoder_free(x);
    bpe_close(t);
    json_free(j);
}

TEST(golden_ids)
{
    struct arena *a = arena_new("test");
    int n = 0;
    const size_t mark = arena_mark(a);
    char *cases = strdup(read_golden(a, "cases.jsonl"));
    for (const char *line = cases; *line; n++) {
        arena_reset(a, mark);
        check_case(a, line);
        line += strcspn(line, "\n");
        line += *line == '\n';
    }
    EXPECT(n >= 73);
    free(cases);
    arena_free(a);
}

/* Whole books with a large vocabulary, where it lies beside the repository. */
TEST(books)
{
    struct arena *a = arena_new("test");
    struct err e = { 0 };
    const char *dir = "../shared/tokenizer/deepseek-llm";
    struct bpe *t = file_exists(dir) ? bpe_open(dir, &e) : NULL;
    if (!t) {
        test_skip("%s is not there", dir);
        arena_free(a);
        return;
    }
    struct bpe_encoder *x = bpe_encoder_new(t);
    char hex[17];
    char *name, *want, *digest, *rest = NULL;
    for (char *line = read_golden(a, "books.txt");
         (name = strtok_r(line, " ", &rest)) && (want = strtok_r(NULL, " ", &rest)) &&
         (digest = strtok_r(NULL, "\n", &rest));
         line = NULL) {
        size_t bytes, decoded_bytes;
        const int32_t *ids;
        const char *text = file_read(a, arena_printf(a, "../shared/books/%s", name), 1 << 28, &bytes, &e);
        EXPECTF(text != NULL, "%s", e.text);
        if (!text)
            break;
        const int64_t n = bpe_encode(x, text, bytes, &ids, &e);
        hash_hex(hash_bytes(ids, (size_t)n * sizeof *ids), hex);
        EXPECT_INT(n, strtoll(want, NULL, 10));
        EXPECT_TEXT(hex, digest);
        const char *decoded = bpe_decode(t, a, ids, n, false, &decoded_bytes);
        EXPECTF(decoded_bytes == bytes && memcmp(decoded, text, bytes) == 0, "%s: decodes to something else",
                name);
    }
    bpe_encoder_free(x);
    bpe_close(t);
    arena_free(a);
}

/* Bytes without a token disappear, as in the library, and their neighbours meet. */
TEST(missing_bytes_disappear)
{
    struct arena *a = arena_new("test");
    struct err e = { 0 };
    const int32_t *ids;
    struct bpe *t =
        bpe_open(write_tokenizer(a, arena_printf(a, "\"pre_tokenizer\":%s", byte_level),
                                 "{\"vocab\":{\"a\":5,\"b\":1,\"ab\":9},\"merges\":[[\"a\",\"b\"]]}"),
                 &e);
    EXPECTF(t != NULL, "%s", e.text);
    struct bpe_encoder *x = bpe_encoder_new(t);
    EXPECT_INT(bpe_vocab_size(t), 10);
    EXPECT_INT(bpe_encode(x, "xaxbya", 6, &ids, &e), 2);
    EXPECT_INT(ids[0], 9);
    EXPECT_INT(ids[1], 5);
    EXPECT_INT(bpe_encode(x, "xyz", 3, &ids, &e), 0);
    EXPECT_INT(bpe_encode(x, "", 0, &ids, &e), 0);
    bpe_encoder_free(x);
    bpe_close(t);
    arena_free(a);
}

static void check_special(struct arena *a, const char *file, const char *text, int32_t bos, int32_t eos)
{
    struct err e = { 0 };
    const char *dir =
        write_tokenizer(a, added(a, "<s>", 3), "{\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[]}");
    write_file(arena_printf(a, "%s/%s", dir, file), text);
    struct bpe *t = bpe_open(dir, &e);
    EXPECTF(t != NULL, "%s", e.text);
    EXPECT_INT(t ? bpe_bos(t) : -2, bos);
    EXPECT_INT(t ? bpe_eos(t) : -2, eos);
    bpe_close(t);
}

TEST(bos_and_eos)
{
    struct arena *a = arena_new("test");
    struct err e = { 0 };
    check_special(a, "nothing.json", "{}", -1, -1);
    check_special(a, "tokenizer_config.json", "{\"bos_token\":\"<s>\",\"eos_token\":{\"content\":\"ab\"}}", 3,
                  2);
    check_special(a, "tokenizer_config.json", "{\"bos_token\":null}", -1, -1);
    check_special(a, "special_tokens_map.json", "{\"eos_token\":\"<s>\"}", -1, 3);
    const char *dir =
        write_tokenizer(a, added(a, "<s>", 3), "{\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[]}");
    write_file(arena_printf(a, "%s/tokenizer_config.json", dir), "{\"bos_token\":\"<none>\"}");
    EXPECT(!bpe_open(dir, &e));
    EXPECTF(strstr(e.text, "bos_token") && strstr(e.text, "<none>"), "%s", e.text);
    arena_free(a);
}

static const char *fingerprint(struct arena *a, const char *head, const char *model)
{
    struct err e = { 0 };
    struct bpe *t = bpe_open(write_tokenizer(a, head, model), &e);
    EXPECTF(t != NULL, "%s", e.text);
    const char *copy = t ? arena_strdup(a, bpe_fingerprint(t)) : "";
    bpe_close(t);
    return copy;
}

TEST(fingerprint_follows_what_decides_the_ids)
{
    struct arena *a = arena_new("test");
    const char *head = arena_printf(a, "\"pre_tokenizer\":%s", byte_level);
    const char *model = "{\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"ba\":3},\"merges\":[\"a b\",\"b a\"]}";
    const char *base = fingerprint(a, head, model);
    EXPECT_INT((int64_t)strlen(base), 16);
    EXPECT_TEXT(fingerprint(a, head, model), base);
    EXPECT_TEXT(fingerprint(a, arena_printf(a, "\"post_processor\":{\"type\":\"Odd\"},%s", head), model),
                base);
    const char *others[] = {
        fingerprint(a, head, "{\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"ba\":3},\"merges\":[\"b a\",\"a b\"]}"),
        fingerprint(a, head, "{\"vocab\":{\"a\":1,\"b\":0,\"ab\":2,\"ba\":3},\"merges\":[\"a b\",\"b a\"]}"),
        fingerprint(a, arena_printf(a, "%s,\"normalizer\":{\"type\":\"NFC\"}", head), model),
        fingerprint(a, added(a, "<s>", 4), model),
        fingerprint(
            a, "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"use_regex\":false}",
            model),
        fingerprint(a, "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false}", model),
    };
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        EXPECTF(strcmp(others[i], base) != 0, "change %zu does not show", i);
    arena_free(a);
}

/* One second for 4 million characters of one kind would already be a sign of more than linear time: the same with
 * n^2 takes hours. */
TEST(long_runs_take_linear_time)
{
    enum { N = 4000000 };
    static const char *const units[] = { " ", "a", "7", "\xe4\xb8\xad", "\n", "ab ", " a" };
    struct arena *a = arena_new("test");
    struct err e = { 0 };
    char *cases = read_golden(a, "cases.jsonl");
    const char *line = strstr(cases, "{\"name\":\"v2 steps\"");
    struct json *j = json_parse(line, strcspn(line, "\n"), "cases.jsonl", &e);
    struct bpe *t = bpe_open(write_tokenizer(a, json_string(json_get(json_root(j), "head"), NULL), NULL), &e);
    EXPECTF(t != NULL, "%s", e.text);
    struct bpe_encoder *x = bpe_encoder_new(t);
    char *text = arena_alloc(a, N + 8);
    for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
        const size_t unit = strlen(units[u]);
        size_t bytes = 0, decoded;
        const int32_t *ids;
        for (; bytes < N; bytes += unit)
            memcpy(text + bytes, units[u], unit);
        memcpy(text + bytes, "5 x", 3);
        const int64_t n = bpe_encode(x, text, bytes + 3, &ids, &e);
        const char *back = n > 0 ? bpe_decode(t, a, ids, n, false, &decoded) : NULL;
        EXPECTF(back && decoded == bytes + 3 && memcmp(back, text, decoded) == 0, "run of '%s'", units[u]);
    }
    bpe_encoder_free(x);
    bpe_close(t);
    json_free(j);
    arena_free(a);
}

TEST(decoding)
{
    struct arena *a = arena_new("test");
    struct err e = { 0 };
    size_t bytes;
    struct bpe *t =
        bpe_open(write_tokenizer(a, added(a, "<s> \xc3\xb8", 3),
                                 "{\"vocab\":{\"\xc4\xa0\":0,\"\xc3\xb8\":1,\"x\":2},\"merges\":[]}"),
                 &e);
    EXPECTF(t != NULL, "%s", e.text);
    const int32_t ids[] = { 2, 0, 1, 3, 7, -1, 2 };
    const char *text = bpe_decode(t, a, ids, 7, false, &bytes);
    EXPECT_INT(bytes, 10);
    EXPECT(memcmp(text, "x \xf8<s> \xc3\xb8x", 10) == 0);
    text = bpe_decode(t, a, ids, 7, true, &bytes);
    EXPECT_INT(bytes, 4);
    EXPECT(memcmp(text, "x \xf8x", 4) == 0);
    EXPECT_INT(bpe_token_id(t, "<s> \xc3\xb8"), 3);
    EXPECT_INT(bpe_token_id(t, "none"), -1);
    EXPECT(bpe_is_special(t, 3) && !bpe_is_special(t, 2) && !bpe_is_special(t, 99));
    bpe_close(t);
    arena_free(a);
}

static const char *train(struct arena *a, const char *name, const char *text, int64_t vocab_size,
                         struct err *e)
{
    const char *file = arena_printf(a, "%s/%s.txt", test_dir(), name),
               *dir = arena_printf(a, "%s/%s", test_dir(), name);
    write_file(file, text);
    return bpe_train(&file, 1, vocab_size, "text", dir, e) ? dir : NULL;
}

TEST(training)
{
    struct arena *a = arena_new("test");
    struct err e = { 0 }, small = { 0 };
    size_t bytes, again_bytes, decoded;
    const int32_t *ids;
    const char *model = read_golden(a, "model.json"); /* as good a text as any */
    const char *dir = train(a, "first", model, 400, &e), *again = train(a, "again", model, 400, &e);
    EXPECTF(dir && again, "%s", e.text);
    const char *x = file_read(a, arena_printf(a, "%s/tokenizer.json", dir), 1 << 24, &bytes, &e),
               *y = file_read(a, arena_printf(a, "%s/tokenizer.json", again), 1 << 24, &again_bytes, &e);
    EXPECT(bytes == again_bytes && memcmp(x, y, bytes) == 0);
    struct bpe *t = bpe_open(dir, &e);
    EXPECTF(t != NULL, "%s", e.text);
    EXPECT_INT(bpe_vocab_size(t), 400);
    EXPECT_INT(bpe_bos(t), 398);
    EXPECT_INT(bpe_eos(t), 399);
    EXPECT_INT(bpe_token_id(t, "<|begin|>"), 398);
    struct bpe_encoder *encoder = bpe_encoder_new(t);
    const char *text = "<|begin|>any \xe4\xb8\xad bytes 123<|end|>";
    const int64_t n = bpe_encode(encoder, text, strlen(text), &ids, &e);
    EXPECT_INT(ids[0], 398);
    EXPECT_INT(ids[n - 1], 399);
    const char *back = bpe_decode(t, a, ids, n, false, &decoded);
    EXPECT(decoded == strlen(text) && memcmp(back, text, decoded) == 0);
    EXPECTF(bpe_encode(encoder, model, strlen(model), &ids, &e) < (int64_t)strlen(model) * 3 / 4,
            "hardly any merges");
    bpe_encoder_free(encoder);
    bpe_close(t);
    EXPECT(!train(a, "small", "ab", 400, &small));
    EXPECTF(small.text[0], "an error");
    arena_free(a);
}
