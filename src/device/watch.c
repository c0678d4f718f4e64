/* watch.c - see watch.h. */
#include "device/watch.h"
#include "base/err.h"
#include "device/comm_impl.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { TEXT = 12, MOST_GROUPS = MAX_GROUPS + MAX_PAIRS + 1, TICK_MS = 100, LAST_WORD_S = 10 };
enum waits { WAITS_NOT, WAITS_CALL, WAITS_DEVICE };
/* Texts are read while they are written: in words, so that what is read is at worst a mixture of two. */
struct text {
    _Atomic uint64_t word[TEXT];
};
struct seat {
    _Atomic int64_t process; /* 0: not yet taken */
    _Atomic uint64_t space;  /* where ids of processes mean the same */
    _Atomic int rank, leaving, waits, spoken, index;
    _Atomic uint64_t calls, members; /* changes with each wait; the group that it is for */
    struct text what, list, call, group;
    struct {
        _Atomic uint64_t members, entered;
    } groups[MOST_GROUPS];
};
static struct seat alone, *seats = &alone, *mine = &alone;
static int n_seats = 1;
static _Atomic double limit_s;
static _Atomic bool ends;
static pthread_t thread, watched;
static bool running;
static const char *begun; /* the last call of watch_enter */
static struct {           /* of MOEC_TEST_FAIL */
    bool here;
    int signal, times;
    char word[128];
} fail;

size_t watch_bytes(void)
{
    return (sizeof(struct seat) + 63) / 64 * 64;
}

static struct seat *seat_of(int i)
{
    return (struct seat *)((char *)seats + (size_t)i * watch_bytes());
}

static void put(struct text *t, const char *text)
{
    uint64_t word[TEXT] = { 0 };
    const size_t n = text ? strnlen(text, sizeof word - 1) : 0;
    if (n)
        memcpy(word, text, n);
    for (size_t i = 0; i <= n / sizeof *word; i++)
        atomic_store_explicit(&t->word[i], word[i], memory_order_relaxed);
}

struct copy {
    char text[TEXT * sizeof(uint64_t) + 1];
};

static struct copy get(struct text *t)
{
    struct copy c = { "" };
    for (size_t i = 0; i < TEXT; i++) {
        const uint64_t word = atomic_load_explicit(&t->word[i], memory_order_relaxed);
        memcpy(c.text + i * sizeof word, &word, sizeof word);
    }
    return c;
}

void watch_at(const char *what, const char *list, int index)
{
    put(&mine->what, what);
    put(&mine->list, list);
    atomic_store_explicit(&mine->index, index, memory_order_relaxed);
}

/* "layers.1.mlp.experts (micro-batch, instruction 41), waits in MPI_Alltoallv of experts" */
static void describe(struct seat *s, char *text, size_t bytes)
{
    const struct copy what = get(&s->what), list = get(&s->list), call = get(&s->call),
                      group = get(&s->group);
    char index[40] = "", where[2 * sizeof call.text + 40] = "";
    if (list.text[0])
        snprintf(index, sizeof index, " (%.12s, instruction %d)", list.text, atomic_load(&s->index));
    if (call.text[0])
        snprintf(where, sizeof where, ", %s %.*s%s%s%s",
                 atomic_load(&s->waits) == WAITS_NOT ? "about to enter" : "waits in",
                 (int)strcspn(call.text, "("), call.text, /* without the arguments */
                 group.text[0] ? " of group \"" : "", group.text, group.text[0] ? "\"" : "");
    snprintf(text, bytes, "%s%s%s", what.text, index, where);
}

static bool not_watched(void)
{
    return mine == &alone || !pthread_equal(pthread_self(), watched);
}

/* For tests: a rank that fails here, and nowhere else. */
static void maybe_fail(void)
{
    char all[240];
    describe(mine, all, sizeof all);
    if (strstr(all, fail.word) && --fail.times == 0)
        raise(fail.signal);
}

