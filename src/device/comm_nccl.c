/* comm_nccl.c - bulk calls by NCCL; the only file that knows it. The library is opened when it is asked for, and the few
 * functions used are declared here: they have been the same since version 2.17, and building needs nothing of NCCL.
 * All data is bytes: the sums are made by kernels of our own, whose order is fixed. */
#include "base/err.h"
#include "device/comm_impl.h"
#include "device/watch.h"
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

typedef void *handle; /* ncclComm_t */
struct id {           /* ncclUniqueId */
    char bytes[NCCL_ID_BYTES];
};
struct config { /* ncclConfig_t of 2.17; later versions take it by its size and version */
    size_t bytes;
    unsigned magic, version;
    int blocking, cluster, least_blocks, most_blocks;
    const char *net;
};
enum { OK = 0, BYTES = 0 }; /* ncclSuccess, ncclInt8 */
enum { VERSION = 21700, UNDEFINED = INT_MIN };
static struct {
    int (*get_version)(int *version);
    int (*get_id)(struct id *id);
    int (*init)(handle *comm, int n, struct id id, int rank, struct config *config);
    int (*destroy)(handle comm);
    int (*async_error)(handle comm, int *error);
    const char *(*error_text)(int result);
    const char *(*last_error)(handle comm);
    int (*group_start)(void);
    int (*group_end)(void);
    int (*send)(const void *from, size_t n, int type, int to, handle comm, void *stream);
    int (*recv)(void *to, size_t n, int type, int from, handle comm, void *stream);
    int (*broadcast)(const void *from, void *to, size_t n, int type, int root, handle comm, void *stream);
    int (*all_gather)(const void *from, void *to, size_t n, int type, handle comm, void *stream);
} nccl;
static bool opened;
static int most_blocks = UNDEFINED; /* of a call of a group */
static char name[64];

static bool find(void *library, const char *symbol, void *at, struct err *e)
{
    void *const address = dlsym(library, symbol);
    if (!address)
        return err_code(e, EXIT_WORLD, "libnccl.so.2 has no %s, expected NCCL 2.17 or later", symbol);
    memcpy(at, &address, sizeof address); /* C has no conversion from objects to functions */
    return true;
}

static bool find_all(void *library, struct err *e)
{
    return find(library, "ncclGetVersion", &nccl.get_version, e) &&
           find(library, "ncclGetUniqueId", &nccl.get_id, e) &&
           find(library, "ncclCommInitRankConfig", &nccl.init, e) &&
           find(library, "ncclCommDestroy", &nccl.destroy, e) &&
           find(library, "ncclCommGetAsyncError", &nccl.async_error, e) &&
           find(library, "ncclGetErrorString", &nccl.error_text, e) &&
           find(library, "ncclGetLastError", &nccl.last_error, e) &&
           find(library, "ncclGroupStart", &nccl.group_start, e) &&
           find(library, "ncclGroupEnd", &nccl.group_end, e) && find(library, "ncclSend", &nccl.send, e) &&
           find(library, "ncclRecv", &nccl.recv, e) && find(library, "ncclBroadcast", &nccl.broadcast, e) &&
           find(library, "ncclAllGather", &nccl.all_gather, e);
}

bool nccl_open(struct err *e)
{
    int version = 0;
    if (opened)
        return true;
    void *const library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return err_code(e, EXIT_WORLD, "NCCL: %s (LD_LIBRARY_PATH says where to look; --comm mpi needs none)",
                        dlerror());
    if (!find_all(library, e))
        return false;
    if (nccl.get_version(&version) != OK)
        return err_code(e, EXIT_WORLD, "ncclGetVersion failed");
    if (version < VERSION)
        return err_code(e, EXIT_WORLD, "libnccl.so.2 is of version %d, expected NCCL 2.17 or later", version);
    snprintf(name, sizeof name, "NCCL %d.%d.%d", version / 10000, version / 100 % 100, version % 100);
    opened = true;
    return true;
}

const char *nccl_name(void)
{
    return name;
}

static void check(const struct comm_group *g, int result, const char *call)
{
    if (result == OK)
        return;
    const char *const more = nccl.last_error(NULL);
    die("%s: %s in group \"%s\" of %d ranks: %s%s%s", comm_what(), call, g->name, g->n,
        nccl.error_text(result), more && *more ? ": " : "", more ? more : "");
}

