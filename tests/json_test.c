/* json_test.c - reading JSON trees: values, order, lines in messages, limits. */
#include "base/arena.h"
#include "base/file.h"
#include "base/json.h"
#include "base/str.h"
#include "tests/test.h"
#include <stdlib.h>
#include <time.h>

static struct json *parse(const char *text, struct err *e)
{
    *e = (struct err){ 0 };
    return json_parse(text, strlen(text), "x.json", e);
}

TEST(json_values)
{
    struct err e;
    size_t bytes;
    const char *key;
    struct json *j =
        parse("{\"b\": 1, \"a\": [true, null, 2.5, \"x\\u0000y\", {}], \"big\": 9223372036854775807}", &e);
    EXPECT(j != NULL);
    if (!j)
        return;
    jval root = json_root(j), a = json_get(root, "a");
    EXPECT_INT(json_type(root), JSON_OBJECT);
    EXPECT_INT(json_count(root), 3);
    EXPECT_INT(json_int(json_get(root, "b")), 1);
    EXPECT_INT(json_int(json_get(root, "big")), INT64_MAX);
    EXPECT(json_number(json_get(root, "b")) == 1);
    EXPECT(json_bool(json_at(a, 0)));
    EXPECT_INT(json_type(json_at(a, 1)), JSON_NULL);
    EXPECT(json_number(json_at(a, 2)) == 2.5);
    EXPECT(!memcmp(json_string(json_at(a, 3), &bytes), "x\0y", 4) && bytes == 3);
    EXPECT_INT(json_count(json_at(a, 4)), 0);
    EXPECT_INT(json_count(json_at(a, 0)), 0);
    EXPECT(json_get(root, "none") == NULL && json_get(a, "b") == NULL && json_get(NULL, "b") == NULL);
    EXPECT_INT(json_type(NULL), JSON_ABSENT);
    EXPECT(json_entry(root, 2, &key) == json_get(root, "big"));
    EXPECT_TEXT(key, "big");
    EXPECT(json_entry(root, 0, &key) == json_get(root, "b"));
    EXPECT_TEXT(key, "b");
    json_free(j);
    json_free(NULL);
}

TEST(json_refuses)
{
    static const char *const bad[][2] = {
        { "", "x.json:1: empty file, expected JSON" },
        { "{\"a\": 1,\n \"a\": 2}", "x.json:2: " },
        { "{\"a\": NaN}", "x.json:1: " },
        { "{\"a\": 1e400}", "x.json:1: " },
        { "{\"a\": 99999999999999999999}", "x.json:1: " },
        { "{\n\n\"a\": [1, 2", "x.json:3: " },
        { "{} x", "x.json:1: " },
        { "\"\\ud83d\"", "x.json:1: " },
        { "\"\xff\"", "x.json:1: " },
        { "{\"a\\u0000\": 1}", "x.json:1: " },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct err e;
        EXPECTF(parse(bad[i][0], &e) == NULL, "accepted %s", bad[i][0]);
        EXPECTF(!strncmp(e.text, bad[i][1], strlen(bad[i][1])), "case %zu: %s", i, e.text);
        EXPECT_INT(e.code, EXIT_INPUT);
    }
}

TEST(json_limits_depth)
{
    enum { DEEP = 100000 };
    static char text[DEEP];
    struct err e = { 0 };
    memset(text, '[', DEEP);
    EXPECT(json_parse(text, DEEP, "deep", &e) == NULL);
    EXPECT_TEXT(e.text, "deep:1: JSON nested deeper than 2048");
    memset(text + 2000, ']', 2000);
    e = (struct err){ 0 };
    struct json *j = json_parse(text, 4000, "deep", &e);
    EXPECT(j != NULL);
    json_free(j);
}

#define EXPECT_ERR(call, want)                                                                               \
    do {                                                                                                     \
        e = (struct err){ 0 };                                                                               \
        EXPECT(!(call));                                                                                     \
        EXPECT_TEXT(e.text, want);                                                                           \
    } while (0)

