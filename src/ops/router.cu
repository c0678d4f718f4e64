/* router.cu - logits in float32 on cuBLASLt, then one warp per token: softmax, groups, the best k, gates.
 * Backward holds the gradient of a logit as the sum of two bfloat16 numbers (about 16 bits), side by side,
 * so that each of dx and dw is one product whose result is rounded once. */
#include "cuda/gemm.cuh"
enum { X, W, PROB, TOP, GATE, N = 0, D, E, K };
enum { A_K, A_GROUPS, A_TOPK_GROUPS, A_NORM, A_SCALING };
enum { THREADS = 256, WARPS = THREADS / 32 };
/* A lane has the experts 32 i + lane, i < EACH: a kernel for up to 64, 256 and 512 experts, as the steps of EACH that
 * are not there cost as much as those that are. */
enum { FEW = 2, SOME = 8, MANY = 16, MAX_EXPERTS = 32 * MANY };
#define ALL_LANES 0xffffffffu

struct rule {
    int n_experts, n_groups, n_kept_groups, k;
    bool normalizes;
    float scaling;
};

static struct rule rule_of(const struct call *c)
{
    struct rule r;
    r.n_experts = (int)c->dim[E], r.k = (int)c->dim[K];
    r.n_groups = c->attr[A_GROUPS] > 1 ? (int)c->attr[A_GROUPS] : 1;
    r.n_kept_groups = r.n_groups > 1 ? (int)c->attr[A_TOPK_GROUPS] : 1;
    r.normalizes = c->attr[A_NORM] != 0 && r.k > 1;
    r.scaling = (float)c->attr[A_SCALING];
    CHECK(c->dim[E] <= MAX_EXPERTS && r.n_experts % r.n_groups == 0, "%d experts in %d groups", r.n_experts,
          r.n_groups);
    CHECK(r.n_kept_groups <= r.n_groups && r.n_experts / r.n_groups * r.n_kept_groups >= r.k,
          "%d experts in %d of %d groups, top-k %d", r.n_experts, r.n_kept_groups, r.n_groups, r.k);
    return r;
}

/* p[i] = probability of expert 32 i + lane, where there is one */
template <int EACH> __device__ static inline void softmax(float p[EACH], const float *logits, int n_experts)
{
    const int lane = threadIdx.x % 32;
    float top = -INFINITY, sum = 0;
#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (32 * i < n_experts) {
            p[i] = 32 * i + lane < n_experts ? logits[32 * i + lane] : -INFINITY;
            top = fmaxf(top, p[i]);
        }
    top = warp_max(top);
#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (32 * i < n_experts)
            sum += p[i] = expf(p[i] - top);
    sum = warp_sum(sum);
#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (32 * i < n_experts)
            p[i] /= sum;
}

/* Bit i: expert 32 i + lane lies in from .. to-1. */
__device__ static inline uint32_t experts_between(int from, int to)
{
    const int lane = threadIdx.x % 32;
    return (1u << (to + 31 - lane) / 32) - (1u << (from + 31 - lane) / 32);
}

/* The best of the experts whose bits are set (one at least in the warp), the lowest of equal ones, and its
 * probability; in every lane. Numbers that are not negative compare as their bits do, and not-a-number comes
 * first, so that the result is an expert whatever the logits are. */
template <int EACH>
__device__ static inline int best_expert(const float p[EACH], uint32_t bits, int n_experts, float *prob)
{
    uint32_t best = 0; /* bits of the probability, plus 1 */
    int which = 0;
#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (32 * i < n_experts) {
            const uint32_t key = bits >> i & 1 ? (__float_as_uint(p[i]) & 0x7fffffffu) + 1 : 0;
            which = key > best ? 32 * i : which;
            best = max(best, key);
        }
    const uint32_t all = __reduce_max_sync(ALL_LANES, best);
    *prob = __uint_as_float(all - 1);
    return (int)__reduce_min_sync(ALL_LANES, best == all ? which + threadIdx.x % 32 : MAX_EXPERTS);
}

/* Bits of the experts that take part. The best expert outside the groups chosen so far is in the next group.
 * */
template <int EACH> __device__ static inline uint32_t groups_kept(const float p[EACH], struct rule r)
{
    const int each = r.n_experts / r.n_groups;
    const uint32_t all = experts_between(0, r.n_experts);
    uint32_t kept = 0;
    float prob;
    if (r.n_groups == 1)
        return all;
    for (int j = 0; j < r.n_kept_groups; j++) {
        const int group = best_expert<EACH>(p, all & ~kept, r.n_experts, &prob) / each;
        kept |= experts_between(group * each, (group + 1) * each);
    }
    return kept;
}

