/* grouped_hopper.cu - grouped.cuh on compute capability 9.0. One block per multiprocessor stays for the whole call and
 * walks over the tiles of all experts, each block the same list, taking every gridDim.x-th. A tile is 128 x 256 of the
 * output; its contraction goes in steps of 64 through a ring of four stages in shared memory. Warpgroup 0 loads: one
 * thread asks for boxes (TMA) and the ring's barriers count their bytes. Warpgroups 1 and 2 multiply: 64 x 256 each,
 * in 128 registers per thread. Two blocks make a cluster: their tiles share the rows or the matrix, each block loads half
 * of what is shared, for both, and a stage is free when the warps of both blocks have read it.
 * Results leave at once (grouped_put.cuh) or while the next tile is multiplied (grouped_later.cuh): GROUPED_LATER.
 *   UP        128 columns of the gate half and the same 128 of the up half: a thread holds both of one column
 *   ROWS_TR   w as stored: contraction-major
 *   ROWS_NO   w[k, n]: the other way
 *   BACK      as ROWS_NO, and the product is dy: h comes, and dh, y and a partial sum per row leave; dy does not
 *   GRADIENT  both operands the other way; the contraction are the rows of the expert, and their zero padding */
#include "cuda/grouped_later.cuh"

/* Box i of an operand: of one that both blocks need, every other one is loaded by this block, for both. */
__device__ static inline void load_box(uint32_t to, const CUtensorMap *from, int c0, int c1, int c2,
                                       uint32_t barrier, bool shared, int i, int rank)
{
    if (!shared)
        box_load(to, from, c0, c1, c2, barrier);
    else if (i % CLUSTER == rank)
        box_load_both(to, from, c0, c1, c2, barrier);
}

/* One step of one tile into one stage. */
template <enum form FORM>
__device__ static void load_step(const CUtensorMap *a, const CUtensorMap *b, const struct tile *t, int rank,
                                 int depth, uint32_t stage, uint32_t barrier)
{
    const bool share_a = CLUSTER > 1 && t->same_rows, share_b = CLUSTER > 1 && !t->same_rows;
    const int e = t->expert, column = t->column;
    barrier_arrive_bytes(barrier, A_BYTES + t->parts * (B_BYTES / 2));
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int row = t->row + 64 * i;
        load_box(stage + i * BOX_BYTES, a, is_gradient(FORM) ? row : depth, is_gradient(FORM) ? depth : row,
                 0, barrier, share_a, i, rank);
    }
    stage += A_BYTES;
    if (FORM == UP || FORM == ROWS_TR) {
#pragma unroll
        for (int i = 0; i < 2 && i < t->parts; i++)
            load_box(stage + 2 * i * BOX_BYTES, b, depth, FORM == UP ? column : column + 128 * i,
                     FORM == UP ? 2 * e + i : e, barrier, share_b, i, rank);
    } else {
#pragma unroll
        for (int i = 0; i < 4 && i < 2 * t->parts; i++)
            load_box(stage + i * BOX_BYTES, b, column + 64 * i, depth, is_gradient(FORM) ? 0 : e, barrier,
                     share_b, i, rank);
    }
}

/* BACK: h of 64 columns, from `column` on, of the halves of the tile that have rows: [half][gate, up]. Nothing is
 * shared, and both blocks of a pair count the step, also where it brings no bytes. */
__device__ static void load_hidden(const CUtensorMap *h, const struct tile *t, int column, int n, int end,
                                   uint32_t stage, uint32_t barrier)
{
    const int halves = column >= n || t->row >= end ? 0 : t->row + 64 >= end ? 1 : 2;
    barrier_arrive_bytes(barrier, halves * 2 * BOX_BYTES);
    for (int i = 0; i < 2 * halves; i++)
        box_load(stage + i * BOX_BYTES, h, column, t->row + i / 2 * 64, i % 2, barrier);
}

