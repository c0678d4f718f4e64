/* base_test.c - err, arena, str, hash, rng, num, pool, blas. Constants of torch were printed by torch 2. */
#include "base/arena.h"
#include "base/blas.h"
#include "base/err.h"
#include "base/hash.h"
#include "base/num.h"
#include "base/pool.h"
#include "base/rng.h"
#include "base/str.h"
#include "tests/test.h"
#include <signal.h>
#include <stdatomic.h>
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
        memset(arena_alloc(a, 3000 << i % 7), 3, (size_t)3000 << i % 7);
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

/* The known answers published with Random123 (kat_vectors, philox 4x32, 10 rounds). */
TEST(rng_philox_known_answers)
{
    static const uint32_t kat[3][10] = {
        { 0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 },
        { 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0x408f276d, 0x41c83b0e,
          0xa20bc7c6, 0x6d5451fd },
        { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09, 0x94fdcceb,
          0x5001e420, 0x24126ea1 },
    };
    for (int i = 0; i < 3; i++) {
        uint32_t out[4];
        rng_philox(kat[i], kat[i] + 4, out);
        EXPECT(!memcmp(out, kat[i] + 6, sizeof out));
    }
    EXPECT(rng_u64(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88) == 0x94fdccebd16cfe09);
}

TEST(rng_moments)
{
    enum { N = 200000 };
    double sum = 0, squares = 0, fourth = 0, flat = 0;
    for (uint64_t i = 0; i < N; i++) {
        const double x = rng_normal(7, 11, i), u = rng_uniform(7, 12, i);
        EXPECT(isfinite(x) && u >= 0 && u < 1);
        sum += x;
        squares += x * x;
        fourth += x * x * x * x;
        flat += u;
    }
    EXPECTF(fabs(sum / N) < 0.01, "mean %g", sum / N); /* 4.5 standard errors */
    EXPECTF(fabs(squares / N - 1) < 0.015, "variance %g", squares / N);
    EXPECTF(fabs(fourth / N - 3) < 0.1, "fourth moment %g", fourth / N);
    EXPECTF(fabs(flat / N - 0.5) < 0.003, "mean of uniform %g", flat / N);
    EXPECT(rng_u64(7, 11, 5) != rng_u64(7, 11, 6) && rng_u64(7, 11, 5) != rng_u64(8, 11, 5));
}

static uint64_t weighted_sum(const int64_t *p, int64_t n)
{
    uint64_t sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (uint64_t)(i * p[i]);
    return sum;
}

TEST(rng_permutation_of_torch)
{
    static int64_t p[1000003];
    const int64_t seed_0[] = { 4, 1, 7, 5, 3, 9, 0, 8, 6, 2 }, seed_1[] = { 5, 6, 1, 2, 0, 8, 9, 3, 7, 4 };
    const int64_t seed_5[] = { 411, 49, 291, 695, 678, 515, 112, 606 };
    rng_permutation(0, 10, p);
    EXPECT(!memcmp(p, seed_0, sizeof seed_0));
    rng_permutation(1, 10, p);
    EXPECT(!memcmp(p, seed_1, sizeof seed_1));
    rng_permutation(5, 1000, p);
    EXPECT(!memcmp(p, seed_5, sizeof seed_5));
    EXPECT_INT(weighted_sum(p, 1000), 253045579);
    rng_permutation(12345, 1000003, p);
    EXPECT_INT(p[1000002], 688738);
    EXPECT_INT(weighted_sum(p, 1000003), 249946278855445275);
    rng_permutation(9, 1, p);
    EXPECT_INT(p[0], 0);
    rng_permutation(9, 0, p);
}

TEST(num_every_half_comes_back)
{
    for (uint32_t i = 0; i < 65536; i++) {
        const uint16_t x = (uint16_t)i;
        EXPECTF(num_to_bf16(num_from_bf16(x)) == x, "bf16 %04x became %04x", x,
                num_to_bf16(num_from_bf16(x)));
        EXPECTF(num_to_f16(num_from_f16(x)) == x, "f16 %04x became %04x", x, num_to_f16(num_from_f16(x)));
    }
    EXPECT(num_from_f16(0x3c00) == 1 && num_from_f16(0xc000) == -2 && num_from_f16(0x7bff) == 65504);
    EXPECT(num_from_f16(1) == 0x1p-24f && num_from_f16(0x0400) == 0x1p-14f && num_from_bf16(0x3f80) == 1);
    EXPECT(isnan(num_from_f16(0x7e00)) && isinf(num_from_f16(0xfc00)) && isnan(num_from_bf16(0x7f81)));
}

