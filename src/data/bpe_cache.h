/* bpe_cache.h - ids of short stretches of text that were seen before: two tables of fixed size in which a newer
 * entry replaces an older one. One per encoder. */
#pragma once
#include "base/arena.h"
#include <stdint.h>
#include <string.h>
enum {
    SMALL_TEXT = 15,
    SMALL_IDS = 3,
    SMALL_SETS = 1 << 15,
    LARGE_TEXT = 63,
    LARGE_IDS = 15,
    LARGE_ENTRIES = 1 << 14
};
/* The text in two words, its length in the last byte; 0 in both = free. */
struct small_entry {
    uint64_t key[2];
    int32_t n, id[SMALL_IDS];
};
struct large_entry {
    char text[LARGE_TEXT];
    uint8_t bytes; /* 0 = free */
    int32_t n, id[LARGE_IDS];
};
struct bpe_cache {
    struct small_entry (*small)[2]; /* sets of two fill one line of the CPU's cache */
    struct large_entry *large;
};
/* Words of a text of 1 to SMALL_TEXT bytes; `readable` bytes lie at text. */
static inline void cache_key(uint64_t key[2], const char *text, size_t bytes, size_t readable)
{
    key[0] = key[1] = 0;
    if (readable >= 16) {
        memcpy(key, text, 16);
        const uint64_t partial = ((uint64_t)1 << 8 * (bytes & 7)) - 1;
        key[0] &= bytes >= 8 ? UINT64_MAX : partial;
        key[1] &= bytes >= 8 ? partial : 0;
    } else
        memcpy(key, text, bytes);
    key[1] |= (uint64_t)bytes << 56;
}
static inline uint64_t cache_set(const uint64_t key[2])
{
    const uint64_t h = (key[0] ^ key[1] * 0xff51afd7ed558ccdu) * 0x9e3779b97f4a7c15u;
    return (h ^ h >> 32) * 0xc4ceb9fe1a85ec53u >> 49; /* 15 bits */
}
