/* pool.c - persistent threads around one open job. Workers enter an open job under the lock and take tasks
 * from an atomic counter; the caller works too, closes the job when the counter is exhausted and waits only
 * for workers that are inside. A worker that wakes up late finds the job closed and costs nothing. */
#include "base/pool.h"
#include "base/err.h"
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
enum { MOST_THREADS = 512, SPINS = 2000 /* some 40 us: shorter than two futex calls are worth */ };
static struct {
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    pthread_t thread[MOST_THREADS];
    int n_threads, n_inside, n_spins;
    bool open, stop;
    atomic_uint_fast64_t generation;
    atomic_int_fast64_t next;
    int64_t n_tasks;
    pool_task *task;
    void *context;
} pool = { .lock = PTHREAD_MUTEX_INITIALIZER,
           .work = PTHREAD_COND_INITIALIZER,
           .done = PTHREAD_COND_INITIALIZER,
           .n_threads = 1 };
static _Thread_local bool in_task;
static bool (*meanwhile)(void);

int pool_threads(void)
{
    return pool.n_threads;
}

int pool_cores(void)
{
    cpu_set_t cores;
    if (sched_getaffinity(0, sizeof cores, &cores) != 0)
        return 1; /* more cores than cpu_set_t holds */
    const int n = CPU_COUNT(&cores);
    return n < 1 ? 1 : n > MOST_THREADS ? MOST_THREADS : n;
}

void pool_load(double load[POOL_CORES])
{
    cpu_set_t cores;
    memset(load, 0, POOL_CORES * sizeof *load);
    if (sched_getaffinity(0, sizeof cores, &cores) != 0)
        return;
    for (size_t i = 0; i < POOL_CORES && i < CPU_SETSIZE; i++)
        if (CPU_ISSET(i, &cores))
            load[i] = (double)pool.n_threads / CPU_COUNT(&cores);
}

void pool_meanwhile(bool (*work)(void))
{
    meanwhile = work;
}

static void one_task(pool_task *task, void *context, int64_t i, bool of_caller)
{
    task(context, i);
    if (of_caller && meanwhile)
        meanwhile();
}

static void run_tasks(pool_task *task, void *context, int64_t n_tasks, bool of_caller)
{
    in_task = true;
    for (int64_t i; (i = atomic_fetch_add(&pool.next, 1)) < n_tasks;)
        one_task(task, context, i, of_caller);
    in_task = false;
}

static void spin_until_next(uint64_t seen)
{
    for (int i = 0; i < pool.n_spins && atomic_load(&pool.generation) == seen; i++)
        __builtin_ia32_pause();
}

static void *worker(void *unused)
{
    uint64_t seen = 0;
    (void)unused;
    for (;;) {
        spin_until_next(seen);
        pthread_mutex_lock(&pool.lock);
        while (!pool.stop && (!pool.open || seen == atomic_load(&pool.generation)))
            pthread_cond_wait(&pool.work, &pool.lock);
        if (pool.stop)
            break;
        seen = atomic_load(&pool.generation);
        pool.n_inside++;
        pthread_mutex_unlock(&pool.lock);
        run_tasks(pool.task, pool.context, pool.n_tasks, false);
        pthread_mutex_lock(&pool.lock);
        if (--pool.n_inside == 0)
            pthread_cond_signal(&pool.done);
        pthread_mutex_unlock(&pool.lock);
    }
    pthread_mutex_unlock(&pool.lock);
    return NULL;
}

static void stop_workers(void)
{
    pthread_mutex_lock(&pool.lock);
    pool.stop = true;
    atomic_fetch_add(&pool.generation, 1);
    pthread_cond_broadcast(&pool.work);
    pthread_mutex_unlock(&pool.lock);
    for (int i = 1; i < pool.n_threads; i++)
        pthread_join(pool.thread[i], NULL);
    pool.stop = false;
    pool.n_threads = 1;
}

/* Signals are for the main thread, but for those that a thread's own fault raises: blocked, they would end the
 * program past every handler, without a word from MPI or a sanitizer. */
static void signals_of_others(sigset_t *set)
{
    static const int faults[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT };
    sigfillset(set);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        sigdelset(set, faults[i]);
}

static int start_thread(pthread_t *thread, void *(*run)(void *), void *context)
{
    sigset_t others, before;
    signals_of_others(&others);
    pthread_sigmask(SIG_BLOCK, &others, &before);
    const int error = pthread_create(thread, NULL, run, context);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

void pool_start(int n_threads)
{
    CHECK(n_threads >= 1 && !in_task, "n_threads = %d", n_threads);
    if (n_threads > MOST_THREADS)
        n_threads = MOST_THREADS;
    if (n_threads == pool.n_threads)
        return;
    stop_workers();
    pool.n_spins = n_threads <= pool_cores() ? SPINS : 0;
    for (; pool.n_threads < n_threads; pool.n_threads++) {
        const int error = start_thread(&pool.thread[pool.n_threads], worker, NULL);
        if (error)
            die("cannot start thread %d of %d: %s", pool.n_threads, n_threads, strerror(error));
    }
}

static void open_job(int64_t n_tasks, pool_task *f, void *context)
{
    pthread_mutex_lock(&pool.lock);
    CHECK(!pool.open, "two threads call pool_run");
    pool.task = f;
    pool.context = context;
    pool.n_tasks = n_tasks;
    pool.open = true;
    atomic_store(&pool.next, 0);
    atomic_fetch_add(&pool.generation, 1);
    if (n_tasks < pool.n_threads)
        for (int64_t i = 1; i < n_tasks; i++)
            pthread_cond_signal(&pool.work);
    else
        pthread_cond_broadcast(&pool.work);
    pthread_mutex_unlock(&pool.lock);
}

void pool_run(int64_t n_tasks, pool_task *f, void *context)
{
    CHECK(!in_task, "a task calls pool_run");
    if (pool.n_threads == 1 || n_tasks <= 1) {
        in_task = true;
        for (int64_t i = 0; i < n_tasks; i++)
            one_task(f, context, i, true);
        in_task = false;
        return;
    }
    open_job(n_tasks, f, context);
    run_tasks(f, context, n_tasks, true);
    pthread_mutex_lock(&pool.lock);
    pool.open = false;
    while (pool.n_inside > 0)
        pthread_cond_wait(&pool.done, &pool.lock);
    pthread_mutex_unlock(&pool.lock);
}

static void *work_alone(void *context)
{
    struct worker *w = context;
    in_task = true; /* pool_run is not for it */
    w->run(w->context);
    __atomic_store_n(&w->done, 1, __ATOMIC_RELEASE);
    return NULL;
}

void worker_start(struct worker *w, void (*run)(void *context), void *context)
{
    pthread_t thread;
    CHECK(!w->started, "a worker is started twice");
    *w = (struct worker){ .run = run, .context = context, .started = true };
    const int error = start_thread(&thread, work_alone, w);
    if (error)
        die("cannot start a thread: %s", strerror(error));
    w->thread = (unsigned long)thread;
}

bool worker_done(const struct worker *w)
{
    return !w->started || __atomic_load_n(&w->done, __ATOMIC_ACQUIRE);
}

void worker_join(struct worker *w)
{
    if (w->started)
        pthread_join((pthread_t)w->thread, NULL);
    w->started = false;
}