/* 2^20 bit patterns spread over all floats; the sums were made with numpy (float16) and torch (bfloat16). */
TEST(num_rounds_like_numpy_and_torch)
{
    uint64_t f16 = 0, bf16 = 0;
    for (uint64_t i = 0; i < 1 << 20; i++) {
        const uint32_t bits = (uint32_t)(i * 2654435761u);
        float x;
        memcpy(&x, &bits, sizeof x);
        if (isnan(x))
            continue;
        f16 += num_to_f16(x) * (i % 65521 + 1);
        bf16 += num_to_bf16(x) * (i % 65521 + 1);
    }
    EXPECT_INT(f16, 1103636988132594);
    EXPECT_INT(bf16, 1118826583820313);
    EXPECT(num_to_bf16(0x1.01p0f) == 0x3f80 && num_to_bf16(0x1.03p0f) == 0x3f82); /* ties to even */
    EXPECT(num_to_f16(65519.996f) == 0x7bff && num_to_f16(65520) == 0x7c00 && num_to_f16(0x1p-25f) == 0);
    EXPECT(num_to_f16(0x1.8p-24f) == 2 && num_to_f16(-0x1.000002p-25f) == 0x8001);
    EXPECT(isnan(num_from_bf16(num_to_bf16(NAN))) && isnan(num_from_f16(num_to_f16(NAN))));
}

TEST(num_arrays_at_odd_addresses)
{
    unsigned char stored[1 + 2 * 65536], back[1 + 2 * 65536];
    static float x[65536];
    for (uint32_t i = 0; i < 65536; i++)
        memcpy(stored + 1 + 2 * i, &(uint16_t){ (uint16_t)i }, 2);
    for (int t = 0; t < DTYPES; t++) {
        EXPECT_INT(num_dtype_from(num_dtype_name((enum dtype)t)), t);
        if (t != F32 && t != BF16 && t != F16)
            continue;
        const int64_t n = t == F32 ? 32768 : 65536;
        num_to_float(x, stored + 1, (enum dtype)t, n);
        num_from_float(back + 1, x, (enum dtype)t, n);
        EXPECT(!memcmp(stored + 1, back + 1, 2 * 65536));
    }
    EXPECT_INT(num_dtype_from("F31"), -1);
    EXPECT_INT(num_dtype_bytes(I64), 8);
}

TEST(num_sums)
{
    enum { N = 1003 };
    float x[N], y[N];
    double exact = 0, squares = 0, by_hand[16] = { 0 };
    for (int i = 0; i < N; i++) {
        x[i] = (float)rng_normal(1, 2, (uint64_t)i);
        y[i] = (float)rng_normal(1, 3, (uint64_t)i);
        exact += (double)x[i] * (double)y[i];
        squares += (double)x[i] * (double)x[i];
        by_hand[i % 16] += (double)x[i] * (double)x[i];
    }
    EXPECT(fabs((double)dot(x, y, N) - exact) < 1e-4);
    EXPECT(fabs(num_sum_squares(x, N) - squares) < 1e-10);
    EXPECT(dot(x, y, 0) == 0 && dot(x, y, 1) == x[0] * y[0]);
    for (int half = 8; half > 0; half /= 2)
        for (int j = 0; j < half; j++)
            by_hand[j] += by_hand[j + half];
    EXPECT(num_sum_squares(x, N) == by_hand[0]); /* the documented order, to the bit */
    EXPECT_INT(num_first_nonfinite(x, N), -1);
    x[1002] = INFINITY;
    EXPECT_INT(num_first_nonfinite(x, N), 1002);
    x[17] = NAN;
    EXPECT_INT(num_first_nonfinite(x, N), 17);
}

static atomic_int calls[5000];

