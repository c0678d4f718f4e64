/* attention_hopper_dq.cu - the last product of attention's backward on wgmma: dQ = dS K of four query slices, over the key slices
 * that they see (attention_hopper.cu). */
#include "ops/attention_hopper.cuh"
/* Of four query slices the first warpgroup has the first and the last, so that both see about as many keys. */
enum { QUERIES = 4, STAGES = 4 };
struct stage {
    unsigned char key[WIDE][BOX], ds[QUERIES][BOX];
};
struct shared {
    struct stage stage[STAGES];
    uint64_t full[STAGES], empty[STAGES];
};

/* The first query slice of a block, and how many there are. */
struct queries {
    int first, n;
};
__device__ static inline struct queries queries_of(const struct job *j, const struct spot *p)
{
    const int first = QUERIES * p->turn, left = (int)(j->x.z.s / SLICE) - first;
    const struct queries q = { first, left < QUERIES ? left : (int)QUERIES };
    return q;
}

/* dS of query slices from the i'th key slice on. */
__device__ static void load_dq(const struct maps *m, const struct job *j, struct shared *s)
{
    const struct spot p = spot_of(j, QUERIES, true);
    const struct queries q = queries_of(j, &p);
    for (int i = 0; i < q.first + q.n; i++) {
        const int at = i % STAGES, row = (int)(p.b * j->x.z.s) + i * SLICE,
                  unseen = i > q.first ? i - q.first : 0;
        const uint32_t full = shared_address(&s->full[at]);
        struct stage *to = &s->stage[at];
        barrier_wait(shared_address(&s->empty[at]), (i / STAGES & 1) ^ 1);
        barrier_arrive_bytes(full, sizeof to->key + (q.n - unseen) * BOX);
        box_load(shared_address(to->key[0]), &m->kv, 0, row, p.a, full);
        box_load(shared_address(to->key[1]), &m->kv, 64, row, p.a, full);
        box_load(shared_address(to->key[2]), &m->rope, 0, row, 0, full);
        for (int k = unseen; k < q.n; k++)
            bytes_load(shared_address(to->ds[k]), ds_box(j, &p, q.first + k, i), BOX, full);
    }
}

__device__ static inline void store_dq(const struct attention_tensors *x, const struct spot *p,
                                       const float (&dq)[96], int first, int column)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        bf16 *to = x->dq + at_row(&x->z, p->b, p->a, first + 8 * h, Q) + column;
#pragma unroll
        for (int j = 0; j < Q / 8; j++)
            put_pair(to + 8 * j, x->add_q, x->z.scale * dq[4 * j + 2 * h],
                     x->z.scale * dq[4 * j + 2 * h + 1]);
    }
}

__device__ static inline void add_dq(float (&dq)[96], uint32_t ds, uint32_t key)
{
#pragma unroll
    for (int k = 0; k < 4; k++)
        product_192(dq, operand(ds, BOX, k * 2048), operand(key, BOX, k * 2048));
}

__device__ static inline void wait_dq(const struct shared *s, int step)
{
    barrier_wait(shared_address(&s->full[step % STAGES]), step / STAGES & 1);
}

/* Slices that are not there are multiplied too, of what lies in the stage, and not stored. */
__device__ static void multiply_dq(const struct job *j, struct shared *s)
{
    const struct spot p = spot_of(j, QUERIES, true);
    const struct queries q = queries_of(j, &p);
    const struct lane l = lane_of();
    const int which = which_owner(), last = QUERIES - 1 - which, n = q.first + q.n;
    float early[96], late[96]; /* of the slice `which`, and of `last`, which sees more keys */
    int i = 0;
    product_zero(early);
    product_zero(late);
    for (; i <= q.first + which; i++) {
        const struct stage *at = &s->stage[i % STAGES];
        wait_dq(s, i);
        product_begin();
        add_dq(early, shared_address(at->ds[which]), shared_address(at->key));
        add_dq(late, shared_address(at->ds[last]), shared_address(at->key));
        product_commit();
        product_wait<1>(); /* those of the step before have been read */
        if (i > 0)
            release(&s->empty[(i - 1) % STAGES]);
    }
    for (; i < n; i++) {
        const struct stage *at = &s->stage[i % STAGES];
        wait_dq(s, i);
        if (i > q.first + last)
            break;
        product_begin();
        add_dq(late, shared_address(at->ds[last]), shared_address(at->key));
        product_commit();
        product_wait<1>();
        release(&s->empty[(i - 1) % STAGES]);
    }
    product_wait<0>();
    product_settle(early);
    product_settle(late);
    store_dq(&j->x, &p, early, (q.first + which) * SLICE + l.row, l.column);
    if (last < q.n)
        store_dq(&j->x, &p, late, (q.first + last) * SLICE + l.row, l.column);
}

__global__ static void __launch_bounds__(THREADS, 1)
    dq_kernel(const __grid_constant__ struct maps m, const __grid_constant__ struct job j)
{
    extern __shared__ __align__(1024) unsigned char memory[];
    struct shared *s = (struct shared *)memory;
    if constexpr (HOPPER_CODE) {
        if (threadIdx.x == 0)
            ring_begin(s->full, s->empty, STAGES);
        __syncthreads();
        if (threadIdx.x < LOADERS) {
            registers_fewer<24>();
            if (threadIdx.x == 0)
                load_dq(&m, &j, s);
        } else {
            registers_more<240>();
            multiply_dq(&j, s);
        }
    }
}

void attention_hopper_dq(cudaStream_t stream, int64_t heads, const struct maps *m, const struct job *j)
{
    launch(dq_kernel, sizeof(struct shared), stream, heads * turns_of(&j->x.z, QUERIES), m, j);
}
