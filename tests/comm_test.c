/* comm_test.c - bulk calls between ranks, on the host's memory, on that of peers, and on a device behind staging: here a
 * device that is memory of its own. Alone, one rank; tests/e2e/comm_test.sh starts several. */
#include "device/comm.h"
#include "device/device.h"
#include "tests/test.h"
#include <stdlib.h>
#include <string.h>

enum {
    MOST = 8,
    ROWS = 64,
    EACH = 2000,
    LONG = 30000
}; /* a long range is more than staging holds: it goes in pieces */
static struct arena *arena;
static struct { /* what is shared with peers */
    int32_t out[ROWS][3], in[ROWS][3], all[MOST * LONG];
} memory;

static void identity(unsigned char id[16])
{
    memset(id, 7, 16);
}

/* Ranks of three groups of different sizes, all ranks, and this rank alone. */
static int colors(int kind)
{
    return kind == 0 ? 0 : kind == 1 ? comm_rank() % 3 : comm_rank();
}

static int members(int kind, int *index)
{
    int n = 0;
    for (int r = 0; r < comm_ranks(); r++)
        if (kind == 0 || (kind == 1 ? r % 3 == comm_rank() % 3 : r == comm_rank())) {
            *index = r == comm_rank() ? n : *index;
            n++;
        }
    return n;
}

static int32_t row_value(int from, int to, int64_t row)
{
    return (int32_t)(10000 * from + 100 * to + row);
}

/* Member i sends 1 + (i + 2 m) % 3 rows to member m, none where i + m is 4; with a row between. */
static int64_t rows_from_to(int i, int m)
{
    return i + m == 4 ? 0 : 1 + (i + 2 * m) % 3;
}

static void try_exchange(const struct comm_group *g, int n, int index)
{
    int64_t send_rows[MOST], send_at[MOST], recv_rows[MOST], recv_at[MOST], sent = 1, received = 2;
    int32_t(*out)[3] = memory.out, (*in)[3] = memory.in;
    memset(memory.out, 0, sizeof memory.out);
    memset(memory.in, 0, sizeof memory.in);
    for (int m = 0; m < n; m++) {
        send_rows[m] = rows_from_to(index, m);
        recv_rows[m] = rows_from_to(m, index);
        send_at[m] = sent;
        recv_at[m] = received;
        sent += send_rows[m] + 1;
        received += recv_rows[m] + 1;
        for (int64_t k = 0; k < send_rows[m]; k++)
            out[send_at[m] + k][2] = row_value(index, m, k);
    }
    const struct comm_rows r = { send_rows, send_at, recv_rows, recv_at };
    comm_exchange(g, out, in, &r, sizeof out[0]);
    for (int m = 0; m < n; m++)
        for (int64_t k = 0; k < recv_rows[m]; k++) {
            EXPECT(in[recv_at[m] + k][2] == row_value(m, index, k));
            in[recv_at[m] + k][2] = 0;
        }
    for (int k = 0; k < ROWS; k++) /* nothing else was written */
        EXPECT(in[k][2] == 0);
}

static void try_gathers(const struct comm_group *g, int n, int index)
{
    int32_t *const all = memory.all;
    int64_t cut[MOST + 1] = { 0 };
    for (int i = 0; i < MOST * LONG; i++)
        all[i] = -1;
    for (int i = 0; i < EACH; i++)
        all[index * EACH + i] = index * EACH + i;
    comm_gather_in_place(g, all, EACH * sizeof *all);
    for (int i = 0; i < n * EACH; i++)
        EXPECT(all[i] == i);
    for (int m = 0; m < n; m++) /* ranges of different lengths, one of them empty */
        cut[m + 1] = cut[m] + (m == 1 ? 0 : 4 * (LONG - 7 * m));
    for (int i = 0; i < MOST * LONG; i++)
        all[i] = 4 * i >= cut[index] && 4 * i < cut[index + 1] ? i : -1;
    comm_gather_ranges(g, all, cut);
    for (int i = 0; i < MOST * LONG; i++)
        EXPECT(all[i] == (4 * i < cut[n] ? i : -1));
}

/* Round a ring of all ranks: two kinds of messages, each in its order, whatever the other's; the sender's memory is
 * written over at once. */
static void try_messages(void)
{
    enum { N = 50000, ROUNDS = 5 };
    static int32_t out[N], in[N];
    const int next = (comm_rank() + 1) % comm_ranks(),
              before = (comm_rank() + comm_ranks() - 1) % comm_ranks();
    struct comm_outbox *box[2] = { comm_outbox_new(arena, sizeof out, 2),
                                   comm_outbox_new(arena, sizeof out, 2) };
    comm_reserve_message(sizeof in);
    for (int round = 0; round < ROUNDS && comm_ranks() > 1; round++) {
        for (int kind = 0; kind < 2; kind++) {
            for (int i = 0; i < N; i++)
                out[i] = row_value(comm_rank(), round, i) + kind;
            comm_post(box[kind], next, kind, out, sizeof out);
        }
        for (int kind = 1; kind >= 0; kind--) {
            bool same = true;
            comm_fetch(before, kind, in, sizeof in);
            for (int i = 0; i < N; i++)
                same &= in[i] == row_value(before, round, i) + kind;
            EXPECTF(same, "kind %d of round %d", kind, round);
        }
    }
    for (int kind = 0; kind < 2; kind++)
        comm_outbox_free(box[kind]);
}

