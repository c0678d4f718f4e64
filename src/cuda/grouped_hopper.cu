/* grouped_hopper.cu - grouped.cuh on compute capability 9.0. One block per multiprocessor stays for the whole call and
 * walks over the tiles of all experts, each block the same list, taking every gridDim.x-th. A tile is 128 x 256 of the
 * output; its contraction goes in steps of 64 through a ring of four stages in shared memory. Warpgroup 0 loads: one
 * thread asks for boxes (TMA) and the ring's barriers count their bytes. Warpgroups 1 and 2 multiply: 64 x 256 each,
 * in 128 registers per thread.
 *   UP        128 columns of the gate half and the same 128 of the up half: a thread holds both of one column
 *   ROWS_TR   w as stored: contraction-major
 *   ROWS_NO   w[k, n]: the other way
 *   GRADIENT  both operands the other way; the contraction are the rows of the expert, and their zero padding */
#include "cuda/grouped.cuh"
#include "cuda/grouped_plan.cuh"
#include "cuda/hopper.cuh"
enum form { UP, ROWS_TR, ROWS_NO, GRADIENT, GRADIENT_WIDE };
enum { LOADERS = 128, MULTIPLIERS = 256, THREADS = LOADERS + MULTIPLIERS, WARPGROUP = 128, WARP = 32 };
enum { STAGES = 4, A_BYTES = 16384, B_BYTES = 32768, STAGE_BYTES = A_BYTES + B_BYTES, BOX_BYTES = 8192 };
enum { MOST_EXPERTS = 256 };

struct shared {
    unsigned char stage[STAGES][STAGE_BYTES]; /* A, then B; at a multiple of 1024 bytes */
    uint64_t full[STAGES], empty[STAGES];
    int32_t edge[MOST_EXPERTS + 1]; /* rows of expert e: [edge[e], edge[e + 1]) */
    int32_t end[MOST_EXPERTS];      /* of the last segment of e: behind it, up to the edge, rows are zero */
};
struct job {
    struct groups g;
    int m, n,
        k; /* rows of a matrix (gradient), columns of the output (of y: UP), contraction (not gradient) */
    bool add;
    void *out;
    bf16 *y;             /* UP */
    const float *weight; /* UP */
};
struct tile {
    int expert, row, column; /* of the output: rows of all experts, or of one matrix (gradient) */
    int from, steps;         /* of the contraction: first element, number of steps of TILE_DEPTH */
};
/* Where a thread is in the list. */
struct walk {
    int unit, first_unit, expert; /* next unit; the first one of expert */
};

__host__ __device__ static constexpr bool is_gradient(enum form form)
{
    return form >= GRADIENT;
}

template <enum form FORM>
__device__ static bool walk_next(struct walk *w, const struct job *j, const struct shared *s, struct tile *t)
{
    const int columns = (int)cut_parts(j->n, FORM == UP ? TILE_COLUMNS / 2 : TILE_COLUMNS);
    int rows, units;
    for (;; w->expert++, w->first_unit += units) {
        if (w->expert == j->g.n_experts)
            return false;
        rows = is_gradient(FORM) ? (int)cut_parts(j->m, TILE_ROWS)
                                 : (s->edge[w->expert + 1] - s->edge[w->expert]) / TILE_ROWS;
        units = plan_cells(rows, columns);
        if (w->unit < w->first_unit + units)
            break;
    }
    const struct cell c = plan_cell(w->unit - w->first_unit, rows, columns);
    const int edge = s->edge[w->expert], end = s->end[w->expert];
    t->expert = w->expert;
    t->row = c.row * TILE_ROWS + (is_gradient(FORM) ? 0 : edge);
    t->column = c.column * (FORM == UP ? TILE_COLUMNS / 2 : TILE_COLUMNS);
    t->from = is_gradient(FORM) ? edge : 0;
    t->steps = (int)cut_parts(is_gradient(FORM) ? (end > edge ? end - edge : 0) : j->k, TILE_DEPTH);
    w->unit += (int)gridDim.x;
    return true;
}

