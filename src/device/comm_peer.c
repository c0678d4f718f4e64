/* comm_peer.c - bulk calls between ranks of one machine without a sender: each member fetches its part from the memory of
 * the others. On a CUDA device the copy engines do that: no multiprocessor is taken from the kernels beside.
 *
 * A call of a group has a number, counted apart in each lane. Each member
 *   1. writes on its page for that number where the others find their parts, and reads those of which it fetches (host)
 *   2. meets the others at `ready`, in the order of its lane: what it gives is there
 *   3. fetches
 *   4. meets the others at `done`: what it gave has been fetched, and may be overwritten.
 * Every member makes the same calls of a group in the same order and in the same lanes, so by induction on that order
 * nobody waits for ever. Pages are a ring: a member waits with a page until all have read what stood there. */
#include "base/err.h"
#include "device/comm_impl.h"
#include "device/device.h"
#include "device/watch.h"
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
enum { PEERS = DEVICE_MEMBERS, PAGES = 16, REGIONS = 4, REGION_BITS = 48 };
enum { CALLS = 2, SETS = CALLS * MAX_GROUPS + MAX_PAIRS }; /* lanes of calls of groups; sets of seats */
static const size_t ROOM_BYTES = 1 << 20;

struct page {
    _Atomic int64_t call;
    int64_t from[PEERS]; /* what member m fetches: region << REGION_BITS | bytes from its beginning */
};
/* Of one member of a group in one lane; only it writes here. */
struct seat {
    _Alignas(64) uint32_t ready, done;  /* numbers of calls: met at by the lanes of devices */
    _Alignas(64) _Atomic int64_t taken; /* the last call whose pages this member has read */
    struct page page[PAGES];
};
struct peer_group {
    int n, index, local[PEERS]; /* members; which one this rank is; their local ranks */
    bool one_lane;              /* a pair: whatever the lane */
    struct {
        int64_t call;
        struct seat *seat[PEERS];
    } lane[CALLS];
};
static struct region { /* the same number on all ranks of the machine */
    char *mine;
    size_t bytes;
    void *attached[PEERS]; /* by local rank */
} regions[REGIONS];
static const struct device *device;
static struct seat *seats; /* [sets][local ranks] */
static struct peer_group groups[MAX_GROUPS], pairs[MAX_PAIRS];
static void *room; /* for exercise() of comm.c */
static int node;   /* the first rank of this machine */

static size_t seats_bytes(void)
{
    return (size_t)(SETS * comm_local_ranks()) * sizeof(struct seat);
}

static struct seat *seat_of(int set, int local)
{
    return &seats[set * comm_local_ranks() + local];
}

