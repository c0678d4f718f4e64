/* exchange_cuda.cu - sums and moves of device.h on CUDA. */
extern "C" {
#include "device/device_impl.h"
}
#include "cuda/cuda.cuh"
enum { THREADS = 256, WARP = 32, LEVELS = 13 }; /* up to 2^13 - 1 parts */

/* The sums of whole blocks of 2^k parts wait in level k for their neighbours, as the digits of a counter do: the tree
 * of device.h in one pass, whatever the number of parts. */
__global__ static void __launch_bounds__(THREADS)
    sum_kernel(const void *parts, void *out, bool wide, bool add, int n_parts, int64_t stride, int64_t n)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    float level[LEVELS] = { 0 }, sum = 0;
    bool begun = false;
    if (i >= n)
        return;
    for (int part = 0; part < n_parts; part++) {
        float x = grad_load(parts, wide, part * stride + i);
        bool carry = true;
#pragma unroll
        for (int k = 0; k < LEVELS; k++) {
            if (carry && (part >> k & 1)) {
                x = level[k] + x;
            } else if (carry) {
                level[k] = x;
                carry = false;
            }
        }
    }
#pragma unroll
    for (int k = 0; k < LEVELS; k++)
        if (n_parts >> k & 1) {
            sum = begun ? level[k] + sum : level[k];
            begun = true;
        }
    grad_put(out, wide, add, i, sum);
}

void device_sum_cuda(const struct device_sum *s, void *stream)
{
    CHECK((s->type == F32 || s->type == BF16) && s->n_parts > 0 && s->n_parts < 1 << LEVELS, "%d parts of %s",
          s->n_parts, num_dtype_name(s->type));
    if (s->n == 0)
        return;
    sum_kernel<<<blocks_for(s->n, THREADS), THREADS, 0, (cudaStream_t)stream>>>(
        s->parts, s->out, s->type == F32, s->add, s->n_parts, s->stride, s->n);
    LAUNCHED();
}

enum { FEW = 7 }; /* levels: up to 2^7 - 1 parts */

/* x[i] of EACH elements from the first'th on */
template <int EACH>
__device__ static inline void load_part(float (&x)[EACH], const void *part, bool wide, int64_t first)
{
    if constexpr (EACH == 1)
        x[0] = grad_load(part, wide, first);
    else if (!wide)
        load8(x, (const bf16 *)part + first);
    else
#pragma unroll
        for (int i = 0; i < EACH; i += 4) {
            const float4 v = *(const float4 *)((const float *)part + first + i);
            x[i] = v.x, x[i + 1] = v.y, x[i + 2] = v.z, x[i + 3] = v.w;
        }
}

/* As sum_kernel. EACH: 8, or 1 where something is not a multiple of 16 bytes. */
template <int EACH>
__global__ static void __launch_bounds__(THREADS)
    sum_of_kernel(const __grid_constant__ struct device_sum_of s)
{
    const int64_t first = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * EACH;
    const bool wide = s.type == F32;
    float level[FEW][EACH] = {}, sum[EACH] = {};
    bool begun = false;
    if (first >= s.n)
        return;
    for (int part = 0; part < s.n_parts; part++) {
        float x[EACH];
        bool carry = true;
        load_part<EACH>(x, s.of[part], wide, first);
#pragma unroll
        for (int k = 0; k < FEW; k++) {
            const bool adds_up = part >> k & 1;
#pragma unroll
            for (int i = 0; i < EACH; i++)
                if (carry && adds_up)
                    x[i] = level[k][i] + x[i];
                else if (carry)
                    level[k][i] = x[i];
            carry = carry && adds_up;
        }
    }
#pragma unroll
    for (int k = 0; k < FEW; k++)
        if (s.n_parts >> k & 1) {
#pragma unroll
            for (int i = 0; i < EACH; i++)
                sum[i] = begun ? level[k][i] + sum[i] : level[k][i];
            begun = true;
        }
    if constexpr (EACH == 1)
        grad_put(s.out, wide, s.add, first, sum[0]);
    else
        grad_put8(s.out, wide, s.add, first, sum);
}

void device_sum_of_cuda(const struct device_sum_of *s, void *stream)
{
    uintptr_t odd = (uintptr_t)s->out | (uintptr_t)(s->n % VEC);
    CHECK((s->type == F32 || s->type == BF16) && s->n_parts > 0 && s->n_parts < 1 << FEW, "%d parts of %s",
          s->n_parts, num_dtype_name(s->type));
    for (int i = 0; i < s->n_parts; i++)
        odd |= (uintptr_t)s->of[i];
    if (s->n == 0)
        return;
    if (odd % 16)
        sum_of_kernel<1><<<blocks_for(s->n, THREADS), THREADS, 0, (cudaStream_t)stream>>>(*s);
    else
        sum_of_kernel<VEC><<<blocks_for(s->n / VEC, THREADS), THREADS, 0, (cudaStream_t)stream>>>(*s);
    LAUNCHED();
}