static void count_call(void *context, int64_t task)
{
    atomic_fetch_add(&calls[task], *(int *)context);
}

TEST(pool_runs_each_task_once)
{
    int one = 1, want = 0;
    const size_t mallocs = arena_n_mallocs();
    for (int threads = 1; threads <= 7; threads += 2) {
        pool_start(threads);
        EXPECT_INT(pool_threads(), threads);
        for (int round = 0; round < 300; round++) {
            pool_run(5000 - round % 3, count_call, &one);
            pool_run(round % 3, count_call, &one);
            pool_run(0, count_call, &one);
            want++;
        }
    }
    pool_start(1);
    EXPECT(pool_cores() >= 1);
    EXPECT_INT(calls[100], want);
    EXPECT_INT(calls[4997], want);
    EXPECT_INT(calls[0], want + want / 3 * 2); /* rounds with 1 and 2 extra tasks */
    EXPECT_INT(calls[1], want + want / 3);
    EXPECT_INT(arena_n_mallocs(), mallocs);
}

static void fill(float *x, int64_t n, uint64_t stream)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)(rng_uniform(3, stream, (uint64_t)i) - 0.5);
}

/* Largest difference of C from the sum in float64; a and b are indexed by their transposition. */
static double off_by(enum trans ta, enum trans tb, int64_t m, int64_t n, int64_t k, const float *a,
                     int64_t lda, const float *b, int64_t ldb, const float *c0, const float *c, int64_t ldc)
{
    double worst = 0;
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = 0;
            for (int64_t l = 0; l < k; l++)
                sum += (double)(ta == TR ? a[l * lda + i] : a[i * lda + l]) *
                       (double)(tb == TR ? b[j * ldb + l] : b[l * ldb + j]);
            worst = fmax(worst, fabs(2 * sum + 0.5 * (double)c0[i * ldc + j] - (double)c[i * ldc + j]));
        }
    return worst;
}

TEST(blas_products)
{
    static const int64_t shapes[][3] = { { 1, 1, 1 }, { 5, 7, 3 }, { 100, 30, 17 }, { 33, 64, 129 },
                                         { 0, 4, 4 }, { 4, 0, 4 }, { 3, 4, 0 },     { 300, 90, 90 } };
    enum { ROOM = 320 * 140 };
    static float a[ROOM], b[ROOM], c[ROOM], c0[ROOM];
    fill(a, ROOM, 1);
    fill(b, ROOM, 2);
    fill(c0, ROOM, 3);
    pool_start(3);
    blas_warm_up();
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int which = 0; which < 8; which++) {
            const int64_t m = shapes[s][0], n = shapes[s][1], k = shapes[s][2];
            const enum trans ta = which & 1 ? TR : NO, tb = which & 2 ? TR : NO;
            const int64_t lda = (ta == TR ? m : k) + 2, ldb = (tb == TR ? k : n) + 3, ldc = n + 1;
            memcpy(c, c0, sizeof c);
            (which & 4 ? gemm_panels : gemm)(ta, tb, m, n, k, 2, a, lda, b, ldb, 0.5f, c, ldc);
            const double off = off_by(ta, tb, m, n, k, a, lda, b, ldb, c0, c, ldc);
            EXPECTF(off < 1e-5, "shape %zu, case %d: off by %g", s, which, off);
            EXPECTF(c[n] == c0[n], "shape %zu, case %d: column past the end was written", s, which);
        }
    c[0] = NAN;
    gemm(NO, NO, 1, 1, 0, 1, a, 1, b, 1, 0, c, 1);
    EXPECT(c[0] == 0);
    EXPECT(strstr(blas_name(), "OpenBLAS"));
    pool_start(1);
}

TEST(blas_panels_do_not_depend_on_threads)
{
    enum { M = 700, N = 130, K = 210 };
    static float a[M * K], b[K * N], c[2][M * N];
    fill(a, M * K, 1);
    fill(b, K * N, 2);
    for (int run = 0; run < 2; run++) {
        pool_start(run ? 5 : 1);
        gemm_panels(NO, NO, M, N, K, 1, a, K, b, N, 0, c[run], N);
    }
    pool_start(1);
    EXPECT(!memcmp(c[0], c[1], sizeof c[0]));
}
