/* num_test.c - rng, num, pool, blas. The constants of torch and numpy were printed by torch 2.15 and numpy 2.4. */
#include "base/arena.h"
#include "base/blas.h"
#include "base/hash.h"
#include "base/num.h"
#include "base/pool.h"
#include "base/rng.h"
#include "tests/test.h"
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

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
    float products[16] = { 0 };
    for (int i = 0; i < N; i++) {
        x[i] = (float)rng_normal(1, 2, (uint64_t)i);
        y[i] = (float)rng_normal(1, 3, (uint64_t)i);
        exact += (double)x[i] * (double)y[i];
        squares += (double)x[i] * (double)x[i];
        by_hand[i % 16] += (double)x[i] * (double)x[i];
        products[i % 16] += x[i] * y[i];
    }
    EXPECT(fabs((double)dot(x, y, N) - exact) < 1e-4);
    EXPECT(fabs(num_sum_squares(x, N) - squares) < 1e-10);
    EXPECT(dot(x, y, 0) == 0 && dot(x, y, 1) == x[0] * y[0]);
    for (int half = 8; half > 0; half /= 2)
        for (int j = 0; j < half; j++) {
            by_hand[j] += by_hand[j + half];
            products[j] += products[j + half];
        }
    EXPECT(dot(x, y, N) == products[0]);
    EXPECT(num_sum_squares(x, N) == by_hand[0]); /* the documented order, to the bit */
    EXPECT_INT(num_first_nonfinite(x, N), -1);
    x[1002] = INFINITY;
    EXPECT_INT(num_first_nonfinite(x, N), 1002);
    x[17] = NAN;
    EXPECT_INT(num_first_nonfinite(x, N), 17);
}

TEST(load_of_cores)
{
    double load[POOL_CORES], sum = 0;
    int used = 0;
    pool_start(3);
    pool_load(load);
    for (int i = 0; i < POOL_CORES; i++) {
        sum += load[i];
        used += load[i] > 0;
    }
    pool_start(1);
    EXPECT(fabs(sum - 3) < 1e-9);
    EXPECT_INT(used, pool_cores());
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

static void finish_late(void *context, int64_t task)
{
    usleep(task == 1 ? 20000 : 500);
    atomic_fetch_add((atomic_int *)context, 1);
}

TEST(pool_waits_for_all_tasks)
{
    pool_start(4);
    for (int round = 0; round < 5; round++) {
        atomic_int n_done = 0;
        pool_run(4, finish_late, &n_done);
        EXPECT_INT(atomic_load(&n_done), 4);
    }
    pool_start(1);
}

static int n_moves;
static _Thread_local int own_tasks;

static bool move(void)
{
    n_moves++; /* by one thread alone, which the sanitizer for threads would tell */
    return own_tasks > 0;
}

static void slow_task(void *context, int64_t task)
{
    (void)context, (void)task;
    own_tasks++;
    usleep(100);
}

TEST(pool_works_for_its_caller_behind_each_of_its_tasks)
{
    for (int threads = 1; threads <= 3; threads += 2) {
        n_moves = own_tasks = 0;
        pool_start(threads);
        pool_meanwhile(move);
        pool_run(200, slow_task, NULL);
        pool_meanwhile(NULL);
        EXPECT_INT(n_moves, own_tasks);
        EXPECT(threads > 1 || n_moves == 200);
        pool_run(3, slow_task, NULL);
    }
    EXPECT(n_moves < own_tasks);
    pool_start(1);
}

static pthread_t main_thread;
static atomic_bool worker_came;

static void on_fault(int number)
{
    (void)number;
    _exit(42);
}

/* The main thread keeps the pool open until a worker has come, which then writes where it may not. */
static void fault_in_worker(void *context, int64_t task)
{
    (void)task;
    if (!pthread_equal(pthread_self(), main_thread)) {
        atomic_store(&worker_came, true);
        *(volatile char *)context = 1;
    }
    for (int i = 0; i < 5000 && !atomic_load(&worker_came); i++)
        usleep(1000);
    usleep(100000);
}

static void fault(void)
{
    void *forbidden = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    main_thread = pthread_self();
    signal(SIGSEGV, on_fault);
    signal(SIGBUS, on_fault);
    pool_start(2);
    pool_run(2, fault_in_worker, forbidden);
    _exit(1);
}

TEST(faults_of_workers_reach_their_handler)
{
    int status = 0;
    pool_start(1);
    const pid_t child = fork();
    if (child == 0)
        fault();
    EXPECT(waitpid(child, &status, 0) == child);
    EXPECTF(WIFEXITED(status) && WEXITSTATUS(status) == 42, "ended with status 0x%x", (unsigned)status);
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
    EXPECT(hash_bytes(c[0], sizeof c[0]) == hash_bytes(c[1], sizeof c[1])); /* bits, not values */
}
