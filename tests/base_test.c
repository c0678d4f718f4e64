/* base_test.c - err, arena, str, hash. */
#include "base/arena.h"
#include "base/err.h"
#include "base/hash.h"
#include "base/str.h"
#include "tests/test.h"
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* Runs f in a child; what it printed on standard error is in text, the wait status is returned. */
static int run_child(void (*f)(void), char *text, size_t bytes)
{
    int ends[2], status = -1;
    if (pipe(ends) != 0)
        return -1;
    fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
        dup2(ends[1], STDERR_FILENO);
        f();
        _exit(0);
    }
    close(ends[1]);
    size_t used = 0;
    for (ssize_t n; used + 1 < bytes && (n = read(ends[0], text + used, bytes - 1 - used)) > 0;)
        used += (size_t)n;
    text[used] = 0;
    close(ends[0]);
    waitpid(child, &status, 0);
    return status;
}

static void die_alone(void)
{
    die_at("x.c", 7, NULL, "disk %s", "gone");
}

static void stop_others(int code)
{
    fprintf(stderr, "stop %d\n", code);
}

static void die_as_rank(void)
{
    err_on_rank(3, 4, stop_others);
    die_at("x.c", 7, NULL, "disk %s", "gone");
}

static void die_in_hook(int code)
{
    die("again %d", code);
}

static void die_twice(void)
{
    err_on_rank(0, 1, die_in_hook);
    die_at("x.c", 7, NULL, "once");
}

static void die_of_input(void)
{
    struct err e = { 0 };
    err_code(&e, EXIT_CORRUPT, "bad file");
    die_err(&e);
}

static void check_fails(void)
{
    CHECK(1 > 2, "one is %d", 1);
}

TEST(err_first_text_wins_and_is_one_line)
{
    struct err e = { 0 };
    EXPECT(!err_set(&e, "a\nb"));
    EXPECT(!err_code(&e, EXIT_USAGE, "second"));
    EXPECT_TEXT(e.text, "a b");
    EXPECT_INT(e.code, EXIT_INPUT);
}

TEST(err_ends_the_program)
{
    char text[2000];
    int status = run_child(die_alone, text, sizeof text);
    EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == EXIT_WORLD);
    EXPECT_TEXT(text, "moec: x.c:7: disk gone\n");
    status = run_child(die_as_rank, text, sizeof text);
    EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == EXIT_WORLD);
    EXPECT_TEXT(text, "moec: rank 3: x.c:7: disk gone\nstop 1\n");
    status = run_child(die_twice, text, sizeof text);
    EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == EXIT_WORLD);
    EXPECT_TEXT(text, "moec: x.c:7: once\n");
    status = run_child(die_of_input, text, sizeof text);
    EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == EXIT_CORRUPT);
    EXPECT_TEXT(text, "moec: bad file\n");
    status = run_child(check_fails, text, sizeof text);
    EXPECT(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    EXPECT(strstr(text, "base_test.c:") && strstr(text, ": check failed: 1 > 2: one is 1\n"));
}

/* One "training step": the same allocations every time, across several blocks. */
static void allocate_a_step(struct arena *a, int fill)
{
    for (size_t i = 0; i < 300; i++) {
        const size_t bytes = 1 + i * i * 7 % 40000;
        unsigned char *p = arena_alloc(a, bytes);
        EXPECT((uintptr_t)p % 64 == 0);
        EXPECTF(p[0] == 0 && p[bytes / 2] == 0 && p[bytes - 1] == 0, "allocation %zu is not zero", i);
        memset(p, fill, bytes);
    }
}

TEST(arena_repeats_without_malloc)
{
    struct arena *a = arena_new("test");
    const char *kept = arena_printf(a, "%d-%s", 12, "ab");
    const size_t mark = arena_mark(a);
    allocate_a_step(a, 0xaa);
    const size_t before = arena_n_mallocs(), used = arena_used_bytes(a);
    for (int step = 0; step < 5; step++) {
        arena_reset(a, mark);
        EXPECT_INT(arena_mark(a), mark);
        allocate_a_step(a, 0xbb);
        EXPECT_INT(arena_used_bytes(a), used);
    }
    EXPECT_INT(arena_n_mallocs(), before);
    EXPECT_TEXT(kept, "12-ab");
    arena_reset(a, 0);
    EXPECT_INT(arena_used_bytes(a), 0);
    arena_free(a);
    arena_free(NULL);
}