/* prob [n, n_experts] may be logits [n, ld] itself. */
template <int EACH>
static __global__ void choose_kernel(float *prob, int32_t *top, float *gate, const float *logits, int64_t ld,
                                     int64_t n, struct rule r)
{
    const int64_t t = blockIdx.x * (int64_t)WARPS + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    float p[EACH], sum = 0, best;
    if (t >= n)
        return;
    softmax<EACH>(p, logits + t * ld, r.n_experts);
#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (32 * i + lane < r.n_experts)
            prob[t * r.n_experts + 32 * i + lane] = p[i];
    uint32_t bits = groups_kept<EACH>(p, r);
    for (int j = 0; j < r.k; j++) {
        const int e = best_expert<EACH>(p, bits, r.n_experts, &best);
        bits &= lane == e % 32 ? ~(1u << e / 32) : ~0u;
        sum += best;
        if (lane == j % 32) {
            top[t * r.k + j] = e;
            gate[t * r.k + j] = best;
        }
    }
    for (int j = lane; j < r.k; j += 32) { /* what this lane wrote */
        float *g = gate + t * r.k + j;
        *g = r.normalizes ? *g / (sum + 1e-20f) : *g * r.scaling;
    }
}

/* dp += gradients of the chosen experts through their gates; p [n_experts], top and dgate [k] of this token
 * */
template <int EACH>
__device__ static inline void add_gates(float dp[EACH], const float *p, const int32_t *top,
                                        const float *dgate, struct rule r)
{
    float sum = 0, all = 0;
    for (int j = 0; j < r.k && r.normalizes; j++) {
        sum += p[top[j]];
        all += dgate[j] * p[top[j]];
    }
    sum += 1e-20f;
    for (int j = 0; j < r.k; j++) {
        const float d = r.normalizes ? (dgate[j] - all / sum) / sum : dgate[j] * r.scaling;
        const int mine = top[j] - (int)threadIdx.x % 32;
#pragma unroll
        for (int i = 0; i < EACH; i++)
            if (32 * i < r.n_experts)
                dp[i] += mine == 32 * i ? d : 0;
    }
}

/* What backward needs before its products. */
struct before {
    bf16 *
        dlogits; /* [n, 2 padded]: a bfloat16 and what it lacks, `padded` columns each, zeros behind the experts */
    bf16 *twice;                       /* [2 padded, d]: w two times, each with zeros behind it */
    const float *prob, *dprob, *dgate; /* dprob, dgate: NULL = zeros */
    const int32_t *top;
    const bf16 *w; /* [n_experts, d] */
    int64_t n, d;
    int padded;
    unsigned token_blocks; /* the blocks behind make `twice` */
};

/* p (dp - sum p dp) of token t, by a warp */
template <int EACH>
__device__ static inline void dlogits_of(const struct before &b, const struct rule &r, int64_t t)
{
    const int lane = threadIdx.x % 32;
    float p[EACH], dp[EACH], mean = 0;
#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (32 * i < r.n_experts) {
            const bool there = 32 * i + lane < r.n_experts;
            p[i] = there ? b.prob[t * r.n_experts + 32 * i + lane] : 0;
            dp[i] = there && b.dprob ? b.dprob[t * r.n_experts + 32 * i + lane] : 0;
        }
    if (b.dgate)
        add_gates<EACH>(dp, b.prob + t * r.n_experts, b.top + t * r.k, b.dgate + t * r.k, r);
#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (32 * i < r.n_experts)
            mean += p[i] * dp[i];
    mean = warp_sum(mean);
#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (32 * i < r.n_experts && 32 * i + lane < b.padded) {
            bf16 *to = b.dlogits + t * 2 * b.padded + 32 * i + lane;
            const float d = p[i] * (dp[i] - mean), high = __bfloat162float(__float2bfloat16_rn(d));
            to[0] = __float2bfloat16_rn(high);
            to[b.padded] = __float2bfloat16_rn(d - high);
        }
}

/* 8 numbers of `twice`, by a thread */
__device__ static inline void twice_of(const struct before &b, int n_experts, int64_t i)
{
    const int64_t e = i / b.d % b.padded;
    if (i < 2 * b.padded * b.d)
        *(uint4 *)(b.twice + i) =
            e < n_experts ? *(const uint4 *)(b.w + e * b.d + i % b.d) : make_uint4(0, 0, 0, 0);
}

template <int EACH> static __global__ void before_kernel(const struct before b, const struct rule r)
{
    const int64_t t = blockIdx.x * (int64_t)WARPS + threadIdx.x / 32;
    if (blockIdx.x >= b.token_blocks)
        twice_of(b, r.n_experts, ((blockIdx.x - b.token_blocks) * (int64_t)THREADS + threadIdx.x) * VEC);
    else if (t < b.n)
        dlogits_of<EACH>(b, r, t);
}

/* dw[i] (+)= halves[i] + halves[behind + i]; one thread per 8 numbers */
static __global__ void join_kernel(void *dw, bool wide, bool add, const float *halves, int64_t behind,
                                   int64_t n)
{
    const int64_t i = (blockIdx.x * (int64_t)THREADS + threadIdx.x) * VEC;
    float sum[VEC];
    if (i >= n)
        return;
#pragma unroll
    for (int j = 0; j < VEC; j += 4) {
        const float4 a = *(const float4 *)(halves + i + j), b = *(const float4 *)(halves + behind + i + j);
        sum[j] = a.x + b.x, sum[j + 1] = a.y + b.y, sum[j + 2] = a.z + b.z, sum[j + 3] = a.w + b.w;
    }
    grad_put8(dw, wide, add, i, sum);
}

