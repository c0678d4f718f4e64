/* group_spot.h - where a vector of keys or values of grouped queries lies, and where attention_gqa.cu repeats it:
 * arithmetic alone, which tests/group_spot_test.c goes through on the host. All lengths are in vectors. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
/* n: vectors of k and v together, [rows, g, 2, h]; m: heads of queries of a group */
struct groups {
    uint32_t n, h, m;
};
struct group_spot {
    bool value;       /* of v, not of k */
    int64_t key;      /* in k or v [rows, g, h] */
    int64_t repeated; /* in kv [rows, g m, 2 h], of the group's first head; the next is 2 h behind */
};

#ifdef __CUDACC__
__host__ __device__
#endif
    static inline struct group_spot
    group_spot(uint32_t i, const struct groups *g)
{
    const uint32_t group = i / (2 * g->h), at = i % (2 * g->h); /* of all rows */
    struct group_spot s;
    s.value = at >= g->h;
    s.key = (int64_t)group * g->h + (s.value ? at - g->h : at);
    s.repeated = (int64_t)group * g->m * 2 * g->h + at;
    return s;
}
