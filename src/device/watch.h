/* watch.h - inside device/: where every rank of this machine is, and a thread of each rank that stops all ranks when
 * this one waits too long for another, or when another has gone. Each rank writes its seat in memory that the ranks of a
 * machine share; writing takes some stores, no call. The thread reads seats and asks the system whether the processes are
 * there; it calls MPI only to stop all ranks. Time in which the process itself was stopped does not count. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
struct err;
enum { WATCH_EVERYBODY = 1 }; /* `members` of all ranks */
size_t watch_bytes(void);     /* of a seat */
/* shared: seats of the n ranks of this machine by local rank, zeros. Starts the thread; the calling one is watched. */
void watch_start(void *shared, int n, int seat, int rank);
/* This rank leaves, or is stopping all ranks itself: others do not miss it. */
void watch_leaving(void);
void watch_stop(void);                                        /* ends the thread, before MPI is left */
void watch_limit(double seconds);                             /* 0 = off: for ever */
void watch_at(const char *what, const char *list, int index); /* list NULL: no instruction. Copied. */
void watch_group(uint64_t members);                           /* this rank will make calls of it */
/* Around a call that may wait for others. members: a hash, the same in all members of a group; group is its name. Calls
 * of other threads, and all before watch_start, are not noted. */
void watch_enter(const char *call, const char *group, uint64_t members);
void watch_leave(void);
/* Around a wait for a device that may itself wait for others: where calls of watch_enter() only began something. */
void watch_device(const char *call);
