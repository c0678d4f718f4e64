/* pool.h - threads of one rank. A task list is cut by the caller, never by the number of threads, so
 * results do not depend on it. pool_run returns when all tasks are done; tasks must not call pool_run. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
void pool_start(int n_threads); /* including the caller; again with another number restarts it */
int pool_threads(void);
int pool_cores(void); /* cores this process may use */
enum { POOL_CORES = 1024 };
/* Threads of this rank on each core of the machine, spread evenly over those that it may use. */
void pool_load(double load[POOL_CORES]);
typedef void pool_task(void *context, int64_t task);
void pool_run(int64_t n_tasks, pool_task *f, void *context); /* no allocation */
/* What the thread that calls pool_run also does, behind each task of its own; must not call pool_run. NULL: nothing. */
void pool_meanwhile(bool (*work)(void));
/* A thread beside the pool, for work that lasts longer than a job: it must not call pool_run. Dies when the machine
 * gives no thread. One struct may be used again after worker_join. */
struct worker {
    void (*run)(void *context);
    void *context;
    unsigned long thread; /* a pthread_t */
    bool started;
    int done; /* atomic */
};
void worker_start(struct worker *w, void (*run)(void *context), void *context);
bool worker_done(const struct worker *w); /* it has returned, or was never started */
void worker_join(struct worker *w);       /* waits; nothing where none was started */
