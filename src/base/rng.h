/* rng.h - random numbers without state: value = f(seed, stream, index), Philox 4x32-10 (Salmon et al. 2011).
 * The stream is usually hash_text(tensor name). Also the Mersenne Twister of torch.randperm. */
#pragma once
#include <stdint.h>
void rng_philox(const uint32_t counter[4], const uint32_t key[2],
                uint32_t out[4]); /* the bare block function */
uint64_t rng_u64(uint64_t seed, uint64_t stream, uint64_t index);
double rng_uniform(uint64_t seed, uint64_t stream, uint64_t index); /* [0, 1), 53 bits */
double rng_normal(uint64_t seed, uint64_t stream, uint64_t index);  /* mean 0, deviation 1; Box-Muller */
/* torch.randperm(n, generator seeded with seed) on the CPU: MT19937 and the swap loop of ATen for
 * n < 2^32 / 20. Check: n = 10, seed 0 -> 4 1 7 5 3 9 0 8 6 2; seed 1 -> 5 6 1 2 0 8 9 3 7 4. */
void rng_permutation(uint32_t seed, int64_t n, int64_t *out);
/* n initial values of a stored tensor from its element `first` on: rng_normal or rng_uniform at (seed, stream, element) times scale;
 * uniform ones lie in (-scale, scale). */
enum fill { FILL_NORMAL, FILL_UNIFORM, FILL_ONE };
struct rng_fill {
    enum fill kind;
    uint64_t seed, stream;
    int64_t first, n;
    double scale;
};