template <enum form FORM>
__device__ static void load_all(const CUtensorMap *a, const CUtensorMap *b, const CUtensorMap *h,
                                const struct job *j, struct shared *s)
{
    const int rank = walk_rank();
    struct walk w = walk_begin();
    struct tile t;
    uint32_t step = 0; /* of all tiles: stage step % STAGES, for the step / STAGES-th time */
    while (walk_next<FORM>(&w, j, &s->edges, &t))
        for (int i = 0; i < t.steps + back_steps(FORM); i++, step++) {
            const uint32_t at = step % STAGES;
            const uint32_t stage = shared_address(s->stage[at]), full = shared_address(&s->full[at]);
            barrier_wait(shared_address(&s->empty[at]), (step / STAGES & 1) ^ 1);
            if (FORM == BACK && i >= t.steps)
                load_hidden(h, &t, t.column + 64 * (i - t.steps), j->n, s->edges.end[t.expert], stage, full);
            else
                load_step<FORM>(a, b, &t, rank, t.from + i * TILE_DEPTH, stage, full);
        }
}

/* One step of a tile; `more`: to what d holds. Frees the stage of the step before. */
template <enum form FORM, int PARTS>
__device__ static __forceinline__ void multiply_step(float (&d)[128], bool more, int half, struct shared *s,
                                                     uint32_t step)
{
    constexpr int a_other = is_gradient(FORM), b_other = FORM != UP && FORM != ROWS_TR;
    constexpr uint32_t a_each = a_other ? 2048 : 32, b_each = b_other ? 2048 : 32; /* bytes of 16 steps */
    const uint32_t at = step % STAGES, stage = shared_address(s->stage[at]);
    const uint32_t a = stage + half * BOX_BYTES, b = stage + A_BYTES;
    barrier_wait(shared_address(&s->full[at]), step / STAGES & 1);
    product_begin();
#pragma unroll
    for (int k = 0; k < TILE_DEPTH / 16; k++)
        product<a_other, b_other, PARTS>(d, operand(a, BOX_BYTES, k * a_each),
                                         operand(b, BOX_BYTES, k * b_each), more || k > 0);
    product_commit();
    product_wait<1>();
    if (more)
        release(s, step - 1);
}

/* d = the product of the first PARTS x 128 columns of a tile; `step` as in load_all(). Finds the next tile meanwhile;
 * BACK does so later, when fewer registers are in use. */
template <enum form FORM, int PARTS>
__device__ static bool multiply(float (&d)[128], int steps, int half, struct shared *s, uint32_t *step,
                                struct walk *w, const struct job *j, struct tile *next)
{
    for (int i = 0; i < steps; i++, (*step)++)
        multiply_step<FORM, PARTS>(d, i > 0, half, s, *step);
    const bool more = FORM == BACK || walk_next<FORM>(w, j, &s->edges, next);
    product_wait<0>();
    product_settle(d);
    release(s, *step - 1);
    return more;
}

/* As multiply(); between the steps the results of the tile before leave. */
template <enum form FORM, int PARTS>
__device__ static __forceinline__ bool multiply_later(float (&d)[128], const struct tile *t, int half,
                                                      struct shared *s, uint32_t *step, struct later *l,
                                                      struct writer *writer, const struct outputs *o,
                                                      struct walk *w, const struct job *j, struct tile *next)
{
    for (int i = 0; i < t->steps; i++, (*step)++) {
        multiply_step<FORM, PARTS>(d, i > 0, half, s, *step);
        while (l->unit < l->n_units && (i >= unit_step(FORM, l->unit) || i == t->steps - 1))
            put_next<FORM>(l, writer, o, j, s);
    }
    const bool more = FORM == BACK || walk_next<FORM>(w, j, &s->edges, next);
    product_wait<0>();
    product_settle(d);
    release(s, *step - 1);
    return more;
}

/* A tile of which this warpgroup has nothing to multiply: rows of padding, or none. */
template <enum form FORM>
__device__ static bool is_empty(const struct tile *t, int row, const struct job *j, const struct shared *s)
{
    return t->parts == 0 || row >= (is_gradient(FORM) ? j->m : s->edges.end[t->expert]);
}
template <enum form FORM>
__device__ static void pass(const struct tile *t, int row, struct writer *writer, const struct outputs *o,
                            const struct job *j, struct shared *s, uint32_t *step)
{
    skip(t->steps + back_steps(FORM), s, step);
    if (!is_gradient(FORM) && !j->add && t->parts > 0)
        put_zeros<FORM>(writer, o, j, row, t->column);
}

