/* Tokenizers that must be refused: each error names the file, the place and what was found. */
#include "tests/bpe_fixture.h"

/* Opens a tokenizer that must be refused with a text that contains all the words (separated by '|'). */
static void refuse(struct arena *a, const char *head, const char *model, const char *words)
{
    struct err e = { 0 };
    struct bpe *t = bpe_open(write_tokenizer(a, head, model), &e);
    EXPECTF(t == NULL, "accepted: %s", head);
    bpe_close(t);
    EXPECT_INT(e.code, t ? 0 : EXIT_INPUT);
    for (char *word = strtok(arena_strdup(a, words), "|"); word && !t; word = strtok(NULL, "|"))
        EXPECTF(strstr(e.text, word) != NULL, "'%s' is not in: %s", word, e.text);
}

static void refuse_pre_tokenizer(struct arena *a, const char *step, const char *words)
{
    refuse(a,
           arena_printf(a, "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[%s,%s]}", step,
                        byte_level),
           NULL, words);
}

static void refuse_pattern(struct arena *a, const char *pattern, const char *words)
{
    struct str s = str_new(a, 1 << 12);
    str_add_json(&s, pattern, strlen(pattern));
    refuse_pre_tokenizer(
        a,
        arena_printf(a,
                     "{\"type\":\"Split\",\"pattern\":{\"Regex\":%s},\"behavior\":\"Isolated\","
                     "\"invert\":false}",
                     s.text),
        words);
}

TEST(unsupported_steps_are_named)
{
    struct arena *a = arena_new("test");
    const char *whole = arena_printf(a, "\"pre_tokenizer\":%s", byte_level);
    refuse(a, "\"pre_tokenizer\":null", NULL, "tokenizer.json:|pre_tokenizer|ByteLevel is missing");
    refuse_pre_tokenizer(a, "{\"type\":\"Metaspace\"}", "tokenizer.json:1|Metaspace|Split, Digits");
    refuse_pre_tokenizer(a, "7", "expected an object|integer");
    refuse_pre_tokenizer(a, byte_level, "behind ByteLevel");
    refuse_pre_tokenizer(a, "{\"type\":\"Digits\"}", "individual_digits|true or false");
    refuse_pre_tokenizer(
        a, "{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},\"behavior\":\"Odd\",\"invert\":false}",
        "behavior|Odd");
    refuse_pre_tokenizer(a, "{\"type\":\"Split\",\"pattern\":{},\"behavior\":\"Isolated\",\"invert\":false}",
                         "pattern|Regex");
    refuse(a, arena_printf(a, "%s,\"normalizer\":{\"type\":\"NFKC\"}", whole), NULL, "normalizer|NFKC|NFC");
    refuse(a,
           arena_printf(a, "%s,\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Strip\"}]}",
                        whole),
           NULL, "Strip");
    arena_free(a);
}

TEST(unsupported_patterns_are_named)
{
    struct arena *a = arena_new("test");
    refuse_pattern(a, "[a&&b]", "Regex|&&|byte 2");
    refuse_pattern(a, "[a[b]]", "nested");
    refuse_pattern(a, "[[:alpha:]]", "nested");
    refuse_pattern(a, "(?<name>a)", "group");
    refuse_pattern(a, "(?x) a", "group (?");
    refuse_pattern(a, "a(?i)b", "in the middle");
    refuse_pattern(a, "(a", "group without )");
    refuse_pattern(a, "a)", "unexpected )");
    refuse_pattern(a, "*a", "repeat of nothing");
    refuse_pattern(a, "a{3,2}", "repeat count");
    refuse_pattern(a, "[z-a]", "range");
    refuse_pattern(a, "[a", "without ]");
    refuse_pattern(a, "a\\", "backslash at the end");
    refuse_pattern(a, "(a)\\1", "escape \\1");
    refuse_pattern(a, "\\K", "escape \\K");
    refuse_pattern(a, "\\p{Martian}", "Martian");
    refuse_pattern(a, "\\p", "{Name}");
    refuse_pattern(a, "\\uD800", "hexadecimal");
    refuse_pattern(a,
                   "(?i)stra\xc3\x9f"
                   "e",
                   "(?i)");
    refuse_pattern(a, "(?i)[\xc3\x80-\xc3\x96]", "(?i)");
    char deep[405];
    memset(deep, '(', 200);
    memset(deep + 200, ')', 200);
    deep[400] = 0;
    refuse_pattern(a, deep, "nested too deep");
    arena_free(a);
}

static void refuse_model(struct arena *a, const char *model, const char *words)
{
    refuse(a, arena_printf(a, "\"pre_tokenizer\":%s", byte_level), model, words);
}

