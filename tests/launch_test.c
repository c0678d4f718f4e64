/* launch_test.c - what launchers say in the environment, and what is made of it. */
#include "device/launch.h"
#include "tests/test.h"
#include <stdlib.h>

static const char *const all[] = { "RANK",
                                   "WORLD_SIZE",
                                   "LOCAL_RANK",
                                   "LOCAL_WORLD_SIZE",
                                   "SLURM_NTASKS",
                                   "SLURM_STEP_ID",
                                   "SLURM_STEP_NUM_TASKS",
                                   "SLURM_LOCALID",
                                   "PMI_SIZE",
                                   "PMI_RANK",
                                   "PMIX_RANK",
                                   "OMPI_COMM_WORLD_SIZE",
                                   "OMPI_COMM_WORLD_LOCAL_RANK",
                                   "MPI_LOCALNRANKS" };

/* "NAME=VALUE NAME=VALUE" and nothing else */
static void environment(const char *text)
{
    char copy[256], *rest = copy;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        unsetenv(all[i]);
    snprintf(copy, sizeof copy, "%s", text);
    for (char *item; (item = strsep(&rest, " "));) {
        char *const value = strchr(item, '=');
        if (!value)
            continue;
        *value = 0;
        setenv(item, value + 1, 1);
    }
}

/* The message, "" when all is well. */
static const char *alone(const char *text)
{
    static struct err e;
    e = (struct err){ 0 };
    environment(text);
    EXPECT(launch_alone(&e) == (e.code == 0));
    EXPECT(e.code == 0 || e.code == EXIT_USAGE);
    return e.text;
}

static const char *agrees(const char *text, int rank, int n_ranks)
{
    static struct err e;
    e = (struct err){ 0 };
    environment(text);
    EXPECT(launch_agrees(rank, n_ranks, "Some MPI", &e) == (e.code == 0));
    EXPECT(e.code == 0 || e.code == EXIT_USAGE);
    return e.text;
}

static void has(const char *text, const char *part)
{
    EXPECTF(strstr(text, part), "expected ... %s ..., got \"%s\"", part, text);
}

TEST(one_process_alone)
{
    EXPECT_TEXT(alone(""), "");
    EXPECT_TEXT(alone("WORLD_SIZE=1 RANK=0 LOCAL_RANK=0 LOCAL_WORLD_SIZE=1"), "");
    EXPECT_TEXT(alone("SLURM_NTASKS=8"), ""); /* salloc, sbatch: what may be started */
    EXPECT_TEXT(alone("SLURM_STEP_NUM_TASKS=1 SLURM_NTASKS=8 SLURM_STEP_ID=0"), "");
}

TEST(variables_of_torchrun_are_refused_with_the_way_to_start)
{
    has(alone("WORLD_SIZE=4 RANK=1 LOCAL_RANK=1"), "mpirun -np 4 ");
    has(alone("WORLD_SIZE=16 RANK=9 LOCAL_RANK=1 LOCAL_WORLD_SIZE=8"), "mpirun -np 16 --map-by ppr:8:node ");
    has(alone("WORLD_SIZE=8 RANK=1 LOCAL_RANK=1 LOCAL_WORLD_SIZE=8"), "launch_test");
    EXPECT(!strstr(alone("WORLD_SIZE=8 RANK=1 LOCAL_RANK=1 LOCAL_WORLD_SIZE=8"), "map-by"));
}

TEST(facts_that_are_wrong_or_missing)
{
    has(alone("WORLD_SIZE=4 RANK=1"), "LOCAL_RANK is missing");
    has(alone("WORLD_SIZE=4 LOCAL_RANK=1"), "RANK is missing");
    has(alone("RANK=1"), "RANK is 1 but LOCAL_RANK is missing");
    has(alone("RANK=1 LOCAL_RANK=1"), "WORLD_SIZE is missing");
    has(alone("WORLD_SIZE=4 RANK=4 LOCAL_RANK=0"), "expected RANK from 0 to 3");
    has(alone("WORLD_SIZE=4 RANK=3 LOCAL_RANK=4"), "expected LOCAL_RANK from 0 to 3");
    has(alone("WORLD_SIZE=4 RANK=3 LOCAL_RANK=2 LOCAL_WORLD_SIZE=2"), "expected LOCAL_RANK from 0 to 1");
    has(alone("WORLD_SIZE=0 RANK=0 LOCAL_RANK=0"), "WORLD_SIZE is 0");
    for (int i = 0; i < 3; i++) {
        static const char *const bad[] = { "WORLD_SIZE=4x", "WORLD_SIZE=-1",
                                           "WORLD_SIZE=99999999999999999999" };
        has(alone(bad[i]), "expected a number");
    }
    has(alone("WORLD_SIZE=4 RANK=one LOCAL_RANK=0"), "RANK is 'one'");
}

TEST(srun_without_a_pmi)
{
    has(alone("SLURM_STEP_NUM_TASKS=8"), "srun started 8 tasks");
    has(alone("SLURM_STEP_ID=3 SLURM_NTASKS=8"), "--mpi=pmix");
    has(agrees("PMIX_RANK=0 SLURM_STEP_NUM_TASKS=8", 0, 1), "Some MPI says 1 rank");
    EXPECT_TEXT(agrees("PMIX_RANK=0 SLURM_STEP_NUM_TASKS=8", 0, 8), "");
    EXPECT_TEXT(agrees("PMIX_RANK=0 SLURM_STEP_NUM_TASKS=1", 0, 1), "");
    /* mpirun inside a step: its own facts count */
    EXPECT_TEXT(agrees("OMPI_COMM_WORLD_SIZE=1 SLURM_STEP_NUM_TASKS=8", 0, 1), "");
    EXPECT_TEXT(agrees("OMPI_COMM_WORLD_SIZE=4 SLURM_STEP_NUM_TASKS=2 PMI_SIZE=2", 0, 4), "");
}

TEST(the_launcher_of_another_mpi)
{
    has(agrees("OMPI_COMM_WORLD_SIZE=4", 0, 1), "OMPI_COMM_WORLD_SIZE is 4, but Some MPI says 1 rank");
    has(agrees("PMI_SIZE=4", 0, 1), "PMI_SIZE is 4");
    has(agrees("PMI_SIZE=four", 0, 1), "expected a number");
    EXPECT_TEXT(agrees("PMI_SIZE=4", 3, 4), "");
    EXPECT_TEXT(agrees("PMI_SIZE=4 OMPI_COMM_WORLD_SIZE=1", 0, 1), "");
}

TEST(other_facts_beside_mpi)
{
    has(agrees("WORLD_SIZE=2", 0, 4), "WORLD_SIZE is 2, but MPI says 4 ranks");
    has(agrees("WORLD_SIZE=4 RANK=0", 1, 4), "RANK is 0, but MPI says rank 1");
    has(agrees("WORLD_SIZE=4 RANK=x", 1, 4), "expected a number");
    EXPECT_TEXT(agrees("WORLD_SIZE=4 RANK=1", 1, 4), "");
    EXPECT_TEXT(agrees("LOCAL_RANK=3", 1, 4), "");
    EXPECT_TEXT(agrees("RANK=3", 1, 4), ""); /* alone it may mean anything */
}

TEST(one_process_of_a_machine_speaks)
{
    environment("");
    EXPECT_INT(launch_voice(), 0);
    environment("LOCAL_RANK=0 RANK=4");
    EXPECT_INT(launch_voice(), 0);
    environment("RANK=4");
    EXPECT_INT(launch_voice(), 4);
    environment("SLURM_LOCALID=2");
    EXPECT_INT(launch_voice(), 2);
}