/* Marks nest, and a later request that is larger than every waiting block still finds its way back. */
TEST(arena_marks_nest)
{
    struct arena *a = arena_new("test");
    char *first = arena_alloc(a, 10000);
    memset(first, 1, 10000);
    const size_t outer = arena_mark(a);
    char *second = arena_alloc(a, 10000);
    memset(second, 2, 10000);
    const size_t inner = arena_mark(a);
    for (size_t i = 0; i < 20; i++) {
        memset(arena_alloc(a, (size_t)3000 << i % 7), 3, (size_t)3000 << i % 7);
        if (i % 5 == 4)
            arena_reset(a, inner);
        EXPECT(second[0] == 2 && second[9999] == 2);
    }
    arena_reset(a, outer);
    memset(arena_alloc(a, 1 << 20), 4, 1 << 20);
    for (int i = 0; i < 10000; i++)
        EXPECT(first[i] == 1);
    arena_free(a);
}

static void arena_overflow(void)
{
    arena_array(arena_new("test"), INT64_MAX / 2, 16);
}

static void arena_negative(void)
{
    arena_array(arena_new("test"), -1, 1);
}

static void arena_hopeless(void)
{
    arena_alloc(arena_new("test"), SIZE_MAX - 10);
}

TEST(arena_refuses_absurd_sizes)
{
    char text[2000];
    EXPECT(WIFSIGNALED(run_child(arena_overflow, text, sizeof text)));
    EXPECT(strstr(text, "overflow"));
    EXPECT(WIFSIGNALED(run_child(arena_negative, text, sizeof text)));
    const int status = run_child(arena_hopeless, text, sizeof text);
    EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == EXIT_WORLD);
    EXPECT(strstr(text, "out of memory: test asks for"));
}

TEST(arena_slab_is_zero_and_aligned)
{
    for (size_t bytes = 0; bytes < 3 << 20; bytes = bytes * 3 + 1) {
        unsigned char *slab = arena_slab(bytes);
        EXPECT((uintptr_t)slab % 4096 == 0);
        for (size_t i = 0; i < bytes; i += 997)
            EXPECT(slab[i] == 0);
        memset(slab, 1, bytes);
        arena_slab_free(slab);
    }
    arena_slab_free(NULL);
}

TEST(str_grows_and_quotes)
{
    struct arena *a = arena_new("test");
    struct str s = str_new(a, 100000);
    for (int i = 0; i < 10000; i++)
        str_addf(&s, "%d,", i % 10);
    EXPECT_INT(s.bytes, 20000);
    EXPECT(s.text[20000] == 0 && s.text[19998] == '9' && strlen(s.text) == 20000);
    str_clear(&s);
    const char raw[] = "a\"b\\c\n\t\r\b\f\x01\x7f/\xc3\xa9\xe4\xb8\xad\xf0\x9f\x98\x80\0z";
    str_add_json(&s, raw, sizeof raw - 1);
    EXPECT_TEXT(s.text,
                "\"a\\\"b\\\\c\\n\\t\\r\\b\\f\\u0001\x7f/\xc3\xa9\xe4\xb8\xad\xf0\x9f\x98\x80\\u0000z\"");
    str_clear(&s);
    str_add_json(&s, "\xff\xc0\xaf\xed\xa0\x80\xe2\x82", 8); /* invalid, overlong, surrogate, cut off */
    EXPECT_TEXT(s.text, "\"\\ufffd\\ufffd\\ufffd\\ufffd\\ufffd\\ufffd\\ufffd\\ufffd\"");
    arena_free(a);
}

static void str_beyond(void)
{
    struct str s = str_new(arena_new("test"), 10);
    str_add(&s, "12345678901");
}

TEST(str_has_a_maximum)
{
    char text[2000];
    EXPECT(WIFSIGNALED(run_child(str_beyond, text, sizeof text)));
    EXPECT(strstr(text, "maximum of 10"));
}

TEST(str_nearest_name)
{
    const char *const names[] = { "learning_rate", "lr", "max_steps", "min_lr" };
    EXPECT_INT(str_distance("kitten", "sitting"), 3);
    EXPECT_INT(str_distance("", "abc"), 3);
    EXPECT_TEXT(str_nearest("max_step", names, 4), "max_steps");
    EXPECT_TEXT(str_nearest("learnin_rat", names, 4), "learning_rate");
    EXPECT(str_nearest("completely_else", names, 4) == NULL);
}

TEST(hash_xxh3)
{
    char hex[17];
    hash_hex(hash_text(""), hex);
    EXPECT_TEXT(hex, "2d06800538d394c2");
    hash_hex(hash_text("abc"), hex);
    EXPECT_TEXT(hex, "78af5f94892f3950");
    char data[5000];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (char)(i * 31);
    struct hash_state *h = hash_begin();
    for (size_t i = 0, n = 1; i < sizeof data; i += n, n = n * 3 % 701)
        hash_add(h, data + i, i + n < sizeof data ? n : sizeof data - i);
    EXPECT(hash_end(h) == hash_bytes(data, sizeof data));
}
