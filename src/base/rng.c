/* rng.c - Philox 4x32-10 (Salmon, Moraes, Dror, Shaw, SC 2011) and MT19937 (Matsumoto, Nishimura 1998). */
#include "base/rng.h"
#include "base/err.h"
#include <math.h>

void rng_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3], k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        const uint64_t left = (uint64_t)0xD2511F53u * c0, right = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(right >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(left >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)right;
        c3 = (uint32_t)left;
        k0 += 0x9E3779B9u; /* golden ratio */
        k1 += 0xBB67AE85u; /* sqrt(3) - 1 */
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

/* 128 random bits of one (seed, stream, index). */
static void draw(uint64_t seed, uint64_t stream, uint64_t index, uint64_t out[2])
{
    const uint32_t key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) };
    const uint32_t counter[4] = { (uint32_t)index, (uint32_t)(index >> 32), (uint32_t)stream,
                                  (uint32_t)(stream >> 32) };
    uint32_t w[4];
    rng_philox(counter, key, w);
    out[0] = w[0] | (uint64_t)w[1] << 32;
    out[1] = w[2] | (uint64_t)w[3] << 32;
}

static double unit(uint64_t bits)
{
    return (double)(bits >> 11) * 0x1p-53;
}

uint64_t rng_u64(uint64_t seed, uint64_t stream, uint64_t index)
{
    uint64_t bits[2];
    draw(seed, stream, index, bits);
    return bits[0];
}

double rng_uniform(uint64_t seed, uint64_t stream, uint64_t index)
{
    return unit(rng_u64(seed, stream, index));
}

double rng_normal(uint64_t seed, uint64_t stream, uint64_t index)
{
    const double two_pi = 6.283185307179586;
    uint64_t bits[2];
    draw(seed, stream, index, bits);
    return sqrt(-2 * log(1 - unit(bits[0]))) * cos(two_pi * unit(bits[1]));
}

enum { MT_WORDS = 624, MT_MIDDLE = 397 };
struct mersenne {
    uint32_t word[MT_WORDS];
    int next;
};

static void mersenne_seed(struct mersenne *m, uint32_t seed)
{
    m->word[0] = seed;
    for (uint32_t i = 1; i < MT_WORDS; i++)
        m->word[i] = 1812433253u * (m->word[i - 1] ^ m->word[i - 1] >> 30) + i;
    m->next = MT_WORDS;
}

static void mersenne_refill(struct mersenne *m)
{
    for (int i = 0; i < MT_WORDS; i++) {
        const uint32_t y = (m->word[i] & 0x80000000u) | (m->word[(i + 1) % MT_WORDS] & 0x7fffffffu);
        m->word[i] = m->word[(i + MT_MIDDLE) % MT_WORDS] ^ y >> 1 ^ (y & 1 ? 0x9908b0dfu : 0);
    }
    m->next = 0;
}

static uint32_t mersenne_draw(struct mersenne *m)
{
    if (m->next == MT_WORDS)
        mersenne_refill(m);
    uint32_t y = m->word[m->next++];
    y ^= y >> 11;
    y ^= y << 7 & 0x9d2c5680u;
    y ^= y << 15 & 0xefc60000u;
    return y ^ y >> 18;
}

void rng_permutation(uint32_t seed, int64_t n, int64_t *out)
{
    struct mersenne m;
    CHECK(n >= 0 && n < UINT32_MAX / 20, "n = %lld: torch takes another path from 2^32 / 20 on",
          (long long)n);
    mersenne_seed(&m, seed);
    for (int64_t i = 0; i < n; i++)
        out[i] = i;
    for (int64_t i = 0; i < n - 1; i++) {
        const int64_t other = i + (int64_t)mersenne_draw(&m) % (n - i), kept = out[i];
        out[i] = out[other];
        out[other] = kept;
    }
}