/* First of n segments whose tiles end behind `row`; n when there is none. */
__device__ static int64_t segment_of(const int32_t *end, int64_t n, int64_t tile, int64_t row)
{
    int64_t low = 0, high = n;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (round_up(end[middle], tile) > row)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* A warp per row, in pieces of T. */
template <typename T> __global__ static void __launch_bounds__(THREADS) move_kernel(struct device_move m)
{
    const int64_t row = (int64_t)blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP,
                  each = m.row_bytes / sizeof(T);
    if (row >= m.n_rows)
        return;
    const int64_t i = segment_of(m.end, m.n_segments, m.tile, row);
    if (i == m.n_segments)
        return;
    const int64_t begin = i == 0 ? 0 : round_up(m.end[i - 1], m.tile);
    const int32_t twin = m.twin && row < m.end[i] ? m.twin[row] : 0;
    if (m.pack && twin < 0)
        return;
    const int64_t offset = !m.twin ? row - begin : twin < 0 ? ~twin : twin;
    T *at = (T *)m.rows + row * each, *packed = (T *)m.packed + (m.from[i] + offset) * each;
    if (row >= m.end[i]) {
        for (int64_t k = threadIdx.x % WARP; k < each && !m.pack; k += WARP)
            at[k] = T();
        return;
    }
    T *to = m.pack ? packed : at;
    const T *from = m.pack ? at : packed;
#pragma unroll 4
    for (int64_t k = threadIdx.x % WARP; k < each; k += WARP)
        to[k] = from[k];
}

void device_move_cuda(const struct device_move *m, void *stream)
{
    const unsigned blocks = blocks_for(m->n_rows, THREADS / WARP);
    CHECK(m->row_bytes % 4 == 0, "rows of %lld bytes", (long long)m->row_bytes);
    if (m->row_bytes % 16 == 0)
        move_kernel<uint4><<<blocks, THREADS, 0, (cudaStream_t)stream>>>(*m);
    else
        move_kernel<uint32_t><<<blocks, THREADS, 0, (cudaStream_t)stream>>>(*m);
    LAUNCHED();
}

/* Where row `at` of the member of segment i has come to. */
__device__ static int64_t pulled_to(const struct device_pull *p, int64_t i, int64_t at)
{
    int64_t k = i % p->members;
    while (k + p->members < p->n_segments && at >= p->first[k] + p->end[k] - p->begin[k])
        k += p->members;
    return p->begin[k] + at - p->first[k];
}

/* Up to WARP places of a row and its twins, one in each lane; *next: the twin behind them, 0 = none. Returns how many. */
__device__ static int places_of(const struct device_pull *p, int64_t i, int64_t row, int32_t *next,
                                int64_t *place)
{
    const int lane = threadIdx.x % WARP;
    int n = 0;
    for (;; n++) {
        if (n == lane)
            *place = row;
        if (*next <= 0 || n + 1 == WARP)
            return n + 1;
        row = pulled_to(p, i, *next);
        *next = ~p->twin[row];
    }
}

enum { PIECES = 8 }; /* under way together, of each lane */

/* From one row to the first n places that the lanes have. */
template <typename T>
__device__ static void copy_to_places(const struct device_pull *p, const T *from, int64_t place, int n)
{
    const int64_t each = p->row_bytes / (int64_t)sizeof(T);
    for (int64_t first = threadIdx.x % WARP, base = 0; base < each; base += PIECES * WARP) {
        T piece[PIECES];
#pragma unroll
        for (int k = 0; k < PIECES; k++)
            if (base + first + k * WARP < each)
                piece[k] = from[base + first + k * WARP];
        for (int j = 0; j < n; j++) {
            T *to = (T *)p->rows + __shfl_sync(~0u, place, j) * each;
#pragma unroll
            for (int k = 0; k < PIECES; k++)
                if (base + first + k * WARP < each)
                    to[base + first + k * WARP] = piece[k];
        }
    }
}

/* The row is the first of its twins: it is read once for every WARP of them. */
template <typename T>
__device__ static void pull_twins(const struct device_pull *p, int64_t i, int64_t row, const T *from)
{
    int32_t next = p->twin[row];
    int64_t place = 0;
    for (int n = WARP; n == WARP;) {
        n = places_of(p, i, row, &next, &place);
        copy_to_places(p, from, place, n);
        if (n == WARP && next <= 0)
            return;
        if (n == WARP) {
            row = pulled_to(p, i, next);
            next = ~p->twin[row];
        }
    }
}

/* A warp per row. */
template <typename T>
__global__ static void __launch_bounds__(THREADS) pull_kernel(const __grid_constant__ struct device_pull p)
{
    const int64_t row = (int64_t)blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP,
                  each = p.row_bytes / sizeof(T);
    if (row >= p.n_rows)
        return;
    const int64_t i = segment_of(p.end, p.n_segments, p.tile, row);
    if (i == p.n_segments || row < p.begin[i])
        return;
    T *to = (T *)p.rows + row * each;
    if (row >= p.end[i]) {
        for (int64_t k = threadIdx.x % WARP; k < each; k += WARP)
            to[k] = T();
        return;
    }
    const T *from = (const T *)p.of[i / p.each % p.members] + (p.first[i] + row - p.begin[i]) * each;
    if (p.twin) {
        if (p.twin[row] >= 0)
            pull_twins(&p, i, row, from);
        return;
    }
#pragma unroll 8
    for (int64_t k = threadIdx.x % WARP; k < each; k += WARP)
        to[k] = from[k];
}

void device_pull_cuda(const struct device_pull *p, void *stream)
{
    const unsigned blocks = blocks_for(p->n_rows, THREADS / WARP);
    CHECK(p->row_bytes % 4 == 0, "rows of %lld bytes", (long long)p->row_bytes);
    if (p->row_bytes % 16 == 0)
        pull_kernel<uint4><<<blocks, THREADS, 0, (cudaStream_t)stream>>>(*p);
    else
        pull_kernel<uint32_t><<<blocks, THREADS, 0, (cudaStream_t)stream>>>(*p);
    LAUNCHED();
}

/* Member whose row `row` is; its rows are [*begin, *end). */
__device__ static int64_t member_of(const struct device_twins *t, int64_t row, int64_t *begin, int64_t *end)
{
    const int64_t segments = t->n_segments / t->members,
                  m = segment_of(t->end, t->n_segments, 1, row) / segments;
    *begin = m ? t->end[m * segments - 1] : 0;
    *end = m < t->members ? t->end[(m + 1) * segments - 1] : *begin;
    return m;
}

/* As device_twins_cpu, but with ~ the first twin's row where its number will be. */
__global__ static void __launch_bounds__(THREADS) mark_kernel(struct device_twins t)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    int64_t begin, end, first = i, next = 0;
    if (i >= t.n_rows || member_of(&t, i, &begin, &end) == t.members)
        return;
    const int32_t *place = t.place + t.row[i] / t.each * t.each;
    for (int64_t j = 0; j < t.each; j++) {
        const int64_t at = place[j];
        if (at < begin || at >= end)
            continue;
        first = at < first ? at : first;
        if (at > i && (next == 0 || at < next))
            next = at;
    }
    const int32_t say = (int32_t)(t.chain ? next : first);
    t.twin[i] = first < i ? ~say : t.chain ? say : 0;
}