/* Parts of work behind that of cuda_gemm. */
struct parts {
    int64_t padded;                /* experts, to a multiple of 8 */
    size_t twice, halves, dlogits; /* bytes from the beginning of work */
    size_t bytes;
};

static struct parts parts_of(const struct call *c)
{
    struct parts p;
    p.padded = round_up(c->dim[E], VEC);
    p.twice = GEMM_WORK;                                                       /* bf16 [2 padded, d] */
    p.halves = p.twice + (size_t)(2 * p.padded * c->dim[D]) * sizeof(bf16);    /* float [2 padded, d] */
    p.dlogits = p.halves + (size_t)(2 * p.padded * c->dim[D]) * sizeof(float); /* bf16 [n, 2 padded] */
    p.bytes = p.dlogits + (size_t)(2 * p.padded * c->dim[N]) * sizeof(bf16);
    return p;
}

/* Logits go to `prob`, or to work where their rows would not begin at multiples of 16 bytes. */
extern "C" void router_fwd_cuda(const struct call *c)
{
    const int64_t n = c->dim[N], d = c->dim[D], e = c->dim[E], ld = round_up(e, VEC);
    float *prob = (float *)c->arg[PROB];
    float *logits = ld == e ? prob : (float *)((char *)c->work + GEMM_WORK);
    const struct rule r = rule_of(c);
    cuda_gemm(stream_of(c), NO, TR, n, e, d, (const bf16 *)c->arg[X], d, (const bf16 *)c->arg[W], d, 0,
              logits, true, ld, c->work);
    const auto choose = e <= 32 * FEW    ? choose_kernel<FEW>
                        : e <= 32 * SOME ? choose_kernel<SOME>
                                         : choose_kernel<MANY>;
    choose<<<blocks_for(n, WARPS), THREADS, 0, stream_of(c)>>>(prob, (int32_t *)c->arg[TOP],
                                                               (float *)c->arg[GATE], logits, ld, n, r);
    LAUNCHED();
}

static void prepare(const struct call *c, struct parts p, bf16 *dlogits, bf16 *twice)
{
    const int64_t e = c->dim[E];
    struct before b;
    b.dlogits = dlogits, b.twice = twice;
    b.prob = (const float *)c->arg[PROB];
    b.dprob = (const float *)c->grad[PROB], b.dgate = (const float *)c->grad[GATE];
    b.top = (const int32_t *)c->arg[TOP];
    b.w = (const bf16 *)c->arg[W];
    b.n = c->dim[N], b.d = c->dim[D];
    b.padded = (int)p.padded;
    b.token_blocks = blocks_for(b.n, WARPS);
    const unsigned others = c->grad[X] ? blocks_for(2 * p.padded * b.d / VEC, THREADS) : 0;
    const auto kernel = e <= 32 * FEW    ? before_kernel<FEW>
                        : e <= 32 * SOME ? before_kernel<SOME>
                                         : before_kernel<MANY>;
    kernel<<<b.token_blocks + others, THREADS, 0, stream_of(c)>>>(b, rule_of(c));
    LAUNCHED();
}

static void gradient_of_x(const struct call *c, struct parts p, const bf16 *dlogits, const bf16 *twice)
{
    const int64_t n = c->dim[N], d = c->dim[D], two = 2 * p.padded;
    cuda_gemm(stream_of(c), NO, NO, n, d, two, dlogits, two, twice, d, adds(c, X), c->grad[X], is_wide(c, X),
              d, c->work);
}

static void gradient_of_w(const struct call *c, struct parts p, const bf16 *dlogits)
{
    const int64_t n = c->dim[N], d = c->dim[D], e = c->dim[E], two = 2 * p.padded;
    float *halves = (float *)((char *)c->work + p.halves);
    cuda_gemm(stream_of(c), TR, NO, two, d, n, dlogits, two, (const bf16 *)c->arg[X], d, 0, halves, true, d,
              c->work);
    join_kernel<<<blocks_for(e * d / VEC, THREADS), THREADS, 0, stream_of(c)>>>(
        c->grad[W], is_wide(c, W), adds(c, W), halves, p.padded * d, e * d);
    LAUNCHED();
}

extern "C" void router_bwd_cuda(const struct call *c)
{
    const struct parts p = parts_of(c);
    bf16 *dlogits = (bf16 *)((char *)c->work + p.dlogits), *twice = (bf16 *)((char *)c->work + p.twice);
    if (!c->grad[X] && !c->grad[W])
        return;
    prepare(c, p, dlogits, twice);
    if (c->grad[X])
        gradient_of_x(c, p, dlogits, twice);
    if (c->grad[W])
        gradient_of_w(c, p, dlogits);
}

extern "C" void router_work_cuda(const struct call *c, size_t bytes[2])
{
    const int64_t ld = round_up(c->dim[E], VEC);
    bytes[0] = GEMM_WORK + (ld == c->dim[E] ? 0 : (size_t)(c->dim[N] * ld) * sizeof(float));
    bytes[1] = parts_of(c).bytes;
}
