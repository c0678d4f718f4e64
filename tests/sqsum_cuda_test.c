/* sqsum_cuda_test.c - sums of squares on CUDA, which ops_cuda_test tries with bfloat16 at aligned addresses: float32
 * gradients, odd lengths, other addresses. Skips where there is no CUDA device. */
#include "tests/cuda_fixture.h"

/* n_chunks of h elements at an address that is a multiple of 4 bytes, as float32 or bfloat16. */
static void check_sums(int64_t n_chunks, int64_t h, bool wide, size_t shift)
{
    const int64_t n = n_chunks * h;
    const size_t each = wide ? 4 : 2, sums = (size_t)n_chunks * sizeof(double);
    char *host = malloc((size_t)n * each + sums), *g = device_buffer((size_t)n * each + shift),
         *out = device_buffer(sums);
    double *want = calloc((size_t)n_chunks, sizeof *want), *got = malloc(sums);
    size_t work[2];
    for (int64_t i = 0; i < n; i++) {
        const float x = (float)rng_normal(opcall_seed(), 5, (uint64_t)i);
        const uint16_t narrow = num_to_bf16(x);
        memcpy(host + (size_t)i * each, wide ? (const void *)&x : (const void *)&narrow, each);
        want[i / h] += wide ? (double)x * (double)x : pow((double)num_from_bf16(narrow), 2);
    }
    device_cuda()->put(g + shift, host, (size_t)n * each);
    struct call c = {
        .arg = { g + shift, out }, .wide = wide, .dim = { n_chunks, h }, .attr = { (double)h }
    };
    const struct op *op = registry_find("sqsum");
    op->work[CUDA](&c, work);
    c.work = device_buffer(work[0]);
    c.stream = device_cuda()->stream();
    op->fwd[CUDA](&c);
    device_cuda()->get(got, out, sums);
    EXPECT_CLOSE(got, want, n_chunks, 1e-6);
    EXPECT(device_guarded(out, sums) && device_guarded(c.work, work[0]));
    device_cuda()->release(c.work);
    device_cuda()->release(g);
    device_cuda()->release(out);
    free(host), free(want), free(got);
}

TEST(squares_of_any_gradient)
{
    static const int64_t sizes[][2] = { { 1, 1 },    { 7, 37 },   { 300, 64 },
                                        { 3, 2047 }, { 5, 4099 }, { 2, 70001 } };
    if (!have_device())
        return;
    for (int i = 0; i < 6; i++)
        for (int k = 0; k < 4; k++)
            check_sums(sizes[i][0], sizes[i][1], k % 2, k < 2 ? 0 : 4);
}
