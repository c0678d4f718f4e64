/* save.c - see save.h. The thread touches files and host memory only: no rank talks to another but on its main thread. */
#include "run/save.h"
#include "base/memory.h"
#include "base/pool.h"
#include "run/position.h"
#include "run/weights.h"
#include <string.h>

struct saver {
    struct arena *arena; /* of the names and texts of the checkpoint under way */
    struct source source;
    struct weights_source from;
    struct ckpt_job job;
    int keep_last;
    bool background; /* the same on all ranks */
    bool shared;     /* some files are written by several ranks */
    enum save_stage { SAVE_IDLE, SAVE_WRITING, SAVE_SEALING, SAVE_PUBLISHING } stage;
    struct worker worker;
    struct err err; /* of the worker */
    bool failed;
    double started, waited; /* of the checkpoint under way */
    double worked, wrote;   /* seconds of the worker in this stage; in all, on the slowest rank of each */
    int64_t bytes;          /* of the checkpoint that is published; on rank 0 */
    double waits_since;     /* training stands still; 0 = it does not */
    double new_waited, new_wrote; /* not yet reported */
};

int64_t save_budget(const struct run *r)
{
    const double given = r->config->save_memory;
    const int ranks = comm_local_ranks();
    /* the CPU's slab is not touched yet */
    const int64_t taken = r->setup.backend == CPU ? r->plan.memory.peak_bytes * ranks : 0,
                  available = memory_available();
    const double share = (double)(available > taken ? available - taken : 0) * 0.75 / ranks;
    return given >= 0 ? (int64_t)(given * 1e9) : (int64_t)-comm_max(-share);
}

static void describe_job(const struct run *r, struct saver *s)
{
    const bool codes = r->plan.numbers.moments == MOMENTS_BYTE;
    s->from = (struct weights_source){ &s->source, &r->holdings[comm_rank()] };
    s->job = (struct ckpt_job){
        .directory = r->directory,
        .params = &r->engine.graph->params,
        .n_ranks = r->plan.n_ranks,
        .holding = r->holdings,
        .order = weights_order(r->arena, r->engine.graph, &r->plan),
        .stored = r->stored,
        .model_dir = r->setup.model_dir,
        .train_state = "",
        .max_shard_bytes = 5000000000,
        .read = weights_read,
        .read_codes = codes ? weights_read_codes : NULL,
        .read_scales = codes ? weights_read_scales : NULL,
        .context = &s->from,
        .n_threads = pool_threads() >= 8 ? 4 : 2,
    };
}

/* The last checkpoint needs no copy: nothing goes on beside it. */
static bool saves_on_the_way(const struct run *r)
{
    return r->config->save_every > 0 && r->config->save_every < r->total_steps;
}

void save_open(struct run *r, int64_t host_bytes)
{
    struct saver *s = r->saver = ARENA_NEW(r->arena, struct saver, 1);
    if (r->config->save_every < 0)
        return;
    s->arena = arena_new("save");
    s->keep_last = (int)r->config->keep_last;
    describe_job(r, s);
    s->shared = ckpt_has_shared(&s->job);
    source_new(r->arena, &r->engine.exec, &s->source);
    ckpt_visit(&s->job, comm_rank());
    source_sort(&s->source);
    s->source.from = SOURCE_DEVICE;
    s->background = comm_max(s->source.bytes > host_bytes) == 0 && saves_on_the_way(r);
    if (s->background)
        source_reserve(&s->source);
    for (int i = 0; i < s->job.n_threads; i++)
        s->job.room[i] = r->engine.exec.device->host_allocate(CKPT_ROOM);
}

void save_describe(const struct run *r)
{
    const struct saver *s = r->saver;
    if (s->background)
        printf("checkpoints: training waits for a copy of %lld bytes in host memory, and goes on while it is "
               "written\n",
               (long long)s->source.bytes);
    else if (saves_on_the_way(r))
        printf("checkpoints: training waits until they are written; --save_memory %.3f would hold a copy\n",
               (double)s->source.bytes * 1e-9 + 0.001);
}