enum { NUMBERED = 1024, NUMBERED_EACH = 8 }; /* threads; rows of each of them in a turn */

/* Sum of n of the threads below this one; *all: of all threads. */
__device__ static int sum_below(int n, int *all)
{
    __shared__ int warp_sum[NUMBERED / WARP];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int sum = n, below = 0, total = 0;
    for (int step = 1; step < WARP; step *= 2) {
        const int other = __shfl_up_sync(~0u, sum, step);
        sum += lane >= step ? other : 0;
    }
    if (lane == WARP - 1)
        warp_sum[warp] = sum;
    __syncthreads();
    for (int w = 0; w < NUMBERED / WARP; w++) {
        below += w < warp ? warp_sum[w] : 0;
        total += warp_sum[w];
    }
    __syncthreads();
    *all = total;
    return below + sum - n;
}

/* A block per member: numbers its first rows. */
__global__ static void __launch_bounds__(NUMBERED) number_kernel(struct device_twins t)
{
    const int64_t segments = t.n_segments / t.members, m = blockIdx.x,
                  begin = m ? t.end[m * segments - 1] : 0, end = t.end[(m + 1) * segments - 1];
    int n = 0;
    for (int64_t base = begin; base < end; base += NUMBERED * NUMBERED_EACH) {
        const int64_t from = base + (int64_t)threadIdx.x * NUMBERED_EACH;
        int mine = 0, all;
        for (int64_t i = from; i < from + NUMBERED_EACH && i < end; i++)
            mine += t.twin[i] >= 0;
        int number = n + sum_below(mine, &all);
        for (int64_t i = from; i < from + NUMBERED_EACH && i < end && !t.chain; i++)
            if (t.twin[i] >= 0)
                t.twin[i] = number++;
        n += all;
    }
    if (threadIdx.x == 0)
        t.n_first[m] = n;
}

/* From the first twin's row to its number. */
__global__ static void __launch_bounds__(THREADS) follow_kernel(struct device_twins t)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < t.end[t.n_segments - 1] && t.twin[i] < 0)
        t.twin[i] = ~t.twin[~t.twin[i]];
}

void device_twins_cuda(const struct device_twins *t, void *stream)
{
    const unsigned blocks = blocks_for(t->n_rows, THREADS);
    mark_kernel<<<blocks, THREADS, 0, (cudaStream_t)stream>>>(*t);
    LAUNCHED();
    number_kernel<<<(unsigned)t->members, NUMBERED, 0, (cudaStream_t)stream>>>(*t);
    LAUNCHED();
    if (t->chain)
        return;
    follow_kernel<<<blocks, THREADS, 0, (cudaStream_t)stream>>>(*t);
    LAUNCHED();
}
