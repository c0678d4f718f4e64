/* pass_test.c - messages of a pipeline by the lanes of a device, on a stand-in for one: a lane is a thread, kernels are calls
 * that take their time. Each stage checks what it gets, and writes over what it gave at once. The host runs ahead of the
 * lanes as far as it likes. tests/e2e/pass_test.sh starts several ranks, with a stand-in for NCCL. */
#include "device/watch.h"
#include "run/pass.h"
#include "sched/pipeline.h"
#include "tests/lane.h"
#include "tests/test.h"
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PLACES = 256, N = 30000, STEPS = PASS_SETTLED + 3, MICRO = 8, MOST_CHUNKS = 3 };

struct work {
    void (*call)(void *argument);
    void *argument;
    struct work *next;
};
static struct queue {
    struct lane lane; /* the first: a stream is a pointer to it */
    pthread_t thread;
    struct work *first, **last;
    int64_t n_put, n_done;
} lanes[LANES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int in_use;
static bool peers; /* messages by memory of peers, not by NCCL */
static bool few;   /* all messages take one lane: what the program must not do */
static struct {
    int64_t set, reached; /* times */
} places[PLACES];

static void *run_lane(void *argument)
{
    struct queue *q = argument;
    pthread_mutex_lock(&lock);
    for (;;) {
        while (!q->first)
            pthread_cond_wait(&changed, &lock);
        struct work *w = q->first;
        pthread_mutex_unlock(&lock);
        w->call(w->argument);
        pthread_mutex_lock(&lock);
        q->first = w->next;
        if (!q->first)
            q->last = &q->first;
        free(w);
        q->n_done++;
        pthread_cond_broadcast(&changed);
    }
    return NULL;
}

static void put_work(struct lane *lane, void (*call)(void *), void *argument)
{
    struct queue *q = (struct queue *)lane;
    struct work *w = malloc(sizeof *w);
    *w = (struct work){ call, argument, NULL };
    pthread_mutex_lock(&lock);
    *q->last = w;
    q->last = &w->next;
    q->n_put++;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static void wait_for(int lane)
{
    watch_device("a wait");
    pthread_mutex_lock(&lock);
    while (lanes[lane].n_done < lanes[lane].n_put)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    watch_leave();
}

static void wait_for_all(void)
{
    for (int i = 0; i < LANES; i++)
        wait_for(i);
}

static void wait_for_compute(void)
{
    wait_for(LANE_COMPUTE);
}

struct copying {
    void *to;
    const void *from;
    size_t bytes;
};

static void copy_now(void *argument)
{
    struct copying *c = argument;
    memcpy(c->to, c->from, c->bytes);
    free(c);
}

static void copy(void *to, const void *from, size_t bytes)
{
    struct copying *c = malloc(sizeof *c);
    *c = (struct copying){ to, from, bytes };
    put_work(&lanes[in_use].lane, copy_now, c);
}

static void put_and_wait(void *to, const void *from, size_t bytes)
{
    copy(to, from, bytes);
    wait_for(in_use);
}

static void zero(void *at, size_t bytes)
{
    memset(at, 0, bytes); /* at the start */
}

static void release(void *memory)
{
    wait_for_all();
    free(memory);
}

static void *stream(void)
{
    return &lanes[in_use].lane;
}

static void lane(enum device_lane which)
{
    in_use = few && which > LANE_MESSAGES ? LANE_MESSAGES : (int)which;
}

static void use_lanes(int n_places, int blocks_left)
{
    EXPECT(n_places <= PLACES && (blocks_left > 0) == !peers);
}

struct reaching {
    int which;
    int64_t time;
};

static void reach_now(void *argument)
{
    struct reaching *r = argument;
    pthread_mutex_lock(&lock);
    places[r->which].reached = r->time;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    free(r);
}

static void wait_now(void *argument)
{
    struct reaching *r = argument;
    pthread_mutex_lock(&lock);
    while (places[r->which].reached < r->time)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    free(r);
}

static void put_reaching(void (*call)(void *), int which)
{
    struct reaching *r = malloc(sizeof *r);
    *r = (struct reaching){ which, places[which].set };
    put_work(&lanes[in_use].lane, call, r);
}

static void place(int which)
{
    places[which].set++;
    put_reaching(reach_now, which);
}

static void behind(int which)
{
    put_reaching(wait_now, which);
}

static void identity(unsigned char id[16])
{
    memset(id, comm_rank(), 16);
}

static void *host_memory(size_t bytes)
{
    return calloc(1, bytes);
}

static void host_release(void *memory)
{
    wait_for_all();
    free(memory);
}

/* Memory of peers, by the host's own means, in the order of lanes. */
struct fetching {
    void *to, *attached;
    int64_t at;
    size_t bytes;
};

static void fetch_now(void *argument)
{
    struct fetching *f = argument;
    device_cpu.fetch(f->to, f->attached, f->at, f->bytes);
    free(f);
}

static void fetch(void *to, void *attached, int64_t at, size_t bytes)
{
    struct fetching *f = malloc(sizeof *f);
    *f = (struct fetching){ to, attached, at, bytes };
    put_work(&lanes[in_use].lane, fetch_now, f);
}

struct meeting {
    uint32_t *word[2];
    int mine;
    uint32_t call;
};

static void meet_now(void *argument)
{
    struct meeting *m = argument;
    device_cpu.meet(m->word, 2, m->mine, m->call);
    free(m);
}

static void meet(uint32_t *const *word, int n, int mine, uint32_t call)
{
    struct meeting *m = malloc(sizeof *m);
    CHECK(n == 2, "%d members", n);
    *m = (struct meeting){ { word[0], word[1] }, mine, call };
    put_work(&lanes[in_use].lane, meet_now, m);
}

static bool share(void *memory, struct device_ticket *t)
{
    return peers && device_cpu.share(memory, t);
}

static void *attach(const struct device_ticket *t)
{
    return device_cpu.attach(t);
}

static void detach(void *attached)
{
    device_cpu.detach(attached);
}

static bool see(void *host, size_t bytes)
{
    return device_cpu.see(host, bytes);
}

static const struct device device = { .name = "lanes",
                                      .backend = CUDA,
                                      .allocate = host_memory,
                                      .release = release,
                                      .put = put_and_wait,
                                      .get = put_and_wait,
                                      .copy = copy,
                                      .zero = zero,
                                      .wait = wait_for_compute,
                                      .host_allocate = host_memory,
                                      .host_release = host_release,
                                      .stream = stream,
                                      .lane = lane,
                                      .lanes = use_lanes,
                                      .place = place,
                                      .behind = behind,
                                      .share = share,
                                      .attach = attach,
                                      .detach = detach,
                                      .fetch = fetch,
                                      .see = see,
                                      .meet = meet,
                                      .identity = identity };

static void open_device(void)
{
    for (int i = 0; i < LANES; i++) {
        lanes[i] = (struct queue){ .lane.put = put_work, .last = &lanes[i].first };
        pthread_create(&lanes[i].thread, NULL, run_lane, &lanes[i]);
    }
}

/* A part of the model: element i of what comes in is `is` + i, of what goes out one more. */
struct part {
    int32_t *in, *out;
    int32_t is;
    bool first;
};
static int32_t expected; /* of the kernel that is launched next */
static bool first_part;
static _Atomic int64_t n_wrong, n_right;

static void work_now(void *argument)
{
    struct part *p = argument;
    usleep((useconds_t)(rand() % 2000));
    for (int i = 0; i < N; i++) {
        if (!p->first)
            *(p->in[i] == p->is + i ? &n_right : &n_wrong) += 1;
        p->in[i] = -1; /* whoever looks too late sees it */
        p->out[i] = p->is + 1 + i;
    }
    free(p);
}

static void part_kernel(const struct call *c)
{
    struct part *p = malloc(sizeof *p);
    *p = (struct part){ c->arg[0], c->arg[1], expected, first_part };
    put_work(c->stream, work_now, p);
}

static const struct op part_op = { .name = "part",
                                   .fwd = { part_kernel, part_kernel },
                                   .bwd = { part_kernel, part_kernel } };
static struct buffer buffers[2 + 2 * 2 * MOST_CHUNKS];
static struct instr items[6 * MOST_CHUNKS];

static struct ref new_buffer(struct program *p, int64_t bytes)
{
    bytes = (bytes + 255) / 256 * 256;
    buffers[p->n_buffers] = (struct buffer){ .bytes = bytes, .at = p->memory.peak_bytes, .last = INT_MAX };
    p->memory.peak_bytes += bytes;
    return (struct ref){ p->n_buffers++, 0 };
}

static struct instr *emit(struct program *p, enum instr_kind kind, const char *name)
{
    struct instr *in = &p->list[LIST_MICRO].item[p->list[LIST_MICRO].n++];
    *in = (struct instr){
        .kind = kind, .name = name, .op = &part_op, .node = -1, .work.buffer = -1, .n = 4 * N
    };
    for (int j = 0; j < OP_ARGS; j++)
        in->arg[j].buffer = in->grad[j].buffer = -1;
    for (int j = 0; j < 5; j++)
        in->ref[j].buffer = -1;
    return in;
}

/* What crosses the cut behind part `cut`. */
static void emit_pass(struct program *p, enum instr_kind kind, int cut, bool gradient, int part)
{
    struct instr *in = emit(p, kind, gradient ? "a gradient" : "an activation");
    const bool out = kind == RUN_PASS_OUT;
    in->peer = part % p->plan.stages;
    in->tag = 2 * cut + gradient;
    in->box = out ? p->n_outboxes++ : p->n_inboxes++;
    in->ref[0] = (struct ref){ out, 0 };
    in->ref[1] = new_buffer(p, (out ? PASS_COPIES : 1) * pass_copy_bytes(in));
}

static struct section emit_section(struct program *p, int part, bool backward)
{
    const int last = p->plan.stages * p->plan.chunks - 1, before = backward ? part + 1 : part - 1,
              next = backward ? part - 1 : part + 1;
    struct section s = { .from = p->list[LIST_MICRO].n };
    if (before >= 0 && before <= last)
        emit_pass(p, RUN_PASS_IN, backward ? part : before, backward, before);
    struct instr *in = emit(p, RUN_OP, "a part");
    in->backward = backward;
    in->arg[0] = (struct ref){ 0, 0 };
    in->arg[1] = (struct ref){ 1, 0 };
    if (next >= 0 && next <= last)
        emit_pass(p, RUN_PASS_OUT, backward ? next : part, backward, next);
    s.to = p->list[LIST_MICRO].n;
    return s;
}

static void make_program(struct program *p, int chunks)
{
    static const struct graph nothing;
    const int n = comm_ranks();
    *p = (struct program){ .graph = &nothing, .buffers = buffers, .list[LIST_MICRO].item = items };
    p->plan = (struct plan){ .n_ranks = n,
                             .unit_ranks = n,
                             .expert_parallel = 1,
                             .tensor_parallel = 1,
                             .vocabulary_parallel = 1,
                             .width_parallel = 1,
                             .zero_ranks = 1,
                             .stages = n,
                             .chunks = chunks,
                             .accumulation = MICRO / n * n,
                             .numbers.backend = CUDA };
    p->layout.rank = p->layout.stage = comm_rank();
    new_buffer(p, 4 * N);
    new_buffer(p, 4 * N);
    for (int c = 0; c < chunks; c++)
        p->forward[c] = emit_section(p, c * n + comm_rank(), false);
    for (int c = 0; c < chunks; c++)
        p->backward[c] = emit_section(p, c * n + comm_rank(), true);
    for (int c = 0; c < chunks; c++)
        p->in_flight[c] = 1;
}

/* Parts are passed one after the other, forward and back. */
static void run_step(struct exec *x, int step)
{
    const struct plan *p = &x->program->plan;
    const int64_t n = 2 * p->chunks * p->accumulation;
    struct pipeline_step *order = calloc((size_t)n, sizeof *order);
    const int n_parts = p->stages * p->chunks;
    pipeline_order(p->stages, p->chunks, p->accumulation, comm_rank(), order);
    pass_settled(x, step >= PASS_SETTLED);
    if (comm_rank() % 2)
        usleep(50000); /* so that others get as far ahead as they can */
    for (int64_t i = 0; i < n; i++) {
        const struct pipeline_step *s = &order[i];
        const int part = s->part * p->stages + comm_rank(),
                  passed = s->backward ? 2 * n_parts - 1 - part : part;
        expected = (int32_t)(1000000 * step + 1000 * s->micro) + passed;
        first_part = passed == 0 || passed == n_parts; /* the last one turns round by itself */
        exec_run_section(x, LIST_MICRO,
                         s->backward ? x->program->backward[s->part] : x->program->forward[s->part], 0);
    }
    free(order);
}

static void try_chunks(int chunks)
{
    struct arena *a = arena_new("pass");
    struct program p;
    struct exec x;
    make_program(&p, chunks);
    exec_new(a, &p, &device, 0, &x);
    n_right = n_wrong = 0;
    for (int step = 0; step < STEPS; step++)
        run_step(&x, step);
    wait_for_all();
    const int64_t first = comm_rank() == 0, last = comm_rank() == comm_ranks() - 1;
    EXPECT_INT(n_wrong, 0);
    EXPECT_INT(n_right, STEPS * (2 * chunks - first - last) * p.plan.accumulation * N);
    exec_free(&x);
    arena_free(a);
}

TEST(stages_get_what_they_were_sent)
{
    struct err e = { 0 };
    few = getenv("FEW_LANES") != NULL;
    EXPECTF(comm_start(&e), "%s", e.text);
    if (comm_ranks() == 1) {
        test_skip("one rank has nobody to send to: tests/e2e/pass_test.sh");
        return;
    }
    peers = getenv("PEERS") != NULL;
    open_device();
    EXPECTF(comm_use(&device, peers ? COMM_PEER : COMM_NCCL, &e) && comm_on_device() == !peers, "%s", e.text);
    comm_timeout(3);
    for (int chunks = 1; chunks <= MOST_CHUNKS; chunks++)
        try_chunks(chunks);
    comm_stop();
}
