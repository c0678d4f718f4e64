/* head_loss.cu - logits of a chunk by cuBLASLt, then one pass over them: forward reads them once with a running
 * maximum, backward turns them into their gradient in place, `both` does the two with a row in shared memory, where it
 * fits. Everything follows from the bfloat16 logits as they are stored, so that the softmax sums to 1. */
#include "ops/head.cuh"
enum { X, W, LABEL, NLL, LSE, LOGITS, N = 0, D, V, C };
enum { BWD_THREADS = 256 };

/* The logit of the label, 0 where there is none. */
__device__ static inline float label_logit(const bf16 *row, int32_t at, int64_t v)
{
    if (at >= v)
        __trap(); /* a mistake of ours: readers of data check */
    return at < 0 ? 0 : __bfloat162float(row[at]);
}

/* One block per row of v logits. */
__global__ static void __launch_bounds__(ROW_THREADS)
    loss_row(float *nll, float *lse, const bf16 *logits, const int32_t *label, int64_t v)
{
    const bf16 *row = logits + blockIdx.x * v;
    const float all = lse_of((const uint4 *)row, v / VEC, NULL);
    if (threadIdx.x != 0)
        return;
    const int32_t at = label[blockIdx.x];
    const float logit = label_logit(row, at, v);
    lse[blockIdx.x] = all;
    nll[blockIdx.x] = at < 0 ? 0 : all - logit;
}

/* Vector i of a row of logits -> of scale (softmax - label) */
__device__ static inline uint4 gradient8(uint4 raw, int64_t i, int32_t at, float scale, float lse)
{
    float x[VEC];
    unpack8(x, raw);
#pragma unroll
    for (int j = 0; j < VEC; j++)
        x[j] = scale * (__expf(x[j] - lse) - (i * VEC + j == at ? 1.f : 0.f));
    return pack8(x);
}

/* The same, and the logits become their gradient: each thread finds what it read in shared memory. */
__global__ static void __launch_bounds__(ROW_THREADS)
    loss_and_gradient_row(float *nll, float *lse, bf16 *logits, const float *dnll, const int32_t *label,
                          int64_t v)
{
    extern __shared__ uint4 kept[]; /* v / VEC */
    bf16 *row = logits + blockIdx.x * v;
    const int32_t at = label[blockIdx.x];
    const float logit = threadIdx.x == 0 ? label_logit(row, at, v) : 0; /* before the row is overwritten */
    const float all = lse_of((const uint4 *)row, v / VEC, kept), scale = at < 0 ? 0 : dnll[blockIdx.x];
    for (int64_t i = threadIdx.x; i < v / VEC; i += blockDim.x)
        ((uint4 *)row)[i] = at < 0 ? make_uint4(0, 0, 0, 0) : gradient8(kept[i], i, at, scale, all);
    if (threadIdx.x != 0)
        return;
    lse[blockIdx.x] = all;
    nll[blockIdx.x] = at < 0 ? 0 : all - logit;
}

/* logits = dnll (softmax - label); `parts` blocks per row of n vectors. */
__global__ static void __launch_bounds__(BWD_THREADS)
    dlogits_part(bf16 *logits, const float *dnll, const float *lse, const int32_t *label, int64_t n,
                 unsigned parts)
{
    const unsigned row = blockIdx.x / parts;
    const int64_t first = (int64_t)(blockIdx.x % parts) * (BWD_THREADS * EACH) + threadIdx.x;
    const int32_t at = label[row];
    const float scale = at < 0 ? 0 : dnll[row], shift = lse[row];
    uint4 *to = (uint4 *)logits + row * n, raw[EACH];
#pragma unroll
    for (int k = 0; k < EACH; k++)
        if (at >= 0 && first + k * BWD_THREADS < n)
            raw[k] = to[first + k * BWD_THREADS];
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        const int64_t i = first + k * BWD_THREADS;
        if (i >= n)
            return;
        to[i] = at < 0 ? make_uint4(0, 0, 0, 0) : gradient8(raw[k], i, at, scale, shift);
    }
}

