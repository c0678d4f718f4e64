/* attention_hopper.cu - attention's backward on wgmma, for heads of 128 + 64 and 128 (DeepSeek-V2). Every sum has one owner and
 * a fixed order. A block owns keys and goes over the queries that see them: P again from lse, dP, dS, and the sums dK and dV;
 * it leaves dS in memory as bfloat16, from where a second kernel makes dQ = dS K. Keys are read where they lie, in kv and k_rope.
 *
 * A slice is 64 rows of a head, queries with dO or keys with values: 5 boxes of 64 x 64, contraction-major for scores and the
 * other way for sums (cuda/hopper.cuh). A block owns two slices, one for each of two warpgroups; a third one brings what these
 * go over to a ring of stages. Scores are keys times queries, so that their registers, rounded to bfloat16, are the first
 * operand of the sums. While one warpgroup does its exponentials, the other multiplies. */
#include "ops/attention_hopper.cuh"
enum { STAGES = 3 };
/* So many heads at a time that their dS stays below. */
static const int64_t DS_BYTES = 320 << 20;

struct slice {
    unsigned char box[WIDE + NARROW][BOX];
};
struct numbers { /* of a slice's queries, at multiples of 256 bytes */
    float lse[SLICE], delta[SLICE];
};
struct shared {
    struct slice own[OWNERS], stage[STAGES]; /* at multiples of 1024 bytes */
    unsigned char ds[OWNERS][BOX];           /* on their way to memory */
    struct numbers numbers[STAGES];
    uint64_t here, full[STAGES], empty[STAGES];
    uint64_t written[OWNERS], sent[OWNERS]; /* of ds */
};

__device__ static void load_queries(const struct maps *m, const struct job *j, const struct spot *p,
                                    int slice, struct shared *s, int at)
{
    const struct attention *z = &j->x.z;
    const int row = (int)(p->b * z->s) + slice * SLICE;
    const uint32_t full = shared_address(&s->full[at]);
    const int numbers = (int)(at_number(z, p->b, p->a, 0) / SLICE) + slice;
    barrier_arrive_bytes(full, sizeof(struct slice) + sizeof(struct numbers));
    for (int i = 0; i < WIDE; i++)
        box_load(shared_address(s->stage[at].box[i]), &m->q, i * 64, row, p->a, full);
    for (int i = 0; i < NARROW; i++)
        box_load(shared_address(s->stage[at].box[WIDE + i]), &m->d_o, i * 64, row, p->a, full);
    box_load(shared_address(s->numbers[at].lse), &m->lse, 0, numbers, 0, full);
    box_load(shared_address(s->numbers[at].delta), &m->delta, 0, numbers, 0, full);
}

__device__ static void load_own(const struct maps *m, const struct attention *z, const struct spot *p,
                                struct shared *s)
{
    const uint32_t here = shared_address(&s->here);
    barrier_arrive_bytes(here, sizeof s->own);
    for (int k = 0; k < OWNERS; k++) {
        const int row = (int)(p->b * z->s) + (OWNERS * p->turn + k) * SLICE;
        for (int i = 0; i < 2; i++) {
            box_load(shared_address(s->own[k].box[i]), &m->kv, i * 64, row, p->a, here);
            box_load(shared_address(s->own[k].box[WIDE + i]), &m->kv, NOPE + i * 64, row, p->a, here);
        }
        box_load(shared_address(s->own[k].box[2]), &m->rope, 0, row, 0, here);
    }
}

__device__ static void load_all(const struct maps *m, const struct job *j, struct shared *s)
{
    const struct spot p = spot_of(j, OWNERS, false);
    const int from = OWNERS * p.turn, n = (int)(j->x.z.s / SLICE) - from;
    load_own(m, &j->x.z, &p, s);
    for (int i = 0; i < n; i++) {
        barrier_wait(shared_address(&s->empty[i % STAGES]), (i / STAGES & 1) ^ 1);
        load_queries(m, j, &p, from + i, s, i % STAGES);
    }
}

/* x[64, 64] = a b^T over BOXES boxes of both. */
template <int BOXES> __device__ static inline void score(float (&x)[32], uint32_t a, uint32_t b)
{
#pragma unroll
    for (int i = 0; i < 4 * BOXES; i++)
        product_64(x, operand(a, 0, i / 4 * BOX + i % 4 * 32), operand(b, 0, i / 4 * BOX + i % 4 * 32),
                   i > 0);
}

/* Scores as bfloat16: of 16 steps each, the first operand of a sum. */
typedef uint32_t weights[4][4];

/* Of slices with the same number: queries, columns, see keys up to their own. */
__device__ static inline void hide(float (&x)[32], const struct lane *l)
{
#pragma unroll
    for (int i = 0; i < 32; i++)
        x[i] = l->row + i / 2 % 2 * 8 <= l->column + i / 4 * 8 + i % 2 ? x[i] : -INFINITY;
}

