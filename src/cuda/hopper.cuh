/* hopper.cuh - the instructions of compute capability 9.0 that CUDA C has no words for: barriers in shared memory
 * that count bytes, copies of boxes of a tensor, products of a warpgroup. Addresses named `uint32_t` are those of
 * shared memory (shared_address()). PTX ISA: "mbarrier", "cp.async.bulk.tensor", "wgmma". */
#pragma once
#include "cuda/cuda.cuh"
#include <cuda.h>
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
enum { HOPPER_CODE = 1 }; /* the code being compiled may use these instructions */
#else
enum { HOPPER_CODE = 0 };
#endif

__device__ static inline uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* -- barriers: 8 bytes; a phase ends when `count` arrivals and all the bytes that were announced have come -- */
__device__ static inline void barrier_init(uint32_t barrier, uint32_t count)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
/* Makes barrier_init() visible to copies and to the cluster. */
__device__ static inline void barrier_init_done(void)
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async;" ::: "memory");
}
__device__ static inline void barrier_arrive(uint32_t barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
/* Arrives and announces bytes that copies will bring. */
__device__ static inline void barrier_arrive_bytes(uint32_t barrier, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
}
/* At the barrier with the same offset in the shared memory of block `rank` of the cluster. Orders nothing that was
 * written: with .release.cluster it would be a fence of the whole device. */
__device__ static inline void barrier_arrive_at(uint32_t barrier, uint32_t rank)
{
    asm volatile("{\n"
                 ".reg .b32 there;\n"
                 "mapa.shared::cluster.u32 there, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
                 "}\n" ::"r"(barrier),
                 "r"(rank)
                 : "memory");
}
/* The same, `count` times. */
__device__ static inline void barrier_arrive_for(uint32_t barrier, uint32_t rank, uint32_t count)
{
    asm volatile("{\n"
                 ".reg .b32 there;\n"
                 "mapa.shared::cluster.u32 there, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [there], %2;\n"
                 "}\n" ::"r"(barrier),
                 "r"(rank), "r"(count)
                 : "memory");
}
__device__ static inline uint32_t cluster_rank(void)
{
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
/* All threads of all blocks of the cluster; their shared memory written before is visible behind it. */
__device__ static inline void cluster_sync(void)
{
    asm volatile("barrier.cluster.arrive.release;\n"
                 "barrier.cluster.wait.acquire;" ::
                     : "memory");
}
__device__ static inline bool barrier_try(uint32_t barrier, uint32_t parity)
{
    uint32_t done;
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                 "selp.u32 %0, 1, 0, p;\n"
                 "}\n"
                 : "=r"(done)
                 : "r"(barrier), "r"(parity)
                 : "memory");
    return done != 0;
}
#ifdef BARRIER_LIMIT_NS
/* For the probe: a wait that takes too long ends the kernel instead of hanging the device. */
__device__ static inline void barrier_wait(uint32_t barrier, uint32_t parity)
{
    uint32_t begin = 0, now;
    while (!barrier_try(barrier, parity)) {
        asm volatile("mov.u32 %0, %%globaltimer_lo;" : "=r"(now));
        begin = begin ? begin : now;
        if (now - begin > (uint32_t)(BARRIER_LIMIT_NS))
            __trap();
    }
}
#else
/* For the end of the phase with this parity: the first has 0. Returns at once when it is over; waiting for parity
 * 1 before anything came also does. */
__device__ static inline void barrier_wait(uint32_t barrier, uint32_t parity)
{
    while (!barrier_try(barrier, parity))
        ;
}
#endif

/* -- boxes of a tensor (cuda_tensor_map()); coordinates in elements, first that of the dense dimension -- */
/* Global to shared; the bytes arrive at `barrier`. Elements outside the tensor become 0 and count too. */
__device__ static inline void box_load(uint32_t to, const CUtensorMap *from, int c0, int c1, int c2,
                                       uint32_t barrier)
{
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 " [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(to),
                 "l"(from), "r"(c0), "r"(c1), "r"(c2), "r"(barrier)
                 : "memory");
}
/* To the same place in both blocks of a pair; the bytes arrive at the barrier of each. */
__device__ static inline void box_load_both(uint32_t to, const CUtensorMap *from, int c0, int c1, int c2,
                                            uint32_t barrier)
{
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster"
        " [%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(to),
        "l"(from), "r"(c0), "r"(c1), "r"(c2), "r"(barrier), "h"((uint16_t)3)
        : "memory");
}
/* Dense bytes, a multiple of 16 at addresses that are. */
__device__ static inline void bytes_load(uint32_t to, const void *from, uint32_t bytes, uint32_t barrier)
{
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
        "l"(from), "r"(bytes), "r"(barrier)
        : "memory");
}
/* Shared to global, or added to what is there, in the tensor's number type; elements outside the tensor are left out.
 * By one thread: store, commit, and wait before the shared memory is written again or the block ends. */
