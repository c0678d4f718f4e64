/* grouped.cuh - products of the rows of each expert with that expert's matrix; bfloat16 in, float32 sums, the same
 * bits on every run. How many rows an expert has is known on the device only: nothing is copied and nobody waits.
 *
 * The rows of expert e are those from edge(e) up to edge(e + 1), with edge(0) = 0 and edge(e + 1) the end of its last
 * segment, rounded up to the tile (op.h: rows between segments are zero and belong to the expert before them). So
 * segments of several sources are no case of their own.
 *
 * Where a bfloat16 output is added to, the product may be rounded to bfloat16 first.
 *
 * Two paths, chosen by sizes and device alone: compute capability 9.0 with tiles of a multiple of 128 rows
 * (grouped_hopper.cu), and a portable one for everything else (grouped.cu). Widths are multiples of 8. */
#pragma once
#include "cuda/gemm.cuh"
struct groups {
    const int32_t *end; /* [experts][sources], device memory */
    int64_t n_experts, n_sources, tile;
    int64_t n_rows; /* there is memory for so many; a multiple of tile */
};
__host__ __device__ static inline int64_t groups_edge(const struct groups *g, int64_t expert)
{
    return expert == 0 ? 0 : round_up(g->end[expert * g->n_sources - 1], g->tile);
}

/* h[r, 2f] = x[r, d] w[e][2f, d]^T; y[r, f] = swiglu(gate half of h, up half, weight[r]) */
void grouped_up(cudaStream_t stream, const struct groups *g, int64_t d, int64_t f, const bf16 *x,
                const float *weight, const bf16 *w, bf16 *h, bf16 *y);
/* out[r, n] (+)= in[r, k] op(w[e]): NO with w[e][k, n], TR with w[e][n, k] */
void grouped_rows(cudaStream_t stream, const struct groups *g, enum trans tw, int64_t n, int64_t k,
                  const bf16 *in, const bf16 *w, bool add, bf16 *out);
/* What grouped_up() and the product behind it pass back: dy = dz[r, d] w[e][d, f], which only
 * grouped_back_apart() writes, and from it, h and weight
 *   dh[r, 2f]
 *   y[r, f]                            what grouped_up() made, again
 *   dweight[r] (+)= <dy, silu(gate) up>  NULL: not wanted
 * partial: room for grouped_back_partials() floats. */
struct grouped_back {
    const bf16 *dz, *w, *h;
    const float *weight;
    bf16 *dh, *y;
    float *dweight, *partial;
    bool add; /* to dweight */
};
int64_t grouped_back_partials(int64_t n_rows, int64_t f);
void grouped_back(cudaStream_t stream, const struct groups *g, int64_t d, int64_t f,
                  const struct grouped_back *b);
/* The same in two steps: dy rounded to bfloat16 in memory, then a pass over it and h. */
void grouped_back_apart(cudaStream_t stream, const struct groups *g, int64_t d, int64_t f,
                        const struct grouped_back *b);
/* dw[e][m, n] (+)= dy[r, m]^T x[r, n], summed over the rows of e; zeros where there is none. With parts = the number of
 * sources dw is [part][e][m, n], a part for the rows of each source: the bits that those rows give alone. */
void grouped_gradient(cudaStream_t stream, const struct groups *g, int64_t parts, int64_t m, int64_t n,
                      const bf16 *dy, const bf16 *x, bool add, void *dw, bool wide);
/* Of a gradient in parts every segment is a group; its matrix in [part][e]. parts = 1: the group itself. */
__host__ __device__ static inline int64_t groups_plane(int64_t group, int64_t n_groups, int64_t parts)
{
    return group % parts * (n_groups / parts) + group / parts;
}

/* 1 / (1 + exp(-x)) with two instructions of the unit for functions; relative error about 2^-21. */
__device__ static inline float sigmoid(float x)
{
    float power, inverse;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x * -1.4426950408889634f));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(1 + power));
    return inverse;
}
/* The value of y from the rounded halves of h: the backward pass computes it again and finds the same bits. */
__device__ static inline float swiglu(float gate, float up, float weight)
{
    return weight * (gate * sigmoid(gate) * up);
}

struct swiglu_back {
    float gate, up, y, weight; /* dh, y again, and what one column adds to the gradient of the row's weight */
};
__device__ static inline struct swiglu_back swiglu_bwd(float gate, float up, float weight, float dy)
{
    const float sigma = sigmoid(gate), silu = gate * sigma, d = weight * dy, silu_up = silu * up;
    const struct swiglu_back b = { d * up * (sigma + silu * (1 - sigma)), d * silu, weight * silu_up,
                                   dy * silu_up };
    return b;
}

/* The path of compute capability 9.0, for grouped.cu alone. */
bool grouped_hopper_takes(const struct groups *g);
void grouped_hopper_up(cudaStream_t stream, const struct groups *g, int64_t d, int64_t f, const bf16 *x,
                       const float *weight, const bf16 *w, bf16 *h, bf16 *y);
void grouped_hopper_rows(cudaStream_t stream, const struct groups *g, enum trans tw, int64_t n, int64_t k,
                         const bf16 *in, const bf16 *w, bool add, bf16 *out);
void grouped_hopper_back(cudaStream_t stream, const struct groups *g, int64_t d, int64_t f,
                         const struct grouped_back *b);
void grouped_hopper_gradient(cudaStream_t stream, const struct groups *g, int64_t parts, int64_t m, int64_t n,
                             const bf16 *dy, const bf16 *x, bool add, void *dw, bool wide);