/* The group's counter in a seat; NULL where the rank is no member. */
static _Atomic uint64_t *counter(struct seat *s, uint64_t members)
{
    for (int i = 0; i < MOST_GROUPS; i++)
        if (atomic_load_explicit(&s->groups[i].members, memory_order_relaxed) == members)
            return &s->groups[i].entered;
    return NULL;
}

void watch_group(uint64_t members)
{
    for (int i = 0; i < MOST_GROUPS && mine != &alone && !counter(mine, members); i++)
        if (atomic_load(&mine->groups[i].members) == 0)
            atomic_store(&mine->groups[i].members, members);
}

static void begin_wait(enum waits kind, uint64_t members)
{
    atomic_store_explicit(&mine->members, members, memory_order_relaxed);
    atomic_fetch_add_explicit(&mine->calls, 1, memory_order_relaxed);
    atomic_store_explicit(&mine->waits, (int)kind, memory_order_release);
}

void watch_enter(const char *call, const char *group, uint64_t members)
{
    if (not_watched())
        return;
    put(&mine->call, begun = call);
    put(&mine->group, group);
    if (fail.here)
        maybe_fail();
    _Atomic uint64_t *entered = members ? counter(mine, members) : NULL; /* 0: of no group */
    if (entered)
        atomic_fetch_add_explicit(entered, 1, memory_order_relaxed);
    begin_wait(WAITS_CALL, members);
}

void watch_device(const char *call)
{
    if (not_watched())
        return;
    char both[80];
    snprintf(both, sizeof both, "%.30s%s%.*s", call, begun ? " behind " : "",
             begun ? (int)strcspn(begun, "(") : 0, begun ? begun : "");
    put(&mine->call, both);
    begin_wait(WAITS_DEVICE, 0);
}

void watch_leave(void)
{
    if (not_watched())
        return;
    atomic_store_explicit(&mine->waits, WAITS_NOT, memory_order_release);
    put(&mine->call, "");
}

void watch_leaving(void)
{
    atomic_store(&mine->leaving, 1);
}

void watch_limit(double seconds)
{
    atomic_store(&limit_s, seconds);
}

/* Has `other` begun fewer calls of this group than `s`? */
static bool behind(struct seat *s, struct seat *other, uint64_t members)
{
    const _Atomic uint64_t *ours = counter(s, members), *theirs = counter(other, members);
    return members && ours && theirs && atomic_load(theirs) < atomic_load(ours);
}

/* A device may wait in any group. */
static bool holds_up(struct seat *s, struct seat *other)
{
    if (atomic_load(&s->waits) == WAITS_CALL)
        return behind(s, other, atomic_load(&s->members));
    for (int g = 0; g < MOST_GROUPS; g++)
        if (behind(s, other, atomic_load(&s->groups[g].members)))
            return true;
    return false;
}

/* Who of this machine has not come to where s waits; NULL: nobody. */
static struct seat *missing_for(struct seat *s)
{
    for (int i = 0; i < n_seats && atomic_load(&s->waits) != WAITS_NOT; i++)
        if (seat_of(i) != s && holds_up(s, seat_of(i)))
            return seat_of(i);
    return NULL;
}

/* A rank that is missed may itself wait for another: the one at the end holds all of them up. Where nobody is missed here, a
 * device may wait for one behind which another rank is missed; or MPI for a message, of which nobody tells whose. */
static struct seat *culprit(void)
{
    struct seat *found = missing_for(mine);
    for (int i = 0; !found && i < n_seats; i++) {
        struct seat *next = missing_for(seat_of(i));
        found = next == mine ? NULL : next;
    }
    for (int i = 0; found && i < n_seats; i++) {
        struct seat *next = missing_for(found);
        if (!next || next == mine)
            break;
        found = next;
    }
    return found;
}

/* One rank of a machine tells; the others stop too, should it fail to stop them. */
static void stop_with(const char *text)
{
    struct err e = { .code = EXIT_WORLD };
    if (atomic_exchange(&seat_of(0)->spoken, 1))
        sleep(LAST_WORD_S);
    atomic_store(&mine->leaving, 1);
    snprintf(e.text, sizeof e.text, "%.511s", text);
    signal(SIGALRM, SIG_DFL);
    alarm(LAST_WORD_S); /* should MPI_Abort wait for what the main thread holds */
    die_err(&e);
}

