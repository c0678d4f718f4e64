/* comm_pair.c - messages between two ranks that stay on the device: by NCCL, or fetched from the memory of the peer. */
#include "base/err.h"
#include "base/hash.h"
#include "device/comm_impl.h"
#include "device/device.h"
#include "device/watch.h"
static struct comm_group pairs[MAX_PAIRS];
static int n_pairs;

void comm_leave_pairs(void)
{
    for (int i = 0; i < n_pairs; i++)
        if (pairs[i].nccl)
            nccl_leave(pairs[i].nccl);
    n_pairs = 0;
}

/* Was the same way made before? */
static bool made_before(struct comm_group *pair)
{
    for (int i = 0; i < n_pairs; i++)
        if (pairs[i].ranks == pair->ranks) {
            pair->nccl = pairs[i].nccl;
            pair->peer = pairs[i].peer;
            return true;
        }
    return false;
}

static void join_pair(struct arena *a, struct comm_group *pair, int from, int to)
{
    char id[NCCL_ID_BYTES] = { 0 };
    CHECK(n_pairs < MAX_PAIRS, "more than %d ways of messages", MAX_PAIRS);
    if (comm_by_peers())
        pair->peer = peer_join_pair(a, n_pairs, pair->index, pair->index == 0 ? to : from);
    if (!pair->peer && pair->index == 0) {
        void *const request = mpi_requests(a, 1);
        nccl_id(id);
        mpi_send(request, 0, to, 0, id, sizeof id);
        mpi_wait(request, 0);
    } else if (!pair->peer) {
        mpi_receive(from, 0, id, sizeof id);
    }
    if (!pair->peer)
        nccl_join(pair, id, COMM_PAIR_BLOCKS);
    pairs[n_pairs++] = *pair;
}

static void exercise_pair(const struct comm_group *pair, int from)
{
    const struct device *device = comm_device();
    int64_t is = pair->index == 0 ? 1 + from : 0;
    void *const room = pair->peer ? peer_room(sizeof is) : device->allocate(sizeof is);
    device->put(room, &is, sizeof is);
    if (pair->index == 0)
        comm_send(pair, room, sizeof is);
    else
        comm_receive(pair, room, sizeof is);
    device->get(&is, room, sizeof is);
    CHECK(is == 1 + from, "pair \"%s\": from rank %d came %lld", pair->name, from, (long long)is);
    if (!pair->peer)
        device->release(room);
}

struct comm_group *comm_pair(struct arena *a, const char *name, int from, int to, int way)
{
    const int what[] = { from, to, way };
    struct comm_group *pair = ARENA_NEW(a, struct comm_group, 1);
    *pair = (struct comm_group){
        .name = name, .n = 2, .index = comm_rank() == to, .mpi = -1, .ranks = hash_bytes(what, sizeof what)
    };
    CHECK(comm_has_pairs(), "messages that do not stay on the device");
    comm_doing("start: the first use of a way of messages");
    watch_group(pair->ranks);
    if (!made_before(pair))
        join_pair(a, pair, from, to);
    exercise_pair(pair, from);
    return pair;
}

void comm_send(const struct comm_group *pair, const void *from, size_t bytes)
{
    if (pair->peer)
        peer_send(pair, from);
    else
        nccl_send(pair, from, bytes, comm_device()->stream());
}

void comm_receive(const struct comm_group *pair, void *to, size_t bytes)
{
    if (pair->peer)
        peer_receive(pair, to, bytes);
    else
        nccl_receive(pair, to, bytes, comm_device()->stream());
}
