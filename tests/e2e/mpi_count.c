/* mpi_count.c - preloaded by once_test.sh: counts the rows that each rank sends to others by MPI_Alltoallv, by their bytes, and
 * writes "BYTES ROWS" lines to $MPI_COUNT_LOG.RANK at the end; RANK: in the group of the first call. Handles of MPI are
 * pointers or integers: both pass through as pointers. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

enum { WIDTHS = 64 };
typedef void *handle;
typedef int alltoallv(const void *from, const int *n, const int *at, handle type, void *to, const int *n_to,
                      const int *at_to, handle type_to, handle group);
extern int MPI_Comm_size(handle group, int *n), MPI_Comm_rank(handle group, int *rank),
    MPI_Type_size(handle type, int *bytes);
alltoallv MPI_Alltoallv;
int MPI_Finalize(void);
static struct {
    int bytes;
    long rows;
} sent[WIDTHS];
static int first_rank = -1;

static void count(int bytes, long rows)
{
    int i = 0;
    while (i < WIDTHS - 1 && sent[i].bytes && sent[i].bytes != bytes)
        i++;
    sent[i].bytes = bytes;
    sent[i].rows += rows;
}

int MPI_Alltoallv(const void *from, const int *n, const int *at, handle type, void *to, const int *n_to,
                  const int *at_to, handle type_to, handle group)
{
    alltoallv *real;
    int ranks, rank, bytes;
    *(void **)&real = dlsym(RTLD_NEXT, "MPI_Alltoallv");
    MPI_Comm_size(group, &ranks);
    MPI_Comm_rank(group, &rank);
    MPI_Type_size(type, &bytes);
    first_rank = first_rank < 0 ? rank : first_rank;
    for (int i = 0; i < ranks; i++)
        if (i != rank)
            count(bytes, n[i]);
    return real(from, n, at, type, to, n_to, at_to, type_to, group);
}

int MPI_Finalize(void)
{
    int (*real)(void);
    char path[4096];
    *(void **)&real = dlsym(RTLD_NEXT, "MPI_Finalize");
    snprintf(path, sizeof path, "%s.%d", getenv("MPI_COUNT_LOG"), first_rank);
    FILE *f = fopen(path, "w");
    for (int i = 0; f && i < WIDTHS; i++)
        if (sent[i].bytes)
            fprintf(f, "%d %ld\n", sent[i].bytes, sent[i].rows);
    if (f)
        fclose(f);
    return real();
}
