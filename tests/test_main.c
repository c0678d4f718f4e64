/* test_main.c - runs every registered test of one program; `PROGRAM NAME` runs those whose name contains NAME. */
#include "tests/test.h"
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>
static struct test_case *first, **last = &first;
static int failures, skipped;
static char directory[64];
static const char *running; /* name of the test */

void test_register(struct test_case *t)
{
    *last = t;
    last = &t->next;
}

void test_fail(const char *file, int line, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "%s:%d: ", file, line);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    failures++;
}

void test_skip(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    printf("  skipped: ");
    vprintf(fmt, ap);
    putchar('\n');
    va_end(ap);
    skipped = 1;
}

bool test_close(const double *got, const double *want, int64_t n, double tolerance, int64_t *worst)
{
    double top = 0, off = -1;
    *worst = 0;
    for (int64_t i = 0; i < n; i++)
        top = fmax(top, fabs(want[i]));
    for (int64_t i = 0; i < n; i++) {
        const double d = isfinite(got[i]) ? fabs(got[i] - want[i]) : INFINITY;
        if (d > off) {
            off = d;
            *worst = i;
        }
    }
    return off <= tolerance * top;
}

const char *test_dir(void)
{
    if (!directory[0]) {
        snprintf(directory, sizeof directory, "/tmp/moec-test-XXXXXX");
        if (!mkdtemp(directory)) {
            perror("mkdtemp");
            exit(1);
        }
    }
    return directory;
}

static void remove_directory(void)
{
    char command[128];
    if (!directory[0])
        return;
    snprintf(command, sizeof command, "rm -rf '%s'", directory);
    if (system(command) != 0)
        fprintf(stderr, "cannot remove %s\n", directory);
}

static void say(const char *text)
{
    if (write(STDERR_FILENO, text, strlen(text)) < 0)
        _exit(1);
}

static void on_end(int number)
{
    char digits[] = { (char)('0' + number / 10), (char)('0' + number % 10), 0 };
    say("ended by signal ");
    say(digits);
    say(" in ");
    say(running ? running : "no test");
    say("\n");
    signal(number, SIG_DFL);
    raise(number);
}

/* A program that crashes or is stopped says where; a sanitizer's own handlers stay. */
static void name_the_test_at_the_end(void)
{
    static const int signals[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTERM };
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        struct sigaction now;
        const struct sigaction mine = { .sa_handler = on_end, .sa_flags = (int)(SA_RESETHAND | SA_NODEFER) };
        if (sigaction(signals[i], NULL, &now) == 0 && now.sa_handler == SIG_DFL)
            sigaction(signals[i], &mine, NULL);
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
}

int main(int argc, char **argv)
{
    int passed = 0, failed = 0, skips = 0;
    name_the_test_at_the_end();
    for (struct test_case *t = first; t; t = t->next) {
        if (argc > 1 && !strstr(t->name, argv[1]))
            continue;
        failures = 0;
        skipped = 0;
        running = t->name;
        t->run();
        if (failures)
            failed++;
        else if (skipped)
            skips++;
        else
            passed++;
        printf("%s %s\n", failures ? "FAIL" : skipped ? "skip" : "ok  ", t->name);
        fflush(stdout);
    }
    running = NULL;
    remove_directory();
    printf("%d passed, %d failed, %d skipped\n", passed, failed, skips);
    return failed != 0;
}