/* P of scores. */
__device__ static inline void weigh(weights &w, const float (&x)[32], const float *lse, float scale)
{
#pragma unroll
    for (int j = 0; j < 8; j++) {
        const float2 shift = *(const float2 *)(lse + 8 * j);
        const float left = shift.x * LOG2_E, right = shift.y * LOG2_E;
#pragma unroll
        for (int h = 0; h < 2; h++)
            w[j / 2][j % 2 * 2 + h] = pack_pair(exp2_of(x[4 * j + 2 * h] * scale - left),
                                                exp2_of(x[4 * j + 2 * h + 1] * scale - right));
    }
}

/* dS / scale of P and dP. */
__device__ static inline void weigh_back(weights &ds, const weights &w, const float (&dp)[32],
                                         const float *delta)
{
#pragma unroll
    for (int j = 0; j < 8; j++) {
        const float2 off = *(const float2 *)(delta + 8 * j);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const uint32_t pair = w[j / 2][j % 2 * 2 + h];
            ds[j / 2][j % 2 * 2 + h] = pack_pair(low_of(pair) * (dp[4 * j + 2 * h] - off.x),
                                                 high_of(pair) * (dp[4 * j + 2 * h + 1] - off.y));
        }
    }
}

/* Into this warpgroup's buffer, from where a warp that does not multiply sends it: lines of 128 bytes are keys, of which the vectors
 * are exchanged. n: how many went before. */
__device__ static inline void put_ds(const weights &ds, struct shared *s, int which, int n)
{
    const int t = threadIdx.x % WARPGROUP, line = t / WARP * 16 + t / 8 % 2 * 8 + t % 8;
    const uint32_t buffer = shared_address(s->ds[which]);
    barrier_wait(shared_address(&s->sent[which]), (n & 1) ^ 1);
#pragma unroll
    for (int i = 0; i < 4; i++)
        shared_put_matrices(buffer + line * 128 + ((2 * i + t % WARP / 16) ^ t % 8) * 16, ds[i][0], ds[i][1],
                            ds[i][2], ds[i][3]);
    shared_written();
    release(&s->written[which]);
}

/* By one thread. */
__device__ static void send_ds(const struct job *j, struct shared *s)
{
    const struct spot p = spot_of(j, OWNERS, false);
    const int from = OWNERS * p.turn, n = (int)(j->x.z.s / SLICE) - from;
    for (int i = 0; i < n; i++)
        for (int k = 0; k < OWNERS && k <= i; k++) {
            barrier_wait(shared_address(&s->written[k]), (i - k) & 1);
            bytes_store(ds_box(j, &p, from + i, from + k), shared_address(s->ds[k]), BOX);
            box_store_commit();
            box_store_wait<0>();
            barrier_arrive(shared_address(&s->sent[k]));
        }
}

__device__ static inline void store_keys(const struct attention_tensors *x, const struct spot *p,
                                         const float (&dk)[96], const float (&dv)[64], int first, int column)
{
    const float scale = x->z.scale;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int row = first + 8 * h;
        bf16 *kv = x->dkv + at_row(&x->z, p->b, p->a, row, NOPE + V) + column;
        float *rope = x->rope + at_number(&x->z, p->b, p->a, row) * ROPE + column;
#pragma unroll
        for (int j = 0; j < NOPE / 8 && x->dkv; j++)
            put_pair(kv + 8 * j, x->add_kv, scale * dk[4 * j + 2 * h], scale * dk[4 * j + 2 * h + 1]);
#pragma unroll
        for (int j = 0; j < V / 8 && x->dkv; j++)
            put_pair(kv + NOPE + 8 * j, x->add_kv, dv[4 * j + 2 * h], dv[4 * j + 2 * h + 1]);
#pragma unroll
        for (int j = NOPE / 8; j < Q / 8; j++)
            *(float2 *)(rope - NOPE + 8 * j) =
                make_float2(scale * dk[4 * j + 2 * h], scale * dk[4 * j + 2 * h + 1]);
    }
}