__device__ static inline void box_store(const CUtensorMap *to, int c0, int c1, int c2, uint32_t from)
{
    asm volatile(
        "cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%1, %2, %3}], [%4];" ::"l"(to),
        "r"(c0), "r"(c1), "r"(c2), "r"(from)
        : "memory");
}
__device__ static inline void box_add(const CUtensorMap *to, int c0, int c1, int c2, uint32_t from)
{
    asm volatile(
        "cp.reduce.async.bulk.tensor.3d.global.shared::cta.add.tile.bulk_group [%0, {%1, %2, %3}], [%4];" ::
            "l"(to),
        "r"(c0), "r"(c1), "r"(c2), "r"(from)
        : "memory");
}
/* Dense bytes, as bytes_load() but the other way. */
__device__ static inline void bytes_store(void *to, uint32_t from, uint32_t bytes)
{
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(from),
                 "r"(bytes)
                 : "memory");
}
__device__ static inline void box_store_commit(void)
{
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
/* Until at most PENDING of this thread's committed stores still read shared memory. */
template <int PENDING> __device__ static inline void box_store_wait(void)
{
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(PENDING) : "memory");
}
/* By each thread that wrote shared memory, before the barrier behind which a box is stored. */
__device__ static inline void shared_written(void)
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
/* Four 8 x 8 matrices of bfloat16: lane 8i + k gives the address of row k of the i-th, 16 bytes; each lane holds two
 * elements of each, as in product_256(). */
__device__ static inline void shared_put_matrices(uint32_t row, uint32_t m0, uint32_t m1, uint32_t m2,
                                                  uint32_t m3)
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row), "r"(m0),
                 "r"(m1), "r"(m2), "r"(m3)
                 : "memory");
}
/* The other way, with the same addresses. */
__device__ static inline void shared_get_matrices(uint32_t (&m)[4], uint32_t row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(row)
                 : "memory");
}
/* Two matrices; lanes 0 to 15 give the addresses. */
__device__ static inline void shared_put_pair(uint32_t row, const uint32_t (&m)[2])
{
    asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %2};" ::"r"(row), "r"(m[0]), "r"(m[1])
                 : "memory");
}
__device__ static inline void shared_get_pair(uint32_t (&m)[2], uint32_t row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(m[0]), "=r"(m[1])
                 : "r"(row)
                 : "memory");
}
__device__ static inline void shared_put_floats(uint32_t at, float x, float y)
{
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(at), "f"(x), "f"(y) : "memory");
}
__device__ static inline void box_prefetch_map(const CUtensorMap *map)
{
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/* threadIdx.x, asked for each time: no register holds it or what follows from it. */
__device__ static inline uint32_t thread_now(void)
{
    uint32_t x;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(x));
    return x;
}

/* A barrier of the 128 threads of a warpgroup; `id` from 1 to 15, another one for each. */
__device__ static inline void warpgroup_sync(int id)
{
    asm volatile("bar.sync %0, 128;" ::"r"(id) : "memory");
}

/* The same for all warpgroups that multiply. */
__device__ static inline void multipliers_sync(int id)
{
    asm volatile("bar.sync %0, 256;" ::"r"(id) : "memory");
}

/* -- registers per thread of this warpgroup -- */
template <int REGISTERS> __device__ static inline void registers_more(void)
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}
template <int REGISTERS> __device__ static inline void registers_fewer(void)
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

/* -- products of a warpgroup --
 * An operand lies in shared memory with the 128-byte swizzle, in boxes of 64 elements (128 bytes, one line) that
 * begin at multiples of 1024 bytes:
 *   contraction-major  a line is one row (column of B) and 64 steps of the contraction; 16 steps are 32 bytes
 *   the other way      a line is one step of the contraction and 64 rows; boxes of 64 rows follow each other in
 *                      `box` bytes; 16 steps are 2048 bytes
 * `advance`: the bytes of the steps before. In a cluster an address has the number of its block in high bits, which
 * must not get into the field of the box. */
__device__ static inline uint64_t operand(uint32_t address, uint32_t box, uint32_t advance)
{
    const uint32_t eight_lines = 1024, swizzle_128 = 1, high = eight_lines >> 4 | swizzle_128 << 30;
    return (uint64_t)high << 32 | ((address & 0x3ffff) >> 4) + (advance >> 4) + (box >> 4 << 16);
}
__device__ static inline void product_begin(void)
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ static inline void product_commit(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/* Until at most PENDING of the committed groups are unfinished. */
template <int PENDING> __device__ static inline void product_wait(void)
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}
/* Keeps the compiler from moving reads of d before the wait. */
template <int N> __device__ static inline void product_settle(float (&d)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+f"(d[i])::"memory");
}
/* The first registers of an instruction's list. */
#define REGISTERS_32                                                                                         \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"                                   \
    ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define REGISTERS_64                                                                                         \
    REGISTERS_32                                                                                             \
    ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"                       \
    ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define REGISTERS_96                                                                                         \
    REGISTERS_64                                                                                             \
    ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"                       \
    ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define REGISTERS_128                                                                                        \
    REGISTERS_96                                                                                             \
    ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"           \
    ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define D4(i)  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define D16(i) D4(i), D4(i + 4), D4(i + 8), D4(i + 12)
