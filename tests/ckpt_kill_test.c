/* ckpt_kill_test.c - a writer that is killed, or whose disk fills up, at any point: what "last" names stays whole. */
#include "tests/ckpt_fixture.h"
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
enum { KILLS = 120, STEPS = 12 };

static const char *step_name(struct arena *a, const char *dir, int64_t step)
{
    return arena_printf(a, "%s/step-%08lld", dir, (long long)step);
}

static bool save_step(struct fixture *f, const char *dir, int64_t step, int keep_last, struct err *e)
{
    fill(f, (uint64_t)step);
    const int n_ranks = step % 3 ? 2 : 1; /* with files that both write at steps 2, 5, ... */
    slice(f, step % 3 == 2 ? 2 : 1);
    const char *state = arena_printf(f->arena, "{\"step\": %lld}", (long long)step);
    return save(f,
                job_of(f, step_name(f->arena, dir, step), state, n_ranks,
                       holdings(f, n_ranks, n_ranks, true, step % 3 == 2), 600),
                keep_last, e);
}

/* Step of the checkpoint "last", which must be whole and hold what that step wrote; 0 = there is none. */
static int64_t check_last(struct fixture *f, const char *dir)
{
    struct err e = { 0 };
    const char *last = path_in(f->arena, dir, "last");
    if (access(last, F_OK) != 0) {
        return 0;
    }
    EXPECTF(verifies(last), "%s", problems);
    struct arena *a = arena_new("state");
    struct ckpt *c = ckpt_open(a, last, &e);
    EXPECTF(c && !strncmp(ckpt_train_state(c), "{\"step\": ", 9), "%s", e.text);
    const int64_t step = c ? strtoll(ckpt_train_state(c) + 9, NULL, 10) : 0;
    ckpt_close(c);
    arena_free(a);
    fill(f, (uint64_t)step);
    expect_all(f, last);
    return step;
}

/* Saves steps from `step` on until it is killed; the shared counter says which is being written. */
static _Noreturn void child(struct fixture *f, const char *dir, int64_t step, _Atomic int64_t *published)
{
    struct err e = { 0 };
    for (int i = 0; i < STEPS; i++, step++) {
        if (!save_step(f, dir, step, 2, &e)) {
            fprintf(stderr, "child: %s\n", e.text);
            _exit(1);
        }
        atomic_store(published, step);
    }
    _exit(0);
}

static void expect_no_halves(struct arena *a, const char *dir)
{
    int64_t n;
    struct err e = { 0 };
    char **names = file_list(a, dir, &n, &e);
    for (int64_t i = 0; names && i < n; i++)
        if (!strncmp(names[i], "step-", 5) && !strstr(names[i], ".tmp"))
            EXPECTF(verifies(path_in(a, dir, names[i])), "%s", problems);
}

/* Microseconds that one save takes here, in a directory of its own. */
static uint64_t save_us(struct fixture *f, const char *dir)
{
    struct err e = { 0 };
    struct timespec begin, end;
    const char *other = arena_printf(f->arena, "%s-speed", dir);
    clock_gettime(CLOCK_MONOTONIC, &begin);
    EXPECTF(save_step(f, other, 1, 0, &e) && save_step(f, other, 2, 0, &e), "%s", e.text);
    clock_gettime(CLOCK_MONOTONIC, &end);
    return (uint64_t)(end.tv_sec - begin.tv_sec) * 500000 + (uint64_t)((end.tv_nsec - begin.tv_nsec) / 2000) +
           1000;
}

