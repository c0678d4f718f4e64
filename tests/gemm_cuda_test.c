/* gemm_cuda_test.c - dense products on CUDA: an algorithm is chosen once for a shape, among those with the same bits, and
 * the first call of a shape leaves what the later ones leave. Skips where there is no CUDA device. */
#include "tests/cuda_fixture.h"
enum { N = 4127, K = 264, M = 264 }; /* enough numbers for a comparison (cuda/gemm_tune.cuh) */

static struct product product_of(int64_t m, int64_t n, int64_t k)
{
    static struct product all[1024];
    struct product found = { 0 };
    const int count = cuda_products(all, 1024);
    for (int i = 0; i < count; i++)
        if (all[i].m == m && all[i].n == n && all[i].k == k && !all[i].wide && !all[i].add)
            found = all[i];
    return found;
}

static void put_random(void *to, int64_t n, uint64_t stream)
{
    uint16_t *x = malloc((size_t)n * 2);
    for (int64_t i = 0; i < n; i++)
        x[i] = num_to_bf16((float)rng_normal(1, stream, (uint64_t)i));
    device_cuda()->put(to, x, (size_t)n * 2);
    free(x);
}

static struct call linear_call(void)
{
    struct call c = { .dim = { N, K, M }, .stream = device_cuda()->stream() };
    size_t work[2];
    const int64_t elements[3] = { N * K, M * K, N * M };
    for (int i = 0; i < 3; i++)
        c.arg[i] = device_buffer((size_t)elements[i] * 2);
    put_random(c.arg[0], N * K, 0);
    put_random(c.arg[1], M * K, 1);
    op_linear.work[CUDA](&c, work);
    c.work = device_buffer(work[0]);
    return c;
}

TEST(algorithms_are_chosen_once_and_keep_the_bits)
{
    if (!have_device())
        return;
    struct call c = linear_call();
    static uint16_t first[N * M], second[N * M];
    op_linear.fwd[CUDA](&c);
    device_cuda()->get(first, c.arg[2], sizeof first);
    op_linear.fwd[CUDA](&c);
    device_cuda()->get(second, c.arg[2], sizeof second);
    EXPECT(same_bytes(first, second, sizeof first));
    EXPECT(device_guarded(c.arg[2], sizeof first));
    const struct product p = product_of(N, M, K);
    EXPECT_INT(p.calls, 2);
    EXPECT(p.candidates >= 1 && (p.candidates == 1 || p.same >= 1) && p.same <= p.candidates);
    EXPECT(p.same < 2 || (p.first_us > 0 && p.fastest_us > 0 && p.fastest_us <= p.first_us));
    EXPECT(p.chosen == 0 || p.fastest_us < p.first_us);
    for (int i = 0; i < 3; i++)
        device_cuda()->release(c.arg[i]);
    device_cuda()->release(c.work);
}