static void tell_hung(double seconds)
{
    char text[1024], place[240], theirs[240];
    struct seat *const other = culprit();
    describe(mine, place, sizeof place);
    if (other) {
        describe(other, theirs, sizeof theirs);
        snprintf(text, sizeof text, "%s for %.0f s; rank %d has not come, it is at %s", place, seconds,
                 atomic_load(&other->rank), theirs);
    } else {
        snprintf(text, sizeof text,
                 "%s for %.0f s; all ranks of this machine have come: another machine hangs, or what "
                 "connects the ranks",
                 place, seconds);
    }
    stop_with(text);
}

static bool gone(struct seat *s)
{
    const int64_t process = atomic_load(&s->process);
    return process && s != mine && !atomic_load(&s->leaving) &&
           atomic_load(&s->space) == atomic_load(&mine->space) && kill((pid_t)process, 0) != 0 &&
           errno == ESRCH;
}

static void tell_gone(struct seat *s)
{
    char text[1024], place[240], ours[240];
    describe(s, place, sizeof place);
    describe(mine, ours, sizeof ours);
    snprintf(text, sizeof text, "rank %d has gone (process %lld): it was at %s; this rank is at %s",
             atomic_load(&s->rank), (long long)atomic_load(&s->process), place, ours);
    stop_with(text);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *look(void *unused)
{
    uint64_t call = 0;
    double waited = 0, before = now();
    (void)unused;
    while (!atomic_load(&ends)) {
        const struct timespec tick = { .tv_nsec = TICK_MS * 1000000L };
        nanosleep(&tick, NULL);
        const double at = now(), limit = atomic_load(&limit_s);
        const bool same = atomic_load(&mine->waits) != WAITS_NOT && atomic_load(&mine->calls) == call;
        waited = same ? waited + (at - before < 1 ? at - before : 1) : 0; /* longer: we were stopped */
        before = at;
        call = atomic_load(&mine->calls);
        for (int i = 0; i < n_seats; i++)
            if (gone(seat_of(i)))
                tell_gone(seat_of(i));
        if (limit > 0 && waited > limit)
            tell_hung(waited);
    }
    return NULL;
}

/* MOEC_TEST_FAIL="RANK SIGNAL TIMES TEXT": the rank raises the signal when it is about to enter the TIMES-th call whose
 * description has TEXT. */
static void read_failure(int rank)
{
    const char *const text = getenv("MOEC_TEST_FAIL");
    char *end;
    if (!text)
        return;
    fail.here = strtol(text, &end, 10) == rank;
    fail.signal = (int)strtol(end, &end, 10);
    fail.times = (int)strtol(end, &end, 10);
    snprintf(fail.word, sizeof fail.word, "%s", end + (*end == ' '));
}

static void take_seat(int rank)
{
    struct stat space = { 0 };
    atomic_store(&mine->rank, rank);
    if (stat("/proc/self/ns/pid", &space) == 0) /* else nobody's absence is noticed */
        atomic_store(&mine->process, (int64_t)getpid());
    atomic_store(&mine->space, (uint64_t)space.st_ino);
}

void watch_start(void *shared, int n, int seat, int rank)
{
    sigset_t all, old;
    seats = shared;
    n_seats = n;
    mine = seat_of(seat);
    watched = pthread_self();
    take_seat(rank);
    watch_at("start", NULL, 0);
    watch_group(WATCH_EVERYBODY);
    read_failure(rank);
    sigfillset(&all); /* signals are the main thread's */
    pthread_sigmask(SIG_BLOCK, &all, &old);
    atomic_store(&ends, false);
    running = pthread_create(&thread, NULL, look, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (!running)
        die("the machine gives no thread");
}

void watch_stop(void)
{
    if (!running)
        return;
    atomic_store(&ends, true);
    pthread_join(thread, NULL);
    running = false;
    seats = mine = &alone;
    n_seats = 1;
}
