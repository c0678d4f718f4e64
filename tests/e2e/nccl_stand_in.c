/* nccl_stand_in.c - a libnccl.so.2 for pass_test.sh, of the calls that messages need: communicators of two processes of one
 * machine, joined by two named pipes in the folder they run in. As in NCCL, what is sent begins in the order of the lane and has ended when the
 * other side has taken all of it. */
#include "tests/lane.h"
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct id {
    char bytes[128];
};
struct config { /* as nccl.h of 2.17 has it */
    size_t size;
    unsigned magic, version;
    int blocking, cgaClusterSize, minCTAs, maxCTAs;
    const char *netName;
};
struct comm {
    int data, taken; /* pipes */
    char path[128];
    int rank;
};
struct transfer {
    struct comm *comm;
    char *at;
    size_t n;
};

static void must(int ok, const char *what)
{
    if (ok)
        return;
    perror(what);
    abort();
}

int ncclGetVersion(int *version)
{
    *version = 21700;
    return 0;
}

int ncclGetUniqueId(struct id *id)
{
    char path[160];
    memset(id, 0, sizeof *id);
    snprintf(id->bytes, sizeof id->bytes, "nccl-XXXXXX");
    must(mkdtemp(id->bytes) != NULL, "mkdtemp");
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%d", id->bytes, i);
        must(mkfifo(path, 0600) == 0, "mkfifo");
    }
    return 0;
}

int ncclCommInitRankConfig(struct comm **comm, int n, struct id id, int rank, struct config *config)
{
    char path[160];
    if (n != 2 || config->size != sizeof *config || config->magic != 0xcafebeef || config->version != 21700 ||
        config->maxCTAs <= 0 || config->cgaClusterSize != 0 || config->blocking != INT_MIN ||
        config->minCTAs != INT_MIN || config->netName)
        return 4; /* ncclInvalidArgument */
    *comm = calloc(1, sizeof **comm);
    (*comm)->rank = rank;
    memcpy((*comm)->path, id.bytes, sizeof id.bytes);
    snprintf(path, sizeof path, "%s/0", id.bytes);
    (*comm)->data = open(path, O_RDWR);
    snprintf(path, sizeof path, "%s/1", id.bytes);
    (*comm)->taken = open(path, O_RDWR);
    must((*comm)->data >= 0 && (*comm)->taken >= 0, path);
    return 0;
}

int ncclCommDestroy(struct comm *comm)
{
    char path[160];
    for (int i = 0; i < 2 && comm->rank == 0; i++) {
        snprintf(path, sizeof path, "%s/%d", comm->path, i);
        unlink(path);
    }
    rmdir(comm->path);
    close(comm->data);
    close(comm->taken);
    free(comm);
    return 0;
}

int ncclCommGetAsyncError(struct comm *comm, int *error)
{
    (void)comm;
    *error = 0;
    return 0;
}

const char *ncclGetErrorString(int result)
{
    return result ? "a failure" : "success";
}

const char *ncclGetLastError(struct comm *comm)
{
    (void)comm;
    return "";
}

int ncclGroupStart(void)
{
    return 0;
}

int ncclGroupEnd(void)
{
    return 0;
}

static void send_now(void *argument)
{
    struct transfer *t = argument;
    char taken;
    for (size_t done = 0; done < t->n;) {
        const ssize_t n = write(t->comm->data, t->at + done, t->n - done);
        must(n > 0, "write");
        done += (size_t)n;
    }
    must(read(t->comm->taken, &taken, 1) == 1, "read");
    free(t);
}

static void receive_now(void *argument)
{
    struct transfer *t = argument;
    for (size_t done = 0; done < t->n;) {
        const ssize_t n = read(t->comm->data, t->at + done, t->n - done);
        must(n > 0, "read");
        done += (size_t)n;
    }
    must(write(t->comm->taken, "", 1) == 1, "write");
    free(t);
}

static int later(void (*work)(void *), const void *at, size_t n, struct comm *comm, struct lane *lane)
{
    struct transfer *t = malloc(sizeof *t);
    *t = (struct transfer){ comm, (char *)at, n };
    lane->put(lane, work, t);
    return 0;
}

int ncclSend(const void *from, size_t n, int type, int to, struct comm *comm, struct lane *lane)
{
    (void)type;
    return to == 1 && comm->rank == 0 ? later(send_now, from, n, comm, lane) : 4;
}

int ncclRecv(void *to, size_t n, int type, int from, struct comm *comm, struct lane *lane)
{
    (void)type;
    return from == 0 && comm->rank == 1 ? later(receive_now, to, n, comm, lane) : 4;
}

int ncclBroadcast(void)
{
    return 5; /* ncclInvalidUsage */
}

int ncclAllGather(void)
{
    return 5;
}