/* BACK: the results of a tile, and the next tile. */
__device__ static bool leave_back(const float (&d)[128], const struct tile *t, int row, const float weight[2],
                                  struct writer *writer, const struct outputs *o, const struct job *j,
                                  struct shared *s, uint32_t *step, struct walk *w, struct tile *next)
{
    const int slices = (int)cut_parts(j->n - t->column, 64);
    const uint32_t last = *step + (slices < back_steps(BACK) ? slices : back_steps(BACK)) - 1;
    float sum[2] = { 0, 0 };
    put_back<0>(writer, d, o, j, s, step, row, t->column, weight, sum);
    put_row_sums(partial_of(j, row, t->column) + thread_line(), sum);
    const bool more = walk_next<BACK>(w, j, &s->edges, next);
    if (is_leader())
        release_hidden(s, last);
    return more;
}

template <enum form FORM>
__device__ static void multiply_all(const struct job *j, struct shared *s, const struct outputs *o)
{
    const int half = threadIdx.x / WARPGROUP - 1; /* which 64 rows of the tile */
    struct writer writer = { shared_address(s->out[half][0]), shared_address(s->out[half][1]), 1 + half };
    struct walk w = walk_begin();
    struct tile t, next;
    uint32_t step = 0;
    float weight[2] = { 0, 0 };
    for (const int64_t begin = clock64(); STAGGER > 0 && half == 1 && clock64() - begin < STAGGER;)
        ;
    for (bool more = walk_next<FORM>(&w, j, &s->edges, &t); more; t = next) {
        const int row = t.row + 64 * half;
        const int plane = is_gradient(FORM) ? (int)groups_plane(t.expert, j->g.n_experts, j->parts) : 0;
        float d[128]; /* here, so that it is not taken to live between tiles */
        if (is_empty<FORM>(&t, row, j, s)) {
            pass<FORM>(&t, row, &writer, o, j, s, &step);
            more = walk_next<FORM>(&w, j, &s->edges, &next);
            continue;
        }
        if (FORM == UP || FORM == BACK) {
            weight[0] = j->weight[row + thread_line()];
            weight[1] = j->weight[row + thread_line() + 8];
        }
        if (FORM == UP || t.parts == 2)
            more = multiply<FORM, 2>(d, t.steps, half, s, &step, &w, j, &next);
        else
            more = multiply<FORM, 1>(d, t.steps, half, s, &step, &w, j, &next);
        if (FORM == BACK)
            more = leave_back(d, &t, row, weight, &writer, o, j, s, &step, &w, &next);
        else
            put<FORM, 0>(&writer, d, o, j, row, t.column, plane, weight);
    }
    if (is_leader())
        box_store_wait<0>();
}

/* The same; results leave while the next tile is multiplied. */
template <enum form FORM>
__device__ static void multiply_all_later(const struct job *j, struct shared *s, const struct outputs *o)
{
    const int half = threadIdx.x / WARPGROUP - 1;
    const uint32_t room = shared_address(s->out[half][0]), zeros = room + 3 * PIECE_BYTES;
    struct writer writer = { room, room + BOX_BYTES, 1 + half };
    struct walk w = walk_begin();
    struct tile t, next;
    struct later l;
    uint32_t step = 0;
    l.unit = l.n_units = 0;
    l.parity = 1;
    for (bool more = walk_next<FORM>(&w, j, &s->edges, &t); more; t = next) {
        const int row = t.row + 64 * half;
        float d[128];
        if (is_empty<FORM>(&t, row, j, s)) {
            struct writer free = { zeros, zeros, 1 + half }; /* BACK: h is, or comes, before it */
            pass<FORM>(&t, row, FORM == BACK ? &free : &writer, o, j, s, &step);
            more = walk_next<FORM>(&w, j, &s->edges, &next);
            continue;
        }
        if (FORM == UP || t.parts == 2)
            more = multiply_later<FORM, 2>(d, &t, half, s, &step, &l, &writer, o, &w, j, &next);
        else
            more = multiply_later<FORM, 1>(d, &t, half, s, &step, &l, &writer, o, &w, j, &next);
        take<FORM>(&l, d, &writer, o, j, s, &t, row);
        if (FORM == BACK)
            more = walk_next<FORM>(&w, j, &s->edges, &next);
    }
    if (FORM == BACK)
        ask_rest(&l, &writer, o, s);
    put_last<FORM, 0>(&l, &writer, o, j, s);
    if (is_leader())
        box_store_wait<0>();
}