/* One step of one tile into one stage. */
template <enum form FORM>
__device__ static void load_step(const CUtensorMap *a, const CUtensorMap *b, const struct tile *t, int depth,
                                 uint32_t stage, uint32_t barrier)
{
    barrier_arrive_bytes(barrier, STAGE_BYTES);
#pragma unroll
    for (int i = 0; i < 2; i++)
        if (is_gradient(FORM))
            box_load(stage + i * BOX_BYTES, a, t->row + 64 * i, depth, 0, barrier);
        else
            box_load(stage + i * BOX_BYTES, a, depth, t->row + 64 * i, 0, barrier);
    stage += A_BYTES;
    if (FORM == UP || FORM == ROWS_TR) {
#pragma unroll
        for (int i = 0; i < 2; i++)
            if (FORM == UP)
                box_load(stage + 2 * i * BOX_BYTES, b, depth, t->column, 2 * t->expert + i, barrier);
            else
                box_load(stage + 2 * i * BOX_BYTES, b, depth, t->column + 128 * i, t->expert, barrier);
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++)
            box_load(stage + i * BOX_BYTES, b, t->column + 64 * i, depth, FORM == ROWS_NO ? t->expert : 0,
                     barrier);
    }
}

template <enum form FORM>
__device__ static void load_all(const CUtensorMap *a, const CUtensorMap *b, const struct job *j,
                                struct shared *s)
{
    struct walk w = { (int)blockIdx.x, 0, 0 };
    struct tile t;
    uint32_t step = 0; /* of all tiles: stage step % STAGES, for the step / STAGES-th time */
    while (walk_next<FORM>(&w, j, s, &t))
        for (int i = 0; i < t.steps; i++, step++) {
            const uint32_t at = step % STAGES;
            barrier_wait(shared_address(&s->empty[at]), (step / STAGES & 1) ^ 1);
            load_step<FORM>(a, b, &t, t.from + i * TILE_DEPTH, shared_address(s->stage[at]),
                            shared_address(&s->full[at]));
        }
}

/* Says that this warp has read a stage. */
__device__ static void release(struct shared *s, uint32_t step)
{
    if (threadIdx.x % WARP == 0)
        barrier_arrive(shared_address(&s->empty[step % STAGES]));
}

/* d = the product of one tile; `step` as in load_all(). */
template <enum form FORM>
__device__ static void multiply(float (&d)[128], int steps, int half, struct shared *s, uint32_t *step)
{
    constexpr int a_other = is_gradient(FORM), b_other = is_gradient(FORM) || FORM == ROWS_NO;
    constexpr uint32_t a_each = (a_other ? 2048 : 32) >> 4, b_each = (b_other ? 2048 : 32) >> 4;
    if (steps == 0)
#pragma unroll
        for (int i = 0; i < 128; i++)
            d[i] = 0;
    for (int i = 0; i < steps; i++, (*step)++) {
        const uint32_t at = *step % STAGES, stage = shared_address(s->stage[at]);
        const uint64_t a = operand(stage + half * BOX_BYTES, BOX_BYTES),
                       b = operand(stage + A_BYTES, BOX_BYTES);
        barrier_wait(shared_address(&s->full[at]), *step / STAGES & 1);
        product_begin();
#pragma unroll
        for (int k = 0; k < TILE_DEPTH / 16; k++)
            product_256<a_other, b_other>(d, a + k * a_each, b + k * b_each, i > 0 || k > 0);
        product_commit();
        product_wait<1>();
        if (i > 0)
            release(s, *step - 1);
    }
    product_wait<0>();
    product_settle(d);
    if (steps > 0)
        release(s, *step - 1);
}

__device__ static inline void put_pair(bf16 *p, bool add, float x, float y)
{
    __nv_bfloat162 *pair = (__nv_bfloat162 *)p;
    const float2 old = add ? __bfloat1622float2(*pair) : make_float2(0, 0);
    *pair = __floats2bfloat162_rn(old.x + x, old.y + y);
}
__device__ static inline void put_pair(float *p, bool add, float x, float y)
{
    float2 *pair = (float2 *)p;
    const float2 old = add ? *pair : make_float2(0, 0);
    *pair = make_float2(old.x + x, old.y + y);
}

/* The 64 x 256 of a warpgroup whose first element is `out`; `rows` and `columns` of it exist. */
template <typename number>
__device__ static void put_tile(const float (&d)[128], number *out, int64_t line, int rows, int columns,
                                bool add)
{
    const int row = threadIdx.x / WARP % 4 * 16 + threadIdx.x % WARP / 4, column = threadIdx.x % 4 * 2;
    out += row * line + column;
#pragma unroll
    for (int i = 0; i < 32; i++) {
        if (column + 8 * i >= columns)
            break;
        if (row < rows)
            put_pair(out + 8 * i, add, d[4 * i], d[4 * i + 1]);
        if (row + 8 < rows)
            put_pair(out + 8 * line + 8 * i, add, d[4 * i + 2], d[4 * i + 3]);
    }
}