static void try_groups(void)
{
    for (int kind = 0; kind < 3; kind++) {
        int index = 0;
        const int n = members(kind, &index);
        struct comm_group *g = comm_split(arena, "test", colors(kind));
        EXPECT((g != NULL) == (n > 1));
        try_exchange(g, n, index);
        if (n > 1)
            try_gathers(g, n, index);
    }
}

/* Rank 1 takes a long message before it comes to the call that rank 0 already waits in. */
static void try_message_beneath(const struct comm_group *g)
{
    enum { N = 1 << 20 };
    static int32_t out[N], in[N];
    struct comm_outbox *box = comm_outbox_new(arena, sizeof out, 1);
    int64_t wrong = 0;
    for (int i = 0; i < N; i++)
        out[i] = i;
    if (comm_rank() == 0)
        comm_post(box, 1, 0, out, sizeof out);
    if (comm_rank() == 1)
        comm_fetch(0, 0, in, sizeof in);
    for (int i = 0; i < N && comm_rank() == 1; i++)
        wrong += in[i] != i;
    EXPECT(wrong == 0);
    memset(memory.all, 0, sizeof memory.all);
    memory.all[comm_rank()] = 1 + comm_rank();
    comm_gather_in_place(g, memory.all, sizeof *memory.all);
    for (int m = 0; m < comm_ranks(); m++)
        EXPECT(memory.all[m] == 1 + m);
    comm_outbox_free(box);
}

TEST(groups_exchange_memory_of_the_host)
{
    struct err e = { 0 };
    arena = arena_new("comm");
    EXPECTF(comm_start(&e), "%s", e.text);
    EXPECT(comm_use(&device_cpu, COMM_AUTO, &e) && !comm_on_device() && comm_sharers() == 1);
    EXPECT(!comm_use(&device_cpu, COMM_NCCL, &e) && e.code == EXIT_USAGE);
    for (int i = 0; i < 20; i++) /* groups of the same ranks are made once */
        comm_split(arena, "again", 0);
    try_groups();
    try_messages();
}

static enum device_lane lane_in_use;

static enum device_lane lane_now(void)
{
    return lane_in_use;
}

/* Calls of both lanes, which count apart; more of them than a ring has pages. */
TEST(groups_fetch_from_the_memory_of_peers)
{
    static struct device two;
    struct err e = { 0 };
    two = device_cpu;
    two.lane_now = lane_now;
    if (!comm_use(&two, COMM_PEER, &e)) {
        test_skip("%s", e.text);
        return;
    }
    EXPECT(comm_by_peers() == (comm_ranks() > 1));
    comm_share(&memory, sizeof memory);
    for (int i = 0; i < 30; i++) {
        lane_in_use = i % 3 ? LANE_COMPUTE : LANE_SIDE;
        try_groups();
    }
    if (comm_ranks() > 1)
        try_message_beneath(comm_split(arena, "all", 0));
    comm_unshare(&memory);
}

/* Copies that nobody has waited for are not done yet. */
static struct {
    void *to;
    const void *from;
    size_t bytes;
} later[2 * MOST];
static int n_later;

static void copy_later(void *to, const void *from, size_t bytes)
{
    CHECK(n_later < 2 * MOST, "%d copies", n_later);
    later[n_later].to = to;
    later[n_later].from = from;
    later[n_later++].bytes = bytes;
}

static void copy_now(void *to, const void *from, size_t bytes)
{
    copy_later(to, from, bytes);
    for (int i = 0; i < n_later; i++)
        memcpy(later[i].to, later[i].from, later[i].bytes);
    n_later = 0;
}

TEST(groups_exchange_memory_of_a_device_through_the_host)
{
    static struct device other;
    struct err e = { 0 };
    other = device_cpu;
    other.backend = CUDA;
    other.identity = identity;
    other.put_later = other.get_later = copy_later;
    other.put = other.get = copy_now;
    if (comm_ranks() > 1)
        EXPECT(!comm_use(&other, COMM_NCCL, &e) && e.code == EXIT_USAGE && strstr(e.text, "share one GPU"));
    e = (struct err){ 0 };
    if (comm_ranks() > 1)
        EXPECT(!comm_use(comm_rank() == 1 ? &device_cpu : &other, COMM_MPI, &e) && strstr(e.text, "rank 1"));
    e = (struct err){ 0 };
    EXPECT(comm_use(&other, COMM_MPI, &e) && !comm_on_device() && comm_sharers() == comm_ranks());
    try_groups();
    try_messages();
    comm_barrier();
    comm_stop();
    arena_free(arena);
}