TEST(killed_writers_leave_the_last_checkpoint_whole)
{
    struct fixture f;
    fixture_new(&f, BF16);
    const char *dir = in_test_dir(f.arena, "kill");
    _Atomic int64_t *published = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int64_t step = 0, n_killed = 0;
    const uint64_t longest_us = 3 * save_us(&f, dir);
    const time_t enough = time(NULL) + 30; /* a disk that is slow to flush makes every save long */
    int n_tried = 0;
    for (; n_tried < KILLS && time(NULL) < enough; n_tried++) {
        int status;
        const size_t mark = arena_mark(f.arena);
        const pid_t pid = fork();
        if (pid == 0)
            child(&f, dir, step + 1, published);
        usleep((unsigned)(rng_u64(3, 3, (uint64_t)n_tried) % longest_us));
        kill(pid, SIGKILL);
        EXPECT(waitpid(pid, &status, 0) == pid);
        n_killed += WIFSIGNALED(status);
        EXPECT(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
        const int64_t known = atomic_load(published), found = check_last(&f, dir);
        EXPECTF(found == known || found == known + 1, "last is step %lld, published were %lld",
                (long long)found, (long long)known);
        expect_no_halves(f.arena, dir);
        atomic_store(published, found);
        step = found;
        arena_reset(f.arena, mark);
    }
    EXPECTF(n_killed > n_tried / 2, "only %lld of %d were killed while they wrote", (long long)n_killed,
            n_tried);
    printf("  %lld of %d killed while writing, %lld checkpoints published\n", (long long)n_killed, n_tried,
           (long long)step);
    munmap(published, 4096);
    arena_free(f.arena);
}

/* Saves step 2 in a child under a limit; it must fail with one line about the file, and step 1 must stay. */
static void expect_failed_save(struct fixture *f, const char *dir, const struct rlimit *file_bytes)
{
    int status, pipes[2];
    char text[600] = { 0 };
    EXPECT(pipe(pipes) == 0);
    const pid_t pid = fork();
    if (pid == 0) {
        struct err e = { 0 };
        if (file_bytes)
            setrlimit(RLIMIT_FSIZE, file_bytes);
        const bool saved = save_step(f, dir, 2, 1, &e);
        _exit(write(pipes[1], e.text, strlen(e.text)) < 0 || saved ? 0 : e.code);
    }
    close(pipes[1]);
    EXPECT(waitpid(pid, &status, 0) == pid && read(pipes[0], text, sizeof text - 1) >= 0);
    close(pipes[0]);
    EXPECTF(WIFEXITED(status) && WEXITSTATUS(status) == EXIT_WORLD, "status %x: %s", (unsigned)status, text);
    EXPECTF(strstr(text, dir) && strstr(text, ": cannot "), "'%s'", text);
    EXPECT_INT(check_last(f, dir), 1);
    EXPECT(!file_exists(step_name(f->arena, dir, 2)));
}

TEST(a_file_limit_at_any_size_is_an_error)
{
    struct fixture f;
    struct err e = { 0 };
    fixture_new(&f, F16);
    const char *dir = in_test_dir(f.arena, "limit");
    EXPECTF(save_step(&f, dir, 1, 0, &e), "%s", e.text);
    for (rlim_t bytes = 0; bytes < 1300; bytes += 130)
        expect_failed_save(&f, dir, &(struct rlimit){ bytes, bytes });
    EXPECTF(save_step(&f, dir, 2, 1, &e), "%s", e.text); /* room again: nothing is in the way */
    EXPECT_INT(check_last(&f, dir), 2);
    arena_free(f.arena);
}

TEST(a_full_disk_is_an_error)
{
    struct fixture f;
    struct err e = { 0 };
    fixture_new(&f, BF16);
    const char *disk = in_test_dir(f.arena, "disk"), *dir = path_in(f.arena, disk, "checkpoints");
    EXPECT(file_mkdirs(disk, &e));
    const char *unmount = arena_printf(f.arena, "umount '%s'", disk);
    if (system(arena_printf(f.arena, "mount -t tmpfs -o size=256k none '%s' 2>/dev/null", disk)) != 0) {
        test_skip("mounting a small file system needs root");
        arena_free(f.arena);
        return;
    }
    EXPECTF(save_step(&f, dir, 1, 0, &e), "%s", e.text);
    char *ballast = arena_alloc(f.arena, 1 << 18);
    for (int64_t left = 0; left < 32 << 10; left += 4 << 10) {
        struct err full = { 0 };
        EXPECT(file_remove_tree(path_in(f.arena, disk, "ballast"), &e));
        EXPECT(file_remove_tree(temporary_name(f.arena, step_name(f.arena, dir, 2)),
                                &e)); /* of the failure before */
        for (size_t bytes = 1 << 18; bytes >= 4096 && !file_exists(path_in(f.arena, disk, "ballast"));
             bytes -= 4096)
            if (file_write(path_in(f.arena, disk, "ballast"), ballast, bytes, &full) && left > 0)
                EXPECT(truncate(path_in(f.arena, disk, "ballast"),
                                (off_t)bytes > left ? (off_t)bytes - left : 0) == 0);
        expect_failed_save(&f, dir, NULL);
    }
    EXPECT(file_remove_tree(path_in(f.arena, disk, "ballast"), &e));
    EXPECTF(save_step(&f, dir, 2, 1, &e), "%s", e.text);
    EXPECT_INT(check_last(&f, dir), 2);
    EXPECT(system(unmount) == 0);
    arena_free(f.arena);
}
