/* mma.cuh - tensor cores of every device since compute capability 8.0: copies that arrive later, operands from shared
 * memory by ldmatrix, mma.m16n8k16 of bfloat16 with float32 sums. A warp calls these together. */
#pragma once
#include "cuda/cuda.cuh"
enum { WARP = 32 };

__device__ static inline uint32_t shared_at(const bf16 *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* 16 bytes, or zeros. */
__device__ static inline void copy_later(bf16 *to, const bf16 *from, bool there)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_at(to)), "l"(from),
                 "r"(there ? 16 : 0)
                 : "memory");
}
/* 4 bytes, or zeros. */
__device__ static inline void copy_float_later(float *to, const float *from, bool there)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"((uint32_t)__cvta_generic_to_shared(to)),
                 "l"(from), "r"(there ? 4 : 0)
                 : "memory");
}
__device__ static inline void copies_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int PENDING> __device__ static inline void copies_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

template <bool TRANSPOSED> __device__ static inline void load_matrices(uint32_t (&x)[4], const bf16 *at)
{
    if (TRANSPOSED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                     : "r"(shared_at(at))
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                     : "r"(shared_at(at))
                     : "memory");
}

/* d += a b, 16 x 8 x 16: a lane has columns 2 (lane % 4) and the next of rows lane / 4 (d[0], d[1]) and that + 8. */
__device__ static inline void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* Sums d of 16 x 8 and of the 8 columns behind, as the operand a of 16 x 16: the same lanes have the same elements. */
__device__ static inline void operand_of_sums(uint32_t (&a)[4], const float (&left)[4],
                                              const float (&right)[4])
{
    a[0] = pack_pair(left[0], left[1]);
    a[1] = pack_pair(left[2], left[3]);
    a[2] = pack_pair(right[0], right[1]);
    a[3] = pack_pair(right[2], right[3]);
}