__device__ static inline float rounded(float x)
{
    return __bfloat162float(__float2bfloat16_rn(x));
}

/* h and y of 64 rows x 128 columns. */
__device__ static void put_up(const float (&d)[128], const struct job *j, int first_row, int first_column)
{
    const int64_t row = first_row + threadIdx.x / WARP % 4 * 16 + threadIdx.x % WARP / 4;
    const int column = first_column + threadIdx.x % 4 * 2;
    bf16 *h = (bf16 *)j->out + row * 2 * j->n + column, *y = j->y + row * j->n + column;
    const float weight[2] = { j->weight[row], j->weight[row + 8] };
#pragma unroll
    for (int i = 0; i < 16; i++) {
        if (column + 8 * i >= j->n)
            break;
#pragma unroll
        for (int k = 0; k < 2; k++) {
            const float gate[2] = { rounded(d[4 * i + 2 * k]), rounded(d[4 * i + 2 * k + 1]) };
            const float up[2] = { rounded(d[64 + 4 * i + 2 * k]), rounded(d[64 + 4 * i + 2 * k + 1]) };
            put_pair(h + 8 * k * 2 * j->n + 8 * i, false, gate[0], gate[1]);
            put_pair(h + 8 * k * 2 * j->n + j->n + 8 * i, false, up[0], up[1]);
            put_pair(y + 8 * k * j->n + 8 * i, false, swiglu(gate[0], up[0], weight[k]),
                     swiglu(gate[1], up[1], weight[k]));
        }
    }
}

template <enum form FORM>
__device__ static void put(const float (&d)[128], const struct job *j, const struct tile *t, int half)
{
    const int row = t->row + 64 * half;
    const int64_t at = ((is_gradient(FORM) ? (int64_t)t->expert * j->m : 0) + row) * j->n + t->column;
    const int rows = is_gradient(FORM) ? j->m - row : 64;
    if (FORM == UP)
        put_up(d, j, row, t->column);
    else if (FORM == GRADIENT_WIDE)
        put_tile(d, (float *)j->out + at, j->n, rows, j->n - t->column, j->add);
    else
        put_tile(d, (bf16 *)j->out + at, j->n, rows, j->n - t->column, j->add);
}

template <enum form FORM> __device__ static void multiply_all(const struct job *j, struct shared *s)
{
    const int half = threadIdx.x / WARPGROUP - 1; /* which 64 rows of the tile */
    struct walk w = { (int)blockIdx.x, 0, 0 };
    struct tile t;
    uint32_t step = 0;
    float d[128];
    while (walk_next<FORM>(&w, j, s, &t)) {
        multiply<FORM>(d, t.steps, half, s, &step);
        put<FORM>(d, j, &t, half);
    }
}

__device__ static void begin(const struct job *j, struct shared *s)
{
    for (int e = threadIdx.x; e <= j->g.n_experts; e += THREADS) {
        s->edge[e] = (int32_t)groups_edge(&j->g, e);
        if (e < j->g.n_experts)
            s->end[e] = j->g.end[(e + 1) * j->g.n_sources - 1];
    }
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(shared_address(&s->full[i]), 1);
            barrier_init(shared_address(&s->empty[i]), MULTIPLIERS / WARP);
        }
        barrier_init_done();
    }
    __syncthreads();
}

template <enum form FORM>
__global__ static void __launch_bounds__(THREADS, 1)
    grouped_kernel(const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b,
                   const __grid_constant__ struct job j)
{
    extern __shared__ __align__(1024) unsigned char memory[];
    struct shared *s = (struct shared *)memory;
    if constexpr (HOPPER_CODE) {
        begin(&j, s);
        if (threadIdx.x < LOADERS) {
            registers_fewer<40>();
            if (threadIdx.x == 0) {
                box_prefetch_map(&a);
                box_prefetch_map(&b);
                load_all<FORM>(&a, &b, &j, s);
            }
        } else {
            registers_more<232>();
            multiply_all<FORM>(&j, s);
        }
    }
}