#define D64(i) D16(i), D16(i + 16), D16(i + 32), D16(i + 48)
/* d = a b, or += (keep), 64 x 256 x 16 over the warpgroup. Thread t has rows 16 (t / 32) + t % 32 / 4 and that + 8;
 * d[4j], d[4j + 1] are columns 8j + 2 (t % 4) and the next one of the first row, d[4j + 2], d[4j + 3] of the second.
 * A_OTHER, B_OTHER: not contraction-major. */
template <int A_OTHER, int B_OTHER>
__device__ static inline void product_256(float (&d)[128], uint64_t a, uint64_t b, bool keep)
{
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "setp.ne.b32 p, %130, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" REGISTERS_128
                 "}, %128, %129, p, 1, 1, %131, %132;\n"
                 "}\n"
                 : D64(0), D64(64)
                 : "l"(a), "l"(b), "r"((int)keep), "n"(A_OTHER), "n"(B_OTHER));
}
/* 64 x 128 x 16, in the first half of d */
template <int A_OTHER, int B_OTHER>
__device__ static inline void product_128(float (&d)[128], uint64_t a, uint64_t b, bool keep)
{
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "setp.ne.b32 p, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" REGISTERS_64
                 "}, %64, %65, p, 1, 1, %67, %68;\n"
                 "}\n"
                 : D64(0)
                 : "l"(a), "l"(b), "r"((int)keep), "n"(A_OTHER), "n"(B_OTHER));
}
/* 64 x 64 x 16, both contraction-major */
__device__ static inline void product_64(float (&d)[32], uint64_t a, uint64_t b, bool keep)
{
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "setp.ne.b32 p, %34, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" REGISTERS_32
                 "}, %32, %33, p, 1, 1, 0, 0;\n"
                 "}\n"
                 : D16(0), D16(16)
                 : "l"(a), "l"(b), "r"((int)keep));
}
/* d += a b, 64 x 128 x 16 and 64 x 192 x 16: a[0], a[1] are steps 2 (t % 4) and the next one of the thread's rows, a[2], a[3]
 * the same 8 steps on; b is not contraction-major. */
__device__ static inline void product_rows_128(float (&d)[64], const uint32_t (&a)[4], uint64_t b)
{
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "setp.ne.b32 p, 1, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" REGISTERS_64
                 "}, {%64, %65, %66, %67}, %68, p, 1, 1, 1;\n"
                 "}\n"
                 : D64(0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ static inline void product_rows_192(float (&d)[96], const uint32_t (&a)[4], uint64_t b)
{
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "setp.ne.b32 p, 1, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 {" REGISTERS_96
                 "}, {%96, %97, %98, %99}, %100, p, 1, 1, 1;\n"
                 "}\n"
                 : D64(0), D16(64), D16(80)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
/* d += a b, 64 x 192 x 16, neither contraction-major */
__device__ static inline void product_192(float (&d)[96], uint64_t a, uint64_t b)
{
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "setp.ne.b32 p, 1, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 {" REGISTERS_96
                 "}, %96, %97, p, 1, 1, 1, 1;\n"
                 "}\n"
                 : D64(0), D16(64), D16(80)
                 : "l"(a), "l"(b));
}
template <int N> __device__ static inline void product_zero(float (&d)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++)
        d[i] = 0;
}
#undef D64
#undef D16
#undef D4
#undef REGISTERS_128
#undef REGISTERS_96
#undef REGISTERS_64
#undef REGISTERS_32

template <int A_OTHER, int B_OTHER, int PARTS>
__device__ static inline void product(float (&d)[128], uint64_t a, uint64_t b, bool keep)
{
    if constexpr (PARTS == 2)
        product_256<A_OTHER, B_OTHER>(d, a, b, keep);
    else
        product_128<A_OTHER, B_OTHER>(d, a, b, keep);
}

/* Host: a bfloat16 or float32 tensor of n[0] dense elements, n[1] lines `line` elements apart and n[2] planes `plane`
 * elements apart, cut into boxes of box[0] x box[1] x 1; box[0] is 128 or 64 bytes and lies
 * swizzled in shared memory: the vectors of 16 bytes of 8 lines, or of 4 pairs of lines, are exchanged; or it is 256 bytes,
 * which lie as they are. */
CUtensorMap cuda_tensor_map(const void *at, bool wide, int64_t n0, int64_t n1, int64_t n2, int64_t line,
                            int64_t plane, int box0, int box1);
