/* launch.c - see launch.h. */
#include "device/launch.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool launch_by_mpi(void)
{
    static const char *const names[] = { "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK", "PMI_RANK",
                                         "MPI_LOCALNRANKS" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (getenv(names[i]))
            return true;
    return false;
}

enum { MISSING = -1, BAD = -2 };

/* Value of a variable that counts something: MISSING, or BAD where it is no such number. */
static long count_of(const char *name)
{
    const char *const text = getenv(name);
    char *end;
    if (!text || !*text)
        return MISSING;
    const long n = strtol(text, &end, 10);
    return *end || n < 0 || n > 1000000000 || text[0] == ' ' ? BAD : n;
}

static bool well_formed(const char *name, struct err *e)
{
    return count_of(name) != BAD ||
           err_code(e, EXIT_USAGE, "environment: %s is '%.64s', expected a number", name, getenv(name));
}

/* One argument as a shell takes it. */
static size_t add_argument(char *to, size_t room, const char *argument)
{
    const bool plain =
        argument[strspn(argument,
                        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=.,:/@%")] == 0;
    return (size_t)snprintf(to, room, plain && *argument ? " %s" : " '%s'", argument);
}

/* The command line as one would type it behind `mpirun -np N`, with a space before it. */
static const char *command_line(void)
{
    static char text[300];
    char all[4096] = "";
    FILE *f = fopen("/proc/self/cmdline", "r");
    const size_t n = f ? fread(all, 1, sizeof all - 1, f) : 0;
    size_t used = 0;
    if (f)
        fclose(f);
    for (size_t i = 0; i < n && used < sizeof text; i += strlen(all + i) + 1)
        used += add_argument(text + used, sizeof text - used, all + i);
    if (used >= sizeof text)
        memcpy(text + sizeof text - 5, " ...", 5);
    return n ? text : " moec ...";
}

static const char *const by_torch[] = { "WORLD_SIZE", "RANK", "LOCAL_RANK" };

/* What torchrun sets comes together. RANK alone is a name that anybody may use for something else, so it is said how to
 * be rid of it. */
static bool whole(struct err *e)
{
    const char *there = NULL, *missing = NULL;
    for (int i = 0; i < 3; i++) {
        if (!well_formed(by_torch[i], e))
            return false;
        if (count_of(by_torch[i]) == MISSING)
            missing = by_torch[i];
        else
            there = by_torch[i];
    }
    return !there || !missing ||
           err_code(e, EXIT_USAGE,
                    "environment: %s is %s but %s is missing: set all of WORLD_SIZE, RANK and LOCAL_RANK, or "
                    "none (env -u %s)",
                    there, getenv(there), missing, there);
}

static bool in_range(const char *index, const char *count, struct err *e)
{
    const long i = count_of(index), n = count_of(count);
    return i < 0 || n < 0 || i < n ||
           err_code(e, EXIT_USAGE, "environment: %s is %ld but %s is %ld, expected %s from 0 to %ld", index,
                    i, count, n, index, n - 1);
}

/* srun without a PMI starts processes that do not know of each other and would all write the same run. Outside a step
 * (salloc, sbatch) SLURM_NTASKS says what may be started, not what was. */
static long slurm_tasks(void)
{
    const long step = count_of("SLURM_STEP_NUM_TASKS");
    return step != MISSING ? step : getenv("SLURM_STEP_ID") ? count_of("SLURM_NTASKS") : MISSING;
}

static bool slurm_alone(const char *who_says, struct err *e)
{
    const long n = slurm_tasks();
    return n <= 1 ||
           err_code(e, EXIT_USAGE,
                    "srun started %ld tasks that do not know of each other: %s; use srun --mpi=pmix (srun "
                    "--mpi=list shows what there is) or mpirun",
                    n, who_says);
}

/* " --map-by ppr:4:node" where a machine has 4 of more ranks. */
static const char *placement(long local, long world)
{
    static char text[48];
    text[0] = 0;
    if (local > 0 && local < world)
        snprintf(text, sizeof text, " --map-by ppr:%ld:node", local);
    return text;
}

bool launch_alone(struct err *e)
{
    if (!whole(e) || !well_formed("LOCAL_WORLD_SIZE", e) || !in_range("RANK", "WORLD_SIZE", e) ||
        !in_range("LOCAL_RANK", "LOCAL_WORLD_SIZE", e) || !in_range("LOCAL_RANK", "WORLD_SIZE", e))
        return false;
    const long world = count_of("WORLD_SIZE"), local = count_of("LOCAL_WORLD_SIZE");
    if (world == 0)
        return err_code(e, EXIT_USAGE, "environment: WORLD_SIZE is 0, expected 1 or more");
    if (world > 1)
        return err_code(
            e, EXIT_USAGE,
            "environment: WORLD_SIZE is %ld, but no MPI launcher started this; ranks find each other "
            "through MPI (torchrun's variables are not enough): mpirun -np %ld%s%s",
            world, world, placement(local, world), command_line());
    return slurm_alone("no variable of a PMI is there", e);
}

/* Where MPI says 1 rank and its launcher says more, the two are strangers. What surrounds the launcher, as srun around
 * mpirun, has variables of its own: one launcher that agrees is enough. */
static bool same_size(int n_ranks, const char *library, struct err *e)
{
    static const char *const names[] = { "OMPI_COMM_WORLD_SIZE", "PMI_SIZE" };
    char says[160];
    for (int i = 0; i < 2; i++)
        if (!well_formed(names[i], e))
            return false;
    if (n_ranks > 1 || count_of(names[0]) == 1 || count_of(names[1]) == 1)
        return true;
    for (int i = 0; i < 2; i++)
        if (count_of(names[i]) > 1)
            return err_code(
                e, EXIT_USAGE,
                "environment: %s is %ld, but %s says 1 rank: this program is linked with another MPI than "
                "that of the launcher",
                names[i], count_of(names[i]), library);
    snprintf(says, sizeof says, "%.120s says 1 rank", library);
    return slurm_alone(says, e);
}

bool launch_agrees(int rank, int n_ranks, const char *library, struct err *e)
{
    if (!same_size(n_ranks, library, e) || !well_formed("WORLD_SIZE", e) || !well_formed("RANK", e))
        return false;
    const long world = count_of("WORLD_SIZE"), index = count_of("RANK");
    if (world >= 0 && world != n_ranks)
        return err_code(e, EXIT_USAGE,
                        "environment: WORLD_SIZE is %ld, but MPI says %d ranks: start %ld, or unset it (env "
                        "-u WORLD_SIZE)",
                        world, n_ranks, world);
    return world < 0 || index < 0 || index == rank ||
           err_code(e, EXIT_USAGE, "environment: RANK is %ld, but MPI says rank %d: unset it (env -u RANK)",
                    index, rank);
}

int launch_voice(void)
{
    static const char *const names[] = { "LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID", "RANK",
                                         "PMI_RANK" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (count_of(names[i]) >= 0)
            return (int)count_of(names[i]);
    return 0;
}
