/* jobs.c - see jobs.h. A ring of slots; counters say how far each party has come. */
#include "data/jobs.h"
#include "base/arena.h"
#include "base/err.h"
#include <pthread.h>

enum { MAX_WORKERS = 512 };
struct jobs {
    struct arena *arena;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int n_slots, n_workers;
    void *const *slots;
    bool *done;                           /* by slot */
    int64_t submitted, started, consumed; /* numbers of jobs */
    bool finished, stopped;
    jobs_work *work;
    pthread_t thread[MAX_WORKERS];
    struct start {
        struct jobs *jobs;
        void *worker;
    } start[MAX_WORKERS];
};

static void wait_change(struct jobs *j)
{
    pthread_cond_wait(&j->changed, &j->lock);
}

static void *run(void *context)
{
    const struct start *s = context;
    struct jobs *j = s->jobs;
    pthread_mutex_lock(&j->lock);
    for (;;) {
        while (j->started == j->submitted && !j->finished && !j->stopped)
            wait_change(j);
        if (j->stopped || j->started == j->submitted)
            break;
        const int64_t slot = j->started++ % j->n_slots;
        pthread_mutex_unlock(&j->lock);
        j->work(j->slots[slot], s->worker);
        pthread_mutex_lock(&j->lock);
        j->done[slot] = true;
        pthread_cond_broadcast(&j->changed);
    }
    pthread_mutex_unlock(&j->lock);
    return NULL;
}

struct jobs *jobs_new(int n_slots, void *const *slots, int n_workers, void *const *workers, jobs_work *f)
{
    struct arena *a = arena_new("jobs");
    struct jobs *j = ARENA_NEW(a, struct jobs, 1);
    CHECK(n_workers <= MAX_WORKERS, "%d workers", n_workers);
    *j = (struct jobs){ .arena = a, .n_slots = n_slots, .slots = slots, .n_workers = n_workers, .work = f };
    j->done = ARENA_NEW(a, bool, n_slots);
    pthread_mutex_init(&j->lock, NULL);
    pthread_cond_init(&j->changed, NULL);
    for (int i = 0; i < n_workers; i++) {
        j->start[i] = (struct start){ j, workers[i] };
        if (pthread_create(&j->thread[i], NULL, run, &j->start[i]) != 0)
            die("cannot start thread %d of %d", i + 1, n_workers);
    }
    return j;
}

void *jobs_empty(struct jobs *j)
{
    pthread_mutex_lock(&j->lock);
    while (j->submitted - j->consumed == j->n_slots && !j->stopped)
        wait_change(j);
    void *job = j->stopped ? NULL : j->slots[j->submitted % j->n_slots];
    pthread_mutex_unlock(&j->lock);
    return job;
}

void jobs_submit(struct jobs *j, void *job)
{
    pthread_mutex_lock(&j->lock);
    CHECK(job == j->slots[j->submitted % j->n_slots], "jobs are submitted in the order they were given out");
    j->submitted++;
    pthread_cond_broadcast(&j->changed);
    pthread_mutex_unlock(&j->lock);
}

void jobs_finish(struct jobs *j)
{
    pthread_mutex_lock(&j->lock);
    j->finished = true;
    pthread_cond_broadcast(&j->changed);
    pthread_mutex_unlock(&j->lock);
}

void *jobs_next(struct jobs *j)
{
    pthread_mutex_lock(&j->lock);
    while (!j->stopped && !(j->finished && j->consumed == j->submitted) && !j->done[j->consumed % j->n_slots])
        wait_change(j);
    const bool end = j->stopped || (j->finished && j->consumed == j->submitted);
    void *job = end ? NULL : j->slots[j->consumed % j->n_slots];
    pthread_mutex_unlock(&j->lock);
    return job;
}

void jobs_release(struct jobs *j, void *job)
{
    pthread_mutex_lock(&j->lock);
    CHECK(job == j->slots[j->consumed % j->n_slots], "jobs are released in order");
    j->done[j->consumed % j->n_slots] = false;
    j->consumed++;
    pthread_cond_broadcast(&j->changed);
    pthread_mutex_unlock(&j->lock);
}

void jobs_stop(struct jobs *j)
{
    pthread_mutex_lock(&j->lock);
    j->stopped = true;
    pthread_cond_broadcast(&j->changed);
    pthread_mutex_unlock(&j->lock);
}

void jobs_free(struct jobs *j)
{
    for (int i = 0; i < j->n_workers; i++)
        pthread_join(j->thread[i], NULL);
    pthread_mutex_destroy(&j->lock);
    pthread_cond_destroy(&j->changed);
    arena_free(j->arena);
}