/* Such files differ in every other part too: the type must be what is reported. */
TEST(other_model_types_are_named)
{
    struct arena *a = arena_new("test");
    const char *rest = "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]";
    const char *spaces = "\"pre_tokenizer\":{\"type\":\"Metaspace\"}";
    refuse_model(a, arena_printf(a, "{\"type\":\"Unigram\",%s}", rest),
                 "type: model type \"Unigram\"|\"BPE\"");
    refuse(a, spaces, "{\"type\":\"Unigram\",\"vocab\":[[\"a\",-1.5]]}",
           "tokenizer.json:1:|\"Unigram\"|\"BPE\"");
    refuse(a, "\"normalizer\":{\"type\":\"BertNormalizer\"}", "{\"type\":\"WordPiece\",\"vocab\":{\"a\":0}}",
           "model type \"WordPiece\"|\"BPE\"");
    refuse_model(a, arena_printf(a, "{\"type\":\"bpe\",%s}", rest), "model type \"bpe\"|\"BPE\"");
    refuse_model(a, arena_printf(a, "{\"type\":7,%s}", rest), "type: expected a string, found integer");
    refuse_model(a, arena_printf(a, "{\"type\":null,%s}", rest), "type: expected a string, found null");
    refuse_model(a, arena_printf(a, "{\"type\":\"BPE\\u0000x\",%s}", rest), "type|NUL");
    refuse(a, spaces, "{\"vocab\":[[\"a\",-1.5]]}", "vocab: expected an object, found array");
    refuse(a, spaces, "{\"vocab\":{\"a\":0}}", "merges: missing, expected an array");
    arena_free(a);
}

TEST(bad_models_are_refused)
{
    struct arena *a = arena_new("test");
    const char *rest = "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]";
    refuse_model(a, "[]", "model|object");
    refuse_model(a, arena_printf(a, "{\"dropout\":0.1,%s}", rest), "dropout");
    refuse_model(a, arena_printf(a, "{\"continuing_subword_prefix\":\"##\",%s}", rest),
                 "continuing_subword_prefix");
    refuse_model(a, arena_printf(a, "{\"end_of_word_suffix\":\"</w>\",%s}", rest), "end_of_word_suffix");
    refuse_model(a, arena_printf(a, "{\"byte_fallback\":true,%s}", rest), "byte_fallback|lacks bytes");
    refuse_model(a, arena_printf(a, "{\"unk_token\":\"<unk>\",%s}", rest), "unk_token|lacks bytes");
    refuse_model(a, "{\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}", "\"b\"|id 0 has two tokens");
    refuse_model(a, "{\"vocab\":{\"a\":-1},\"merges\":[]}", "\"a\"|expected an id");
    refuse_model(a, "{\"vocab\":{\"a\":99999999999},\"merges\":[]}", "\"a\"|expected an id");
    refuse_model(a, "{\"vocab\":{\"a\":\"0\"},\"merges\":[]}", "\"a\"|expected an id");
    refuse_model(a, "{\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}", "merges[0]|not in model.vocab");
    refuse_model(a, "{\"vocab\":{\"a\":0},\"merges\":[\"a\"]}", "merges[0]|expected");
    refuse_model(a, "{\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}", "merges[0]|expected");
    refuse_model(a, "{\"vocab\":{\"a\":0}}", "merges|missing");
    refuse_model(a, "{\"vocab\":{\"a\":0,\"a\":1},\"merges\":[]}", "a");
    char *longer = arena_alloc(a, 3000);
    memset(longer, 'x', 1025);
    refuse_model(a, arena_printf(a, "{\"vocab\":{\"%s\":0},\"merges\":[]}", longer), "longer than");
    arena_free(a);
}

TEST(bad_added_tokens_are_refused)
{
    struct arena *a = arena_new("test");
    const char *model = "{\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}";
    refuse(a, added(a, "<s>", 7), model, "added_tokens[0].id|<s>|3");
    refuse(a, added(a, "ab", 3), model, "added_tokens[0].id|ab|2");
    refuse(a, added(a, "", 3), model, "content");
    refuse(
        a,
        arena_printf(a, "\"pre_tokenizer\":%s,\"added_tokens\":[{\"id\":3,\"content\":\"<s>\"}]", byte_level),
        model, "single_word|missing");
    refuse(a, arena_printf(a, "\"pre_tokenizer\":%s,\"added_tokens\":{}", byte_level), model,
           "added_tokens|array");
    arena_free(a);
}

TEST(broken_files_are_refused)
{
    struct arena *a = arena_new("test");
    struct err e = { 0 }, none = { 0 };
    EXPECT(!bpe_open(arena_printf(a, "%s/nowhere", test_dir()), &none));
    EXPECT(strstr(none.text, "nowhere") != NULL);
    const char *dir = write_tokenizer(a, arena_printf(a, "\"pre_tokenizer\":%s", byte_level), NULL);
    const char *path = arena_printf(a, "%s/tokenizer.json", dir);
    size_t bytes;
    char *text = file_read(a, path, 1 << 24, &bytes, &e);
    for (size_t n = 0; n < bytes; n += 1 + bytes / 40) {
        struct err cut = { 0 };
        EXPECT(file_write(path, text, n, &e));
        struct bpe *t = bpe_open(dir, &cut);
        EXPECTF(!t && strstr(cut.text, "tokenizer.json:"), "cut to %zu bytes: '%s'", n, cut.text);
        bpe_close(t);
    }
    arena_free(a);
}