TEST(json_errors_name_the_line)
{
    struct err e;
    int64_t n;
    double x;
    bool b;
    const char *s;
    jval v;
    struct json *j = parse("{\n"                                                /* 1 */
                           " \"value\": \"n\\\" [{\", \"list\": [{\"n\": 1},\n" /* 2 */
                           "   {\"k\": \"n\", \"deep\": {\"n\": 4},\n"          /* 3 */
                           "    \"n\": true}],\n"                               /* 4 */
                           " \"n\" \n : 7, \"nul\": \"a\\u0000b\" }\n",         /* 5 */
                           &e);
    EXPECT(j != NULL);
    if (!j)
        return;
    jval root = json_root(j), list = json_get(root, "list"), item = json_at(list, 1),
         deep = json_get(item, "deep");
    EXPECT(json_want_int(j, root, "n", 0, 7, &n, &e) && n == 7);
    EXPECT(json_want_number(j, root, "n", &x, &e) && x == 7);
    EXPECT(json_want_bool(j, item, "n", &b, &e) && b);
    EXPECT(json_want_string(j, root, "value", &s, &e) && !strcmp(s, "n\" [{"));
    EXPECT(json_want_array(j, root, "list", &v, &e) && v == list);
    EXPECT(json_want_object(j, item, "deep", &v, &e) && v == deep);
    EXPECT_ERR(json_want_int(j, root, "n", 8, 9, &n, &e), "x.json:5: n: 7 is out of range, expected 8 to 9");
    EXPECT_ERR(json_want_int(j, root, "n", 5, 6, &n, &e), "x.json:5: n: 7 is out of range, expected 5 to 6");
    EXPECT_ERR(json_want_int(j, item, "n", 0, 9, &n, &e),
               "x.json:4: n: expected an integer, found true or false");
    EXPECT_ERR(json_want_number(j, item, "k", &x, &e), "x.json:3: k: expected a number, found string");
    EXPECT_ERR(json_want_bool(j, deep, "n", &b, &e), "x.json:3: n: expected true or false, found integer");
    EXPECT_ERR(json_want_object(j, item, "gone", &v, &e), "x.json:3: gone: missing, expected an object");
    EXPECT_ERR(json_want_array(j, root, "value", &v, &e), "x.json:2: value: expected an array, found string");
    EXPECT_ERR(json_want_string(j, list, "a", &s, &e),
               "x.json:2: expected an object with the key 'a', found array");
    EXPECT_ERR(json_want_string(j, root, "nul", &s, &e), "x.json:6: nul: the string holds a NUL character");
    EXPECT_ERR(json_err(j, deep, NULL, &e, "odd %d", 3), "x.json:3: odd 3");
    json_free(j);
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* 100,000 objects in an object, both levels walked with json_entry, and 9 trees at once: quadratic time shows. */
TEST(json_entry_is_linear)
{
    enum { N = 100000 };
    struct arena *a = arena_new("test");
    struct str s = str_new(a, 10000000);
    struct err e = { 0 };
    const double start = now_s();
    int64_t sum = 0;
    str_add(&s, "{");
    for (int i = 0; i < N; i++)
        str_addf(&s, "%s\"k%d\": {\"a\": %d, \"b\": 1}", i ? ", " : "", i, i);
    str_add(&s, "}");
    struct json *j = json_parse(s.text, s.bytes, "x", &e);
    EXPECT(j != NULL);
    for (int64_t i = 0; j && i < N; i++) {
        const char *key;
        jval v = json_entry(json_root(j), i, &key);
        EXPECT_INT(strtol(key + 1, NULL, 10), i);
        for (int64_t k = 0; k < 2; k++)
            sum += json_int(json_entry(v, k, &key));
    }
    json_free(j);
    EXPECT_INT(sum, (int64_t)N * (N - 1) / 2 + N);
    EXPECTF(now_s() - start < 10, "took %.1f s", now_s() - start);
    arena_free(a);
}

TEST(json_cursor_survives_free)
{
    for (int i = 0; i < 100; i++) { /* the allocator likes to return the same addresses */
        struct err e;
        const char *key;
        struct json *j = parse(i % 2 ? "{\"a\": 1, \"b\": 2}" : "{\"c\": 3, \"d\": 4, \"e\": 5}", &e);
        jval v = json_entry(json_root(j), 0, &key);
        EXPECT_INT(json_int(v), i % 2 ? 1 : 3);
        EXPECT(json_entry(json_root(j), 1, &key) != v);
        EXPECT_TEXT(key, i % 2 ? "b" : "d");
        json_free(j);
    }
}

TEST(json_reads_a_real_tokenizer)
{
    const char *path = "../shared/tokenizer/deepseek-llm/tokenizer.json";
    if (!file_exists(path)) {
        test_skip("%s is not there", path);
        return;
    }
    struct err e = { 0 };
    const double start = now_s();
    struct json *j = json_read(path, 1 << 26, &e);
    EXPECTF(j != NULL, "%s", e.text);
    if (j)
        EXPECT(json_count(json_get(json_get(json_root(j), "model"), "vocab")) > 50000);
    EXPECTF(now_s() - start < 10, "took %.2f s", now_s() - start); /* 0.15 s; 10 under sanitizers */
    json_free(j);
    EXPECT(json_read(path, 1000, &e) == NULL);
    EXPECT(strstr(e.text, "at most 1000 are allowed here"));
}
