/* hash.h - XXH3 64 bit; written as 16 lower-case hex digits. */
#pragma once
#include <stddef.h>
#include <stdint.h>
uint64_t hash_bytes(const void *data, size_t bytes);
uint64_t hash_text(const char *text);
struct hash_state; /* streaming */
struct hash_state *hash_begin(void);
void hash_add(struct hash_state *h, const void *data, size_t bytes);
uint64_t hash_end(struct hash_state *h); /* frees h */
void hash_hex(uint64_t hash, char out[17]);