/* Of all threads that use the barriers of this block. */
__device__ static void block_sync(void)
{
    if (CLUSTER > 1)
        cluster_sync();
    else
        __syncthreads();
}

__device__ static void begin(const struct job *j, struct shared *s)
{
    for (int e = threadIdx.x; e <= j->g.n_experts; e += THREADS) {
        s->edges.edge[e] = (int32_t)groups_edge(&j->g, e);
        if (e < j->g.n_experts)
            s->edges.end[e] = j->g.end[(e + 1) * j->g.n_sources - 1];
    }
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(shared_address(&s->full[i]), 1);
            barrier_init(shared_address(&s->empty[i]), CLUSTER * MULTIPLIERS / WARP);
        }
        for (int i = 0; i < 4; i++)
            barrier_init(shared_address(&s->hidden[i / 2][i % 2]), 1);
        barrier_init_done();
    }
    block_sync();
}

/* Per thread, of the 168 at the start: together no more. BACK has h, dy and its sums beside the products' at a time. */
__host__ __device__ static constexpr int loader_registers(enum form form)
{
    return form == BACK && is_later(form) ? 24 : 40;
}
__host__ __device__ static constexpr int multiplier_registers(enum form form)
{
    return 232 + (40 - loader_registers(form)) * LOADERS / MULTIPLIERS;
}