/* Memory that the ranks of the machine share, zeros; the first of them makes it. */
static void *map_seats(void)
{
    static char names[PEERS][32];
    const int me = comm_local_rank();
    snprintf(names[me], sizeof names[me], "/moec-%ld", (long)getpid());
    if (me == 0)
        shm_unlink(names[0]); /* of a run that died */
    int file = me == 0 ? shm_open(names[0], O_CREAT | O_EXCL | O_RDWR, 0600) : -1;
    if (file >= 0 && posix_fallocate(file, 0, (off_t)seats_bytes()) != 0) { /* /dev/shm is full */
        close(file);
        file = -1;
    }
    mpi_node_gather(names, sizeof *names); /* it is there */
    if (me > 0)
        file = shm_open(names[0], O_RDWR, 0600);
    void *at = file < 0 ? MAP_FAILED : mmap(NULL, seats_bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (file >= 0)
        close(file);
    mpi_node_gather(names, sizeof *names); /* all have it */
    if (me == 0)
        shm_unlink(names[0]);
    return at == MAP_FAILED ? NULL : at;
}

static struct region *free_region(void)
{
    for (int i = 0; i < REGIONS; i++)
        if (!regions[i].mine)
            return &regions[i];
    die("%s: more than %d regions are shared", comm_what(), REGIONS);
}

bool peer_share(void *memory, size_t bytes)
{
    static struct device_ticket tickets[PEERS];
    struct region *r = free_region();
    bool ok = device->share(memory, &tickets[comm_local_rank()]);
    *r = (struct region){ .mine = memory, .bytes = bytes };
    mpi_node_gather(tickets, sizeof *tickets);
    for (int i = 0; i < comm_local_ranks() && ok; i++)
        if (i != comm_local_rank()) {
            r->attached[i] = device->attach(&tickets[i]);
            ok = r->attached[i] != NULL;
        }
    return ok;
}

void peer_unshare(void *memory)
{
    static char all[PEERS];
    for (int i = 0; i < REGIONS; i++)
        if (regions[i].mine == memory) {
            device->wait();
            for (int k = 0; k < comm_local_ranks(); k++)
                if (regions[i].attached[k])
                    device->detach(regions[i].attached[k]);
            regions[i] = (struct region){ 0 };
        }
    mpi_node_gather(all, 1); /* nobody has it any more */
}

/* What this rank can, on all ranks of the machine? */
static bool all_can(bool can)
{
    static struct {
        int rank, can;
    } each[PEERS];
    bool all = true;
    each[comm_local_rank()].rank = comm_rank();
    each[comm_local_rank()].can = can;
    mpi_node_gather(each, sizeof *each);
    for (int i = 0; i < comm_local_ranks(); i++)
        all = all && each[i].can;
    node = each[0].rank;
    return all;
}

bool peer_open(const struct device *d)
{
    if (comm_local_ranks() > PEERS || !all_can(d->share != NULL))
        return false;
    seats = map_seats();
    if (!all_can(seats && d->see(seats, seats_bytes())))
        return false;
    device = d;
    room = d->allocate(ROOM_BYTES);
    return all_can(peer_share(room, ROOM_BYTES));
}

void peer_close(void)
{
    if (device && room)
        device->release(room);
    room = NULL;
}

void *peer_room(size_t bytes)
{
    CHECK(bytes <= ROOM_BYTES, "%zu bytes for a first call", bytes);
    return room;
}

/* How a member is found. */
struct card {
    int node, local, set; /* node: its first rank; set: its first one of seats */
};

static void find_member(struct peer_group *p, int m, const struct card *c)
{
    p->local[m] = c->local;
    for (int lane = 0; lane < (p->one_lane ? 1 : CALLS); lane++)
        p->lane[lane].seat[m] = seat_of(c->set + lane, c->local);
}

struct peer_group *peer_join(const struct comm_group *g)
{
    static struct card cards[MAX_RANKS];
    struct peer_group *p = &groups[g->mpi];
    bool together = g->n <= PEERS;
    if (p->n > 0)
        return p; /* of another group of the same ranks */
    cards[g->index] = (struct card){ node, comm_local_rank(), CALLS * g->mpi };
    mpi_gather(g, cards, sizeof *cards);
    for (int m = 0; m < g->n; m++)
        together = together && cards[m].node == cards[0].node;
    if (!together)
        return NULL;
    *p = (struct peer_group){ .n = g->n, .index = g->index };
    for (int m = 0; m < g->n; m++)
        find_member(p, m, &cards[m]);
    return p;
}

struct peer_group *peer_join_pair(struct arena *a, int number, int index, int other)
{
    struct card cards[2];
    struct peer_group *p = &pairs[number];
    void *const request = mpi_requests(a, 1);
    cards[index] = (struct card){ node, comm_local_rank(), CALLS * MAX_GROUPS + number };
    mpi_send(request, 0, other, 0, &cards[index], sizeof *cards);
    mpi_receive(other, 0, &cards[!index], sizeof *cards);
    mpi_wait(request, 0);
    if (cards[0].node != cards[1].node)
        return NULL;
    *p = (struct peer_group){ .n = 2, .index = index, .one_lane = true };
    for (int m = 0; m < 2; m++)
        find_member(p, m, &cards[m]);
    return p;
}

static int64_t place_of(const void *memory)
{
    const char *const at = memory;
    for (int64_t i = 0; i < REGIONS; i++)
        if (regions[i].mine && at >= regions[i].mine && at < regions[i].mine + regions[i].bytes)
            return i << REGION_BITS | (at - regions[i].mine);
    die("%s: memory at %p is not shared with the ranks of this machine", comm_what(), memory);
}

static void until(const _Atomic int64_t *number, int64_t least)
{
    while (atomic_load_explicit(number, memory_order_acquire) < least)
        if (!mpi_moves())
            sched_yield();
}

static int lane_now(const struct peer_group *p)
{
    const int lane = device->lane_now && !p->one_lane ? (int)device->lane_now() : 0;
    CHECK(lane < CALLS, "%s: a call of a group in lane %d", comm_what(), lane);
    return lane;
}

static struct seat *const *seats_of(const struct peer_group *p)
{
    return p->lane[lane_now(p)].seat;
}

/* The next call: says what each member finds where, and waits in the lane until all have what they give. */
static int64_t begin(struct peer_group *p, const char *const *from)
{
    const int64_t call = ++p->lane[lane_now(p)].call;
    struct seat *const *const seat = seats_of(p);
    uint32_t *ready[PEERS];
    struct page *const page = &seat[p->index]->page[call % PAGES];
    for (int m = 0; m < p->n; m++) {
        ready[m] = &seat[m]->ready;
        until(&seat[m]->taken, call - PAGES);
        page->from[m] = from[m] && m != p->index ? place_of(from[m]) : 0;
    }
    atomic_store_explicit(&page->call, call, memory_order_release);
    device->meet(ready, p->n, p->index, (uint32_t)call);
    return call;
}

/* What member m gives this rank: *at is the byte of what was attached. */
static void *given(const struct peer_group *p, int64_t call, int m, int64_t *at)
{
    const struct page *page = &seats_of(p)[m]->page[call % PAGES];
    until(&page->call, call);
    const int64_t place = page->from[p->index];
    *at = place & (((int64_t)1 << REGION_BITS) - 1);
    return regions[place >> REGION_BITS].attached[p->local[m]];
}

/* All pages were read. */
static void taken(const struct peer_group *p, int64_t call)
{
    atomic_store_explicit(&seats_of(p)[p->index]->taken, call, memory_order_release);
}

static void end(const struct peer_group *p, int64_t call)
{
    uint32_t *done[PEERS];
    for (int m = 0; m < p->n; m++)
        done[m] = &seats_of(p)[m]->done;
    device->meet(done, p->n, p->index, (uint32_t)call);
}

/* from: what member m fetches here, NULL = nothing; bytes: that this rank fetches from m, whose page is read where there are any. */
static void fetch_all(struct peer_group *p, const char *const *from, char *const *to, const int64_t *bytes)
{
    const int64_t call = begin(p, from);
    for (int k = 1; k < p->n; k++) { /* each begins with its neighbour: not all with the same */
        const int m = (p->index + k) % p->n;
        int64_t at;
        if (bytes[m] == 0)
            continue;
        void *const attached = given(p, call, m, &at);
        device->fetch(to[m], attached, at, (size_t)bytes[m]);
    }
    taken(p, call);
    if (bytes[p->index] && to[p->index] != from[p->index])
        device->copy(to[p->index], from[p->index], (size_t)bytes[p->index]);
    end(p, call);
}

bool peer_can_look(void)
{
    return device->reach_at != NULL;
}

void peer_look(const struct comm_group *g, const void *mine, const void **parts)
{
    struct peer_group *p = g->peer;
    const char *from[PEERS] = { NULL };
    for (int m = 0; m < p->n; m++)
        from[m] = mine;
    watch_enter("peer look", g->name, g->ranks);
    const int64_t call = begin(p, from);
    for (int m = 0; m < p->n; m++) {
        int64_t at;
        void *const attached = m == p->index ? NULL : given(p, call, m, &at);
        parts[m] = m == p->index ? mine : device->reach_at(attached, at);
    }
    taken(p, call);
    watch_leave();
}

void peer_looked(const struct comm_group *g)
{
    const struct peer_group *p = g->peer;
    watch_enter("peer looked", g->name, g->ranks);
    end(p, p->lane[lane_now(p)].call);
    watch_leave();
}

static void run(const struct comm_group *g, const char *call, const char *const *from, char *const *to,
                const int64_t *bytes)
{
    watch_enter(call, g->name, g->ranks);
    fetch_all(g->peer, from, to, bytes);
    watch_leave();
}

void peer_gather(const struct comm_group *g, void *all, size_t bytes)
{
    int64_t cut[PEERS + 1];
    for (int m = 0; m <= g->n; m++)
        cut[m] = m * (int64_t)bytes;
    peer_gather_ranges(g, all, cut);
}

void peer_gather_ranges(const struct comm_group *g, void *all, const int64_t *cut)
{
    const char *from[PEERS] = { NULL };
    char *to[PEERS] = { NULL };
    int64_t bytes[PEERS] = { 0 };
    const bool gives = cut[g->index + 1] > cut[g->index];
    for (int m = 0; m < g->n; m++) {
        from[m] = gives ? (const char *)all + cut[g->index] : NULL;
        to[m] = (char *)all + cut[m];
        bytes[m] = m == g->index ? 0 : cut[m + 1] - cut[m];
    }
    run(g, "peer gather", from, to, bytes);
}

void peer_exchange(const struct comm_group *g, const void *send, void *recv, const struct comm_rows *r,
                   int64_t row_bytes)
{
    const char *from[PEERS] = { NULL };
    char *to[PEERS] = { NULL };
    int64_t bytes[PEERS] = { 0 };
    for (int m = 0; m < g->n; m++) {
        from[m] = r->send_rows[m] ? (const char *)send + r->send_at[m] * row_bytes : NULL;
        to[m] = (char *)recv + r->recv_at[m] * row_bytes;
        bytes[m] = r->recv_rows[m] * row_bytes;
    }
    run(g, "peer exchange", from, to, bytes);
}

void peer_send(const struct comm_group *pair, const void *from)
{
    const char *const gives[PEERS] = { NULL, from };
    char *const to[PEERS] = { NULL };
    const int64_t none[PEERS] = { 0 };
    run(pair, "peer send", gives, to, none);
}

void peer_receive(const struct comm_group *pair, void *to, size_t bytes)
{
    const char *const gives[PEERS] = { NULL };
    char *const there[PEERS] = { to };
    const int64_t wanted[PEERS] = { (int64_t)bytes };
    run(pair, "peer receive", gives, there, wanted);
}