/* What went wrong in earlier calls is found here: NCCL works behind our back. */
static void check_earlier(const struct comm_group *g, const char *call)
{
    int error = OK;
    check(g, nccl.async_error(g->nccl, &error), "ncclCommGetAsyncError");
    check(g, error, call);
}

void nccl_limit(int multiprocessors)
{
    most_blocks = multiprocessors > 0 ? multiprocessors : UNDEFINED;
}

void nccl_id(char id[NCCL_ID_BYTES])
{
    struct id made;
    const struct comm_group nobody = { .name = "to be made" };
    check(&nobody, nccl.get_id(&made), "ncclGetUniqueId");
    memcpy(id, made.bytes, sizeof made.bytes);
}

void nccl_join(struct comm_group *g, const char id[NCCL_ID_BYTES], int blocks)
{
    struct id same;
    struct config config = { .bytes = sizeof config,
                             .magic = 0xcafebeef,
                             .version = VERSION,
                             .blocking = UNDEFINED,
                             .cluster = blocks > 0
                                            ? 0
                                            : UNDEFINED, /* few blocks go where there is room, one by one */
                             .least_blocks = UNDEFINED,
                             .most_blocks = blocks > 0 ? blocks : most_blocks };
    memcpy(same.bytes, id, sizeof same.bytes);
    watch_enter("ncclCommInitRank", g->name, g->ranks);
    check(g, nccl.init(&g->nccl, g->n, same, g->index, &config), "ncclCommInitRank");
    check_earlier(g, "ncclCommInitRank");
    watch_leave();
}

void nccl_leave(void *comm)
{
    nccl.destroy(comm);
}

void nccl_gather(const struct comm_group *g, void *all, size_t bytes, void *stream)
{
    const char *const mine = (const char *)all + (size_t)g->index * bytes;
    watch_enter("ncclAllGather", g->name, g->ranks);
    check(g, nccl.all_gather(mine, all, bytes, BYTES, g->nccl, stream), "ncclAllGather");
    check_earlier(g, "ncclAllGather");
    watch_leave();
}

void nccl_gather_ranges(const struct comm_group *g, void *all, const int64_t *cut, void *stream)
{
    watch_enter("ncclBroadcast", g->name, g->ranks);
    check(g, nccl.group_start(), "ncclGroupStart");
    for (int m = 0; m < g->n; m++) {
        char *const at = (char *)all + cut[m];
        const size_t bytes = (size_t)(cut[m + 1] - cut[m]);
        if (bytes)
            check(g, nccl.broadcast(at, at, bytes, BYTES, m, g->nccl, stream), "ncclBroadcast");
    }
    check(g, nccl.group_end(), "ncclGroupEnd (broadcasts)");
    check_earlier(g, "ncclBroadcast");
    watch_leave();
}

void nccl_exchange(const struct comm_group *g, const void *send, void *recv, const struct comm_rows *r,
                   int64_t row_bytes, void *stream)
{
    watch_enter("ncclSend, ncclRecv", g->name, g->ranks);
    check(g, nccl.group_start(), "ncclGroupStart");
    for (int m = 0; m < g->n; m++) {
        const char *const from = (const char *)send + r->send_at[m] * row_bytes;
        char *const to = (char *)recv + r->recv_at[m] * row_bytes;
        if (r->send_rows[m])
            check(g, nccl.send(from, (size_t)(r->send_rows[m] * row_bytes), BYTES, m, g->nccl, stream),
                  "ncclSend");
        if (r->recv_rows[m])
            check(g, nccl.recv(to, (size_t)(r->recv_rows[m] * row_bytes), BYTES, m, g->nccl, stream),
                  "ncclRecv");
    }
    check(g, nccl.group_end(), "ncclGroupEnd (exchange)");
    check_earlier(g, "ncclSend, ncclRecv");
    watch_leave();
}

void nccl_send(const struct comm_group *pair, const void *from, size_t bytes, void *stream)
{
    watch_enter("ncclSend", pair->name, pair->ranks);
    check(pair, nccl.send(from, bytes, BYTES, 1, pair->nccl, stream), "ncclSend");
    check_earlier(pair, "ncclSend");
    watch_leave();
}

void nccl_receive(const struct comm_group *pair, void *to, size_t bytes, void *stream)
{
    watch_enter("ncclRecv", pair->name, pair->ranks);
    check(pair, nccl.recv(to, bytes, BYTES, 0, pair->nccl, stream), "ncclRecv");
    check_earlier(pair, "ncclRecv");
    watch_leave();
}
