/* ckpt_crew.c - the threads that write the files of one rank, and their checksums: the shared files, one thread each, and then
 * all others, piece by piece, so that nobody is idle while the largest is written. */
#include "base/pool.h"
#include "ckpt/ckpt_impl.h"
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

struct crew {
    struct mine mine; /* without a room */
    const char *dir;
    size_t piece_bytes;
    int64_t n, n_shared; /* n: files of the rank alone */
    struct content *content;
    struct safetensors_writer **file;
    int64_t *first; /* task that is the first piece of each; n + 1 */
    atomic_int_fast64_t next;
    atomic_bool failed;
    pthread_mutex_t lock; /* of what follows */
    int64_t failed_task;
    struct err err; /* of the first task that failed by itself */
};
struct hand { /* one thread */
    struct crew *crew;
    struct worker worker;
    void *room;
};

/* Who fails ends all: nobody waits for a piece that does not come. */
static void fail(struct crew *c, int64_t task, const struct err *e)
{
    pthread_mutex_lock(&c->lock);
    if (e->code && (!c->err.code || task < c->failed_task)) {
        c->err = *e;
        c->failed_task = task;
    }
    pthread_mutex_unlock(&c->lock);
    atomic_store(&c->failed, true);
    for (int64_t i = 0; i < c->n; i++)
        safetensors_give_up(c->file[i]);
}

static bool write_piece(struct arena *a, struct crew *c, const struct mine *m, int64_t task, void *piece_room,
                        struct err *e)
{
    int64_t i = 0;
    uint64_t from, to;
    while (task >= c->first[i + 1])
        i++;
    struct safetensors_writer *piece = safetensors_piece(a, c->file[i], task - c->first[i], piece_room);
    for (int64_t k = 0; (k = safetensors_wanted(piece, k, &from, &to)) >= 0; k++)
        if (!content_put(m, &c->content[i], k, from, to, piece, e))
            return false;
    return safetensors_hand_in(piece, e);
}

static void take_tasks(void *context)
{
    struct hand *h = context;
    struct crew *c = h->crew;
    struct arena *a = arena_new("part of a checkpoint");
    struct mine m = c->mine;
    void *piece_room = file_room(c->piece_bytes);
    m.room = h->room ? h->room : arena_slab(CKPT_ROOM);
    for (int64_t i; !atomic_load(&c->failed) && (i = atomic_fetch_add(&c->next, 1)) < c->first[c->n];) {
        struct err e = { 0 };
        if (!(i < c->n_shared ? shared_write(a, &m, c->dir, i, &e)
                              : write_piece(a, c, &m, i, piece_room, &e)))
            fail(c, i, &e);
        arena_reset(a, 0);
    }
    if (!h->room)
        arena_slab_free(m.room);
    file_room_free(piece_room, c->piece_bytes);
    arena_free(a);
}

static void work_together(struct crew *c)
{
    struct hand hand[CKPT_THREADS] = { 0 };
    const struct ckpt_job *job = c->mine.job;
    const int most = job->n_threads > 1 ? job->n_threads : 1,
              n = c->first[c->n] < most ? (int)c->first[c->n] : most;
    CHECK(most <= CKPT_THREADS, "%d threads", most);
    for (int i = 0; i < most; i++)
        hand[i] = (struct hand){ .crew = c, .room = job->room[i] };
    for (int i = 1; i < n; i++)
        worker_start(&hand[i].worker, take_tasks, &hand[i]);
    take_tasks(&hand[0]);
    for (int i = 1; i < n; i++)
        worker_join(&hand[i].worker);
}

/* All files of the rank alone; `n` counts those that are there. */
static bool open_files(struct arena *a, struct crew *c, struct err *e)
{
    int64_t n;
    c->content = contents_make(a, &c->mine, &n);
    c->file = ARENA_NEW(a, struct safetensors_writer *, n);
    c->first = ARENA_NEW(a, int64_t, n + 1);
    c->first[0] = c->n_shared;
    for (; c->n < n; c->n++) {
        const struct content *x = &c->content[c->n];
        struct safetensors_writer *w = c->file[c->n] =
            safetensors_create_pieces(path_in(a, c->dir, x->name), x->list, x->n, c->piece_bytes, e);
        if (!w)
            return false;
        c->first[c->n + 1] = c->first[c->n] + safetensors_n_pieces(w);
    }
    return true;
}

static bool publish_files(struct arena *a, struct crew *c, struct manifest *sums, struct err *e)
{
    uint64_t bytes, hash;
    for (int64_t i = 0; i < c->n; i++) {
        struct safetensors_writer *w = c->file[i];
        c->file[i] = NULL;
        if (!safetensors_publish(w, &bytes, &hash, e))
            return false;
        manifest_add(a, sums, c->content[i].name, bytes, hash);
    }
    return true;
}

static bool write_all(struct arena *a, struct crew *c, struct manifest *sums, struct err *e)
{
    if (!open_files(a, c, e))
        return false;
    pthread_mutex_init(&c->lock, NULL);
    work_together(c);
    pthread_mutex_destroy(&c->lock);
    if (c->failed)
        return err_code(e, c->err.code, "%s", c->err.text);
    return publish_files(a, c, sums, e) &&
           manifest_write(path_in(a, c->dir, sums_file(a, c->mine.rank)), sums, e);
}

bool ckpt_write(const struct ckpt_job *job, int rank, struct err *e)
{
    struct arena *a = arena_new("checkpoint");
    struct assignment x;
    struct manifest sums = { .n_ranks = job->n_ranks };
    assignment_make(a, job, &x);
    struct crew c = { .mine = { job, &x, rank, NULL },
                      .dir = temporary_name(a, job->directory),
                      .piece_bytes = job->piece_bytes ? job->piece_bytes : FILE_PIECE,
                      .n_shared = shared_count(job, &x) };
    const bool written = write_all(a, &c, &sums, e);
    for (int64_t i = 0; i < c.n; i++)
        safetensors_drop(c.file[i]);
    arena_free(a);
    return written;
}