CUtensorMap cuda_tensor_map(const void *at, bool wide, int64_t n0, int64_t n1, int64_t n2, int64_t line,
                            int64_t plane, int box0, int box1)
{
    static decltype(&cuTensorMapEncodeTiled) encode;
    const uint64_t bytes = wide ? 4 : 2;
    const cuuint64_t n[3] = { (cuuint64_t)n0, (cuuint64_t)n1, (cuuint64_t)n2 },
                     strides[2] = { (cuuint64_t)line * bytes, (cuuint64_t)plane * bytes };
    const cuuint32_t box[3] = { (cuuint32_t)box0, (cuuint32_t)box1, 1 }, each[3] = { 1, 1, 1 };
    CUtensorMap map;
    if (!encode) {
        cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
        CUDA_DO(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", (void **)&encode, 12000,
                                                 cudaEnableDefault, &found));
        CHECK(encode && found == cudaDriverEntryPointSuccess, "the driver has no cuTensorMapEncodeTiled");
    }
    const CUresult status = encode(
        &map, wide ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3,
        (void *)(uintptr_t)at, n, strides, box, each, CU_TENSOR_MAP_INTERLEAVE_NONE,
        CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    CHECK(status == CUDA_SUCCESS,
          "tensor of [%lld, %lld, %lld] elements of %d bytes at %p, boxes of %d x %d: error %d",
          (long long)n2, (long long)n1, (long long)n0, (int)bytes, at, box1, box0, (int)status);
    return map;
}

static int multiprocessors(void)
{
    static int n;
    int device = 0;
    if (n == 0) {
        CUDA_DO(cudaGetDevice(&device));
        CUDA_DO(cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, device));
    }
    return n;
}

template <enum form FORM>
static void launch(cudaStream_t stream, const CUtensorMap *a, const CUtensorMap *b, const struct job *j)
{
    static bool ready;
    if (!ready)
        CUDA_DO(cudaFuncSetAttribute(grouped_kernel<FORM>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     (int)sizeof(struct shared)));
    ready = true;
    grouped_kernel<FORM><<<(unsigned)multiprocessors(), THREADS, sizeof(struct shared), stream>>>(*a, *b, *j);
    LAUNCHED();
}

bool grouped_hopper_takes(const struct groups *g)
{
    return !cuda_portable() && g->tile % TILE_ROWS == 0 && g->n_experts <= MOST_EXPERTS &&
           g->n_rows <= INT32_MAX - TILE_ROWS;
}

/* x[n_rows, width] in boxes of 64 x 64 */
static CUtensorMap rows_map(const struct groups *g, const bf16 *x, int64_t width)
{
    return cuda_tensor_map(x, false, width, g->n_rows, 1, width, width * g->n_rows, 64, 64);
}

void grouped_hopper_up(cudaStream_t stream, const struct groups *g, int64_t d, int64_t f, const bf16 *x,
                       const float *weight, const bf16 *w, bf16 *h, bf16 *y)
{
    const CUtensorMap a = rows_map(g, x, d),
                      b = cuda_tensor_map(w, false, d, f, 2 * g->n_experts, d, f * d, 64, 128);
    const struct job j = { *g, 0, (int)f, (int)d, false, h, y, weight };
    launch<UP>(stream, &a, &b, &j);
}

void grouped_hopper_rows(cudaStream_t stream, const struct groups *g, enum trans tw, int64_t n, int64_t k,
                         const bf16 *in, const bf16 *w, bool add, bf16 *out)
{
    const CUtensorMap a = rows_map(g, in, k),
                      b = tw == TR ? cuda_tensor_map(w, false, k, n, g->n_experts, k, n * k, 64, 128)
                                   : cuda_tensor_map(w, false, n, k, g->n_experts, n, n * k, 64, 64);
    const struct job j = { *g, 0, (int)n, (int)k, add, out, NULL, NULL };
    if (tw == TR)
        launch<ROWS_TR>(stream, &a, &b, &j);
    else
        launch<ROWS_NO>(stream, &a, &b, &j);
}

void grouped_hopper_gradient(cudaStream_t stream, const struct groups *g, int64_t m, int64_t n,
                             const bf16 *dy, const bf16 *x, bool add, void *dw, bool wide)
{
    const CUtensorMap a = rows_map(g, dy, m), b = rows_map(g, x, n);
    const struct job j = { *g, (int)m, (int)n, 0, add, dw, NULL, NULL };
    if (wide)
        launch<GRADIENT_WIDE>(stream, &a, &b, &j);
    else
        launch<GRADIENT>(stream, &a, &b, &j);
}
