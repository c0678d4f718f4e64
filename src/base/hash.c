/* hash.c - XXH3; the only file that includes xxhash.h. */
#include "base/hash.h"
#include "base/arena.h"
#include "base/err.h"
#include <stdio.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>
struct hash_state {
    XXH3_state_t xxh; /* aligned to 64 bytes */
    struct arena *arena;
};

uint64_t hash_bytes(const void *data, size_t bytes)
{
    return XXH3_64bits(data, bytes);
}

uint64_t hash_text(const char *text)
{
    return XXH3_64bits(text, strlen(text));
}

struct hash_state *hash_begin(void)
{
    struct arena *a = arena_new("hash");
    struct hash_state *h = arena_alloc(a, sizeof *h);
    h->arena = a;
    CHECK(XXH3_64bits_reset(&h->xxh) == XXH_OK, "XXH3 cannot start");
    return h;
}

void hash_add(struct hash_state *h, const void *data, size_t bytes)
{
    CHECK(XXH3_64bits_update(&h->xxh, data, bytes) == XXH_OK, "XXH3 refuses %zu bytes", bytes);
}

uint64_t hash_end(struct hash_state *h)
{
    const uint64_t hash = XXH3_64bits_digest(&h->xxh);
    arena_free(h->arena);
    return hash;
}

void hash_hex(uint64_t hash, char out[17])
{
    snprintf(out, 17, "%016llx", (unsigned long long)hash);
}