__device__ static void multiply_keys(const struct job *j, struct shared *s)
{
    const struct spot p = spot_of(j, OWNERS, false);
    const struct lane l = lane_of();
    const int from = OWNERS * p.turn, which = which_owner(), n = (int)(j->x.z.s / SLICE) - from;
    const uint32_t own = shared_address(&s->own[which]);
    const float scale = j->x.z.scale * LOG2_E;
    float dk[96], dv[64], x[32];
    weights w, ds;
    product_zero(dk);
    product_zero(dv);
    barrier_wait(shared_address(&s->here), 0);
    for (int i = 0; i < n; i++) {
        const int at = i % STAGES;
        const uint32_t query = shared_address(&s->stage[at]), d_o = query + WIDE * BOX;
        barrier_wait(shared_address(&s->full[at]), i / STAGES & 1);
        if (i < which) { /* these queries see none of the keys */
            release(&s->empty[at]);
            continue;
        }
        product_begin();
        score<WIDE>(x, own, query);
        product_commit();
        product_wait<0>();
        product_settle(x);
        if (i == which)
            hide(x, &l);
        weigh(w, x, s->numbers[at].lse + l.column, scale);
        product_begin();
        score<NARROW>(x, own + WIDE * BOX, d_o);
        product_commit();
#pragma unroll
        for (int k = 0; k < 4; k++)
            product_rows_128(dv, w[k], operand(d_o, BOX, k * 2048));
        product_commit();
        product_wait<1>();
        product_settle(x);
        weigh_back(ds, w, x, s->numbers[at].delta + l.column);
        product_begin();
#pragma unroll
        for (int k = 0; k < 4; k++)
            product_rows_192(dk, ds[k], operand(query, BOX, k * 2048));
        product_commit();
        if (j->ds)
            put_ds(ds, s, which, i - which);
        product_wait<0>(); /* with the next scores under way too there are not enough registers */
        product_settle(dk);
        product_settle(dv);
        release(&s->empty[at]);
    }
    store_keys(&j->x, &p, dk, dv, (from + which) * SLICE + l.row, l.column);
}

__global__ static void __launch_bounds__(THREADS, 1)
    keys_kernel(const __grid_constant__ struct maps m, const __grid_constant__ struct job j)
{
    extern __shared__ __align__(1024) unsigned char memory[];
    struct shared *s = (struct shared *)memory;
    if constexpr (HOPPER_CODE) {
        if (threadIdx.x == 0) {
            barrier_init(shared_address(&s->here), 1);
            for (int i = 0; i < OWNERS; i++) {
                barrier_init(shared_address(&s->written[i]), WARPGROUP / WARP);
                barrier_init(shared_address(&s->sent[i]), 1);
            }
            ring_begin(s->full, s->empty, STAGES);
        }
        __syncthreads();
        if (threadIdx.x < LOADERS) {
            registers_fewer<24>();
            if (threadIdx.x == 0)
                load_all(&m, &j, s);
            else if (threadIdx.x == WARP && j.ds)
                send_ds(&j, s);
        } else {
            registers_more<240>();
            multiply_keys(&j, s);
        }
    }
}

bool attention_hopper_serves(const struct attention *z)
{
    return z->s % (OWNERS * SLICE) == 0 && z->q == Q && z->v == V && z->r == ROPE && z->nope == NOPE &&
           z->b * z->s <= INT32_MAX;
}

/* Of a head. */
static int64_t ds_bytes(const struct attention *z)
{
    const int64_t n = z->s / SLICE;
    return n * (n + 1) / 2 * BOX;
}

/* Heads at a time: parts that differ least in length. */
static int64_t part_of(const struct attention *z)
{
    const int64_t most = DS_BYTES / ds_bytes(z), all = z->b * z->a;
    return cut_parts(all, cut_parts(all, most > 1 ? most : 1));
}

/* Behind what attention_tensors_of() takes. */
static size_t parts_bytes(const struct attention *z)
{
    size_t bytes[2];
    attention_parts_work(z, bytes);
    return (size_t)round_up((int64_t)bytes[1], 256);
}

void attention_hopper_work(const struct attention *z, size_t bytes[2])
{
    bytes[0] = 0;
    bytes[1] = parts_bytes(z) + (size_t)(part_of(z) * ds_bytes(z));
}

/* [b s, a, width] in boxes of 64 rows of a head */
static CUtensorMap heads_map(const struct attention *z, const bf16 *at, int64_t a, int64_t width)
{
    return cuda_tensor_map(at, false, width, z->b * z->s, a, a * width, width, 64, SLICE);
}

/* A number of each query, in lines of a slice. */
static CUtensorMap numbers_map(const struct attention *z, const float *at)
{
    const int64_t n = z->b * z->a * z->s;
    return cuda_tensor_map(at, true, SLICE, n / SLICE, 1, SLICE, n, SLICE, 1);
}

void attention_hopper_bwd(const struct call *c, const struct attention *z)
{
    const struct attention_tensors x = attention_tensors_of(c, z);
    const struct maps m = { heads_map(z, x.q, z->a, Q),      heads_map(z, x.kv, z->a, NOPE + V),
                            heads_map(z, x.k_rope, 1, ROPE), heads_map(z, x.d_o, z->a, V),
                            numbers_map(z, x.lse),           numbers_map(z, x.delta) };
    const int64_t all = z->b * z->a, part = part_of(z);
    struct job j = { x, 0, x.dq ? (unsigned char *)c->work + parts_bytes(z) : NULL };
    attention_delta(c, &x);
    for (; j.first < all; j.first += part) {
        const int64_t heads = all - j.first < part ? all - j.first : part;
        launch(keys_kernel, sizeof(struct shared), stream_of(c), heads * turns_of(z, OWNERS), &m, &j);
        if (x.dq)
            attention_hopper_dq(stream_of(c), heads, &m, &j);
    }
    attention_rope_sum(c, &x);
}