template <enum form FORM>
__global__ static void __launch_bounds__(THREADS, 1)
    grouped_kernel(const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b,
                   const __grid_constant__ CUtensorMap out, const __grid_constant__ CUtensorMap y,
                   const __grid_constant__ CUtensorMap h, const __grid_constant__ struct job j)
{
    extern __shared__ __align__(1024) unsigned char memory[];
    struct shared *s = (struct shared *)memory;
    if constexpr (HOPPER_CODE) {
        begin(&j, s);
        if (threadIdx.x < LOADERS) {
            registers_fewer<loader_registers(FORM)>();
            if (threadIdx.x == 0) {
                box_prefetch_map(&a);
                box_prefetch_map(&b);
                box_prefetch_map(&out);
                load_all<FORM>(&a, &b, &h, &j, s);
            }
        } else {
            const struct outputs o = { &out, &y, &h };
            registers_more<multiplier_registers(FORM)>();
            if constexpr (is_later(FORM))
                multiply_all_later<FORM>(&j, s, &o);
            else
                multiply_all<FORM>(&j, s, &o);
        }
        block_sync(); /* the other block may still arrive at barriers of this one */
    }
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

struct maps {
    CUtensorMap a, b, out, y, h; /* y: UP, BACK; h: BACK */
};

/* As many clusters as there is room for at once, beside what is left to communication: a block that finds no room would
 * take its share of the tiles when others have ended. */
template <enum form FORM> static void launch(cudaStream_t stream, const struct maps *m, const struct job *j)
{
    static int n_clusters;
    cudaLaunchAttribute size;
    cudaLaunchConfig_t config = {};
    size.id = cudaLaunchAttributeClusterDimension;
    size.val.clusterDim.x = CLUSTER;
    size.val.clusterDim.y = size.val.clusterDim.z = 1;
    config.gridDim = dim3((unsigned)(multiprocessors() / CLUSTER * CLUSTER));
    config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = sizeof(struct shared);
    config.stream = stream;
    config.attrs = &size;
    config.numAttrs = 1;
    if (n_clusters == 0) {
        CUDA_DO(cudaFuncSetAttribute(grouped_kernel<FORM>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     (int)sizeof(struct shared)));
        CUDA_DO(cudaOccupancyMaxActiveClusters(&n_clusters, grouped_kernel<FORM>, &config));
        CHECK(n_clusters > 0, "no room for a cluster of %d blocks", (int)CLUSTER);
    }
    const int left = n_clusters - cut_parts(cuda_blocks_left(), CLUSTER);
    config.gridDim = dim3((unsigned)((left > 1 ? left : 1) * CLUSTER));
    CUDA_DO(cudaLaunchKernelEx(&config, grouped_kernel<FORM>, m->a, m->b, m->out, m->y, m->h, *j));
}

bool grouped_hopper_takes(const struct groups *g)
{
    return !cuda_portable() && g->tile % TILE_ROWS == 0 && g->n_experts <= MOST_EXPERTS &&
           g->n_rows <= INT32_MAX - TILE_ROWS;
}

static struct maps maps_of(CUtensorMap a, CUtensorMap b, CUtensorMap out)
{
    const struct maps m = { a, b, out, out, out };
    return m;
}

/* x[n_rows, width] in boxes of 64 x `columns` */
static CUtensorMap rows_map(const struct groups *g, const bf16 *x, int64_t width, int columns = 64)
{
    return cuda_tensor_map(x, false, width, g->n_rows, 1, width, width * g->n_rows, columns, 64);
}

/* h[n_rows, 2f] in such boxes, its halves as planes */
static CUtensorMap halves_map(const struct groups *g, const bf16 *h, int64_t f, int columns)
{
    return cuda_tensor_map(h, false, f, g->n_rows, 2, 2 * f, f, columns, 64);
}

/* w[e][m, n] in boxes of `lines` x 64 */
static CUtensorMap matrix_map(const bf16 *w, int64_t e, int64_t m, int64_t n, int lines)
{
    return cuda_tensor_map(w, false, n, m, e, n, n * m, 64, lines);
}

void grouped_hopper_up(cudaStream_t stream, const struct groups *g, int64_t d, int64_t f, const bf16 *x,
                       const float *weight, const bf16 *w, bf16 *h, bf16 *y)
{
    const CUtensorMap halves = halves_map(g, h, f, 64);
    const struct maps m = { rows_map(g, x, d), matrix_map(w, 2 * g->n_experts, f, d, 128), halves,
                            rows_map(g, y, f), halves };
    const struct job j = { *g, 0, (int)f, (int)d, false, weight, NULL, 1 };
    launch<UP>(stream, &m, &j);
}

void grouped_hopper_back(cudaStream_t stream, const struct groups *g, int64_t d, int64_t f,
                         const struct grouped_back *b)
{
    const int columns = box_columns(BACK);
    const struct maps m = { rows_map(g, b->dz, d), matrix_map(b->w, g->n_experts, d, f, 64),
                            halves_map(g, b->dh, f, columns), rows_map(g, b->y, f, columns),
                            halves_map(g, b->h, f, columns) };
    const struct job j = { *g, 0, (int)f, (int)d, false, b->weight, b->partial, 1 };
    launch<BACK>(stream, &m, &j);
}

void grouped_hopper_rows(cudaStream_t stream, const struct groups *g, enum trans tw, int64_t n, int64_t k,
                         const bf16 *in, const bf16 *w, bool add, bf16 *out)
{
    const int64_t e = g->n_experts;
    const struct maps m =
        maps_of(rows_map(g, in, k), tw == TR ? matrix_map(w, e, n, k, 128) : matrix_map(w, e, k, n, 64),
                rows_map(g, out, n));
    const struct job j = { *g, 0, (int)n, (int)k, add, NULL, NULL, 1 };
    if (tw == TR)
        launch<ROWS_TR>(stream, &m, &j);
    else
        launch<ROWS_NO>(stream, &m, &j);
}

void grouped_hopper_gradient(cudaStream_t stream, const struct groups *g, int64_t parts, int64_t m, int64_t n,
                             const bf16 *dy, const bf16 *x, bool add, void *dw, bool wide)
{
    const struct maps maps =
        maps_of(rows_map(g, dy, m), rows_map(g, x, n),
                cuda_tensor_map(dw, wide, n, m, g->n_experts, n, n * m, wide ? 32 : 64, 64));
    const struct job j = { *g, (int)m, (int)n, 0, add, NULL, NULL, (int)parts };
    if (wide)
        launch<GRADIENT_WIDE>(stream, &maps, &j);
    else
        launch<GRADIENT>(stream, &maps, &j);
}