/* In the thread. */
static void work(void *context)
{
    struct saver *s = context;
    const double began = exec_now();
    if (s->stage == SAVE_WRITING)
        s->failed = !ckpt_write(&s->job, comm_rank(), &s->err);
    else if (s->stage == SAVE_SEALING)
        s->failed = !ckpt_seal(&s->job, comm_rank(), &s->err);
    else
        s->failed = !ckpt_publish(&s->job, s->keep_last, &s->err);
    if (s->stage == SAVE_PUBLISHING && !s->failed)
        s->bytes = ckpt_bytes(s->job.directory);
    s->worked = exec_now() - began;
}

/* A rank that cannot write stops all: the previous checkpoint is intact. */
static void all_done(bool ok, const struct err *e)
{
    if (!ok)
        die_err(e);
    comm_doing("begin of a checkpoint");
    comm_barrier();
}

static void enter_stage(struct saver *s, enum save_stage stage)
{
    s->stage = stage;
    s->failed = false;
    s->worked = 0;
    s->err = (struct err){ 0 };
}

static void wait_begins(struct saver *s)
{
    s->waits_since = exec_now();
}

static void wait_ends(struct saver *s)
{
    const double took = s->waits_since > 0 ? exec_now() - s->waits_since : 0;
    s->waited += took;
    s->new_waited += took;
    s->waits_since = 0;
}

static void published(struct run *r, struct saver *s)
{
    enter_stage(s, SAVE_IDLE);
    wait_ends(s);
    const double took = exec_now() - s->started;
    s->new_wrote += took;
    if (comm_rank() != 0 || r->config->json)
        return;
    progress_end_line(r);
    /* The rate is that of the threads: it is at the end of a step that they are found to have ended. */
    const double gigabytes = (double)s->bytes * 1e-9;
    printf("checkpoint %s (%.2f s, training waited %.2f s; %.3g GB, %.3g GB/s)\n", s->job.directory, took,
           s->waited, gigabytes, gigabytes / s->wrote);
}

/* All ranks have ended the stage. */
static void next_stage(struct run *r, struct saver *s)
{
    worker_join(&s->worker);
    s->wrote += comm_max(s->worked);
    if (s->stage == SAVE_PUBLISHING) {
        published(r, s);
        return;
    }
    if (s->stage == SAVE_WRITING && s->shared) {
        enter_stage(s, SAVE_SEALING);
        worker_start(&s->worker, work, s);
        return;
    }
    enter_stage(s, SAVE_PUBLISHING);
    if (comm_rank() == 0)
        worker_start(&s->worker, work, s);
}

static bool all_ready(struct saver *s)
{
    const bool done = worker_done(&s->worker);
    comm_doing("have all written the checkpoint");
    if (done && s->failed)
        die_err(&s->err);
    return comm_max(!done) == 0;
}

void save_poll(struct run *r)
{
    struct saver *s = r->saver;
    if (s->stage != SAVE_IDLE && all_ready(s))
        next_stage(r, s);
}

static void finish(struct run *r)
{
    struct saver *s = r->saver;
    if (s->stage != SAVE_IDLE)
        wait_begins(s);
    while (s->stage != SAVE_IDLE) {
        worker_join(&s->worker);
        save_poll(r);
    }
}

void save_start(struct run *r, bool wait)
{
    struct saver *s = r->saver;
    struct err e = { 0 };
    finish(r);
    progress_end_line(r);
    arena_reset(s->arena, 0);
    s->started = exec_now();
    s->waited = s->wrote = 0;
    wait_begins(s);
    s->job.directory =
        arena_printf(s->arena, "%s/checkpoints/step-%08lld", r->directory, (long long)r->position->step);
    s->job.train_state = position_write(s->arena, r->position);
    all_done(comm_rank() != 0 || ckpt_begin(&s->job, &e), &e);
    s->source.from = SOURCE_DEVICE;
    if (s->background && !wait)
        source_copy(&s->source);
    enter_stage(s, SAVE_WRITING);
    worker_start(&s->worker, work, s);
    wait_ends(s);
    if (!s->background || wait)
        finish(r);
}

void save_times(struct run *r, double *wait, double *write)
{
    struct saver *s = r->saver;
    *wait = s->new_waited;
    *write = s->new_wrote;
    s->new_waited = s->new_wrote = 0;
}

void save_close(struct run *r)
{
    struct saver *s = r->saver;
    if (!s->arena)
        return;
    finish(r);
    source_free(&s->source);
    for (int i = 0; i < s->job.n_threads; i++)
        r->engine.exec.device->host_release(s->job.room[i]);
    arena_free(s->arena);
}
