/* head_part.cu - one block per row and part: forward reads the part's logits once with a running maximum; backward reads
 * them again, from shared memory where they fit, for what they sum to and then for their gradient, in place. */
#include "ops/head.cuh"
enum { X, W, LABEL, LSE, LOGIT, LOGITS, N = 0, D, P, C, M, ROWS, FIRST = 3 };

struct part {               /* of a chunk's logits [rows, p * c] */
    int64_t p, c, m, first; /* parts here, columns of each, parts in all, number of the first here */
};

/* Column of a label in part `at` of those here; -1: none, as of a label below 0. */
__device__ static inline int64_t column_of(const struct part *k, int64_t at, int32_t label)
{
    const int64_t column = label - (k->first + at) * k->c;
    if (label >= k->m * k->c)
        __trap(); /* a mistake of ours: readers of data check */
    return column >= 0 && column < k->c ? column : -1;
}

/* Is no part here that has the label's column? */
__device__ static inline bool elsewhere(const struct part *k, int32_t label)
{
    return label < k->first * k->c || label >= (k->first + k->p) * k->c;
}

/* What parts elsewhere, and a label elsewhere, count here: nothing. */
__device__ static inline void clear_others(const struct part *k, float *lse, float *logit, int32_t label)
{
    for (int64_t j = 0; j < k->m; j++)
        if (j < k->first || j >= k->first + k->p)
            lse[j] = 0;
    if (elsewhere(k, label))
        *logit = 0;
}

/* lse, logit, label: of the first row of the chunk */
__global__ static void __launch_bounds__(ROW_THREADS)
    part_row(float *lse, float *logit, const bf16 *logits, const int32_t *label, struct part k)
{
    const int64_t row = blockIdx.x / k.p, at = blockIdx.x % k.p;
    const bf16 *part = logits + (row * k.p + at) * k.c;
    const float all = lse_of((const uint4 *)part, k.c / VEC, NULL);
    if (threadIdx.x != 0)
        return;
    const int64_t column = column_of(&k, at, label[row]);
    lse[row * k.m + k.first + at] = all;
    if (column >= 0)
        logit[row] = __bfloat162float(part[column]);
    if (at == 0)
        clear_others(&k, lse + row * k.m, logit + row, label[row]);
}

/* Vector i of a part -> dlse softmax, and dlogit at the label's column */
__device__ static inline uint4 part_gradient8(uint4 raw, int64_t i, int64_t column, float dlse, float dlogit,
                                              float lse)
{
    float x[VEC];
    unpack8(x, raw);
#pragma unroll
    for (int j = 0; j < VEC; j++)
        x[j] = dlse * __expf(x[j] - lse) + (i * VEC + j == column ? dlogit : 0.f);
    return pack8(x);
}

/* fits: there is shared memory for a part. Each thread finds what it read itself, there or in the row. */
__global__ static void __launch_bounds__(ROW_THREADS)
    part_gradient(bf16 *logits, const float *dlse, const float *dlogit, const int32_t *label, struct part k,
                  bool fits)
{
    extern __shared__ uint4 kept[]; /* c / VEC, if it fits */
    const int64_t row = blockIdx.x / k.p, at = blockIdx.x % k.p;
    uint4 *part = (uint4 *)(logits + (row * k.p + at) * k.c);
    const int64_t column = column_of(&k, at, label[row]);
    const float scale = dlse ? dlse[row * k.m + k.first + at] : 0, target = dlogit ? dlogit[row] : 0,
                all = lse_of(part, k.c / VEC, fits ? kept : NULL);
    for (int64_t i = threadIdx.x; i < k.c / VEC; i += blockDim.x)
        part[i] = part_gradient8(fits ? kept[i] : part[i], i, column, scale, target, all);
}

static struct part part_of(const struct call *c)
{
    CHECK(c->dim[C] % VEC == 0, "parts of %lld columns", (long long)c->dim[C]);
    return (struct part){ c->dim[P], c->dim[C], c->dim[M], (int64_t)c->attr[FIRST] };
}

static struct rows chunk_of(const struct call *c, int64_t chunk)
{
    return rows_of(c->dim[N], c->dim[ROWS], chunk);
}

static void make_logits(const struct call *c, struct rows r)
{
    head_logits(c, r, c->dim[D], c->dim[P] * c->dim[C], c->arg[LOGITS]);
}

extern "C" void head_part_fwd_cuda(const struct call *c)
{
    const struct part k = part_of(c);
    for (int64_t i = 0; i < cut_parts(c->dim[N], c->dim[ROWS]); i++) {
        const struct rows r = chunk_of(c, i);
        make_logits(c, r);
        part_row<<<blocks_for(r.n * k.p, 1), team_of(k.c), 0, stream_of(c)>>>(
            (float *)c->arg[LSE] + r.from * k.m, (float *)c->arg[LOGIT] + r.from,
            (const bf16 *)c->arg[LOGITS], (const int32_t *)c->arg[LABEL] + r.from, k);
        LAUNCHED();
    }
}

/* Gradients of a chunk's rows; NULL stays NULL. */
static const float *rows_from(const void *gradient, int64_t element)
{
    return gradient ? (const float *)gradient + element : NULL;
}

static void make_dlogits(const struct call *c, struct rows r)
{
    static int64_t most;
    const struct part k = part_of(c);
    const int64_t bytes = k.c * (int64_t)sizeof(bf16);
    if (most == 0)
        most = most_shared((const void *)part_gradient);
    const bool fits = bytes <= most;
    part_gradient<<<blocks_for(r.n * k.p, 1), team_of(k.c), fits ? (size_t)bytes : 0, stream_of(c)>>>(
        (bf16 *)c->arg[LOGITS], rows_from(c->grad[LSE], r.from * k.m), rows_from(c->grad[LOGIT], r.from),
        (const int32_t *)c->arg[LABEL] + r.from, k, fits);
    LAUNCHED();
}

extern "C" void head_part_bwd_cuda(const struct call *c)
{
    const int64_t chunks = cut_parts(c->dim[N], c->dim[ROWS]);
    for (int64_t i = 0; i < chunks; i++) {
        const struct rows r = chunk_of(c, i);
        if (chunks > 1)
            make_logits(c, r);
        make_dlogits(c, r);
        head_multiply(c, r, c->dim[D], c->dim[P] * c->dim[C], (const bf16 *)c->arg[LOGITS]);
    }
}

extern "C" void head_part_work_cuda(const struct call *c, size_t bytes[2])
{
    (void)c;
    bytes[0] = bytes[1] = GEMM_WORK;
}