static struct rows chunk_of(const struct call *c, int64_t chunk)
{
    return rows_of(c->dim[N], c->dim[C], chunk);
}

static void make_logits(const struct call *c, struct rows r)
{
    head_logits(c, r, c->dim[D], c->dim[V], c->arg[LOGITS]);
}

static void multiply(const struct call *c, struct rows r)
{
    head_multiply(c, r, c->dim[D], c->dim[V], (const bf16 *)c->arg[LOGITS]);
}

static void make_dlogits(const struct call *c, struct rows r)
{
    const int64_t n = c->dim[V] / VEC, parts = cut_parts(n, BWD_THREADS * EACH);
    dlogits_part<<<blocks_for(r.n * parts, 1), BWD_THREADS, 0, stream_of(c)>>>(
        (bf16 *)c->arg[LOGITS], (const float *)c->grad[NLL] + r.from, (const float *)c->arg[LSE] + r.from,
        (const int32_t *)c->arg[LABEL] + r.from, n, (unsigned)parts);
    LAUNCHED();
}

static void make_loss(const struct call *c, struct rows r)
{
    const int64_t v = c->dim[V];
    loss_row<<<blocks_for(r.n, 1), team_of(v), 0, stream_of(c)>>>(
        (float *)c->arg[NLL] + r.from, (float *)c->arg[LSE] + r.from, (const bf16 *)c->arg[LOGITS],
        (const int32_t *)c->arg[LABEL] + r.from, v);
    LAUNCHED();
}

/* Does a row fit into the shared memory that a block can have? */
static bool row_fits(int64_t bytes)
{
    static int64_t most;
    if (most == 0)
        most = most_shared((const void *)loss_and_gradient_row);
    return bytes <= most;
}

static void make_loss_and_dlogits(const struct call *c, struct rows r)
{
    const int64_t v = c->dim[V], bytes = v * (int64_t)sizeof(bf16);
    if (!row_fits(bytes)) {
        make_loss(c, r);
        make_dlogits(c, r);
        return;
    }
    loss_and_gradient_row<<<blocks_for(r.n, 1), team_of(v), (size_t)bytes, stream_of(c)>>>(
        (float *)c->arg[NLL] + r.from, (float *)c->arg[LSE] + r.from, (bf16 *)c->arg[LOGITS],
        (const float *)c->grad[NLL] + r.from, (const int32_t *)c->arg[LABEL] + r.from, v);
    LAUNCHED();
}

extern "C" void head_loss_fwd_cuda(const struct call *c)
{
    for (int64_t i = 0; i < cut_parts(c->dim[N], c->dim[C]); i++) {
        const struct rows r = chunk_of(c, i);
        make_logits(c, r);
        make_loss(c, r);
    }
}

extern "C" void head_loss_bwd_cuda(const struct call *c)
{
    const int64_t chunks = cut_parts(c->dim[N], c->dim[C]);
    if (!c->grad[NLL]) {
        grad_clear(c, X, c->dim[N] * c->dim[D]);
        grad_clear(c, W, c->dim[V] * c->dim[D]);
        return;
    }
    for (int64_t i = 0; i < chunks; i++) {
        const struct rows r = chunk_of(c, i);
        if (chunks > 1)
            make_logits(c, r);
        make_dlogits(c, r);
        multiply(c, r);
    }
}

extern "C" void head_loss_both_cuda(const struct call *c)
{
    for (int64_t i = 0; i < cut_parts(c->dim[N], c->dim[C]); i++) {
        const struct rows r = chunk_of(c, i);
        make_logits(c, r);
        make_loss_and_dlogits(c, r);
        multiply(c, r);
    }
}

extern "C" void head_loss_work_cuda(const struct call *c, size_t bytes[2])
{
    (void)c;
    bytes[0] = bytes[1] = GEMM_WORK;
}
