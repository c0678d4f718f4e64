/* err.c - error texts, and the two ways to end: die (the world) and CHECK (the program). */
#include "base/err.h"
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static int my_rank, n_all_ranks = 1;
static void (*stop_ranks)(int code);
static atomic_flag ending = ATOMIC_FLAG_INIT;
static _Thread_local bool ending_here;

static void set_text(struct err *e, int code, const char *fmt, va_list ap)
{
    if (e->text[0] != 0)
        return;
    e->code = code;
    vsnprintf(e->text, sizeof e->text, fmt, ap);
    for (char *c = e->text; *c; c++) /* one line, whatever a hostile name holds */
        if ((unsigned char)*c < ' ' || *c == 127)
            *c = ' ';
    if (e->text[0] == 0)
        strcpy(e->text, "unknown error");
}

bool err_set(struct err *e, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    set_text(e, EXIT_INPUT, fmt, ap);
    va_end(ap);
    return false;
}

bool err_code(struct err *e, int code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    set_text(e, code, fmt, ap);
    va_end(ap);
    return false;
}

void err_on_rank(int rank, int n_ranks, void (*stop_all)(int code))
{
    my_rank = rank;
    n_all_ranks = n_ranks;
    stop_ranks = stop_all;
}

/* The first thread that ends the program speaks; others wait for its exit. An error inside the hook, on the
 * same thread, must not call the hook again. */
static void become_the_ending_thread(void)
{
    if (ending_here)
        _exit(EXIT_WORLD);
    ending_here = true;
    while (atomic_flag_test_and_set(&ending))
        pause();
}

/* One write() per message, so that the lines of several ranks do not mix. */
static void print_line(const char *text)
{
    char line[1200], who[32] = "";
    if (n_all_ranks > 1)
        snprintf(who, sizeof who, "rank %d: ", my_rank);
    snprintf(line, sizeof line - 1, "moec: %s%s", who, text);
    fflush(stdout);
    fprintf(stderr, "%s\n", line);
    fflush(stderr);
}

static void end_all(int code) __attribute__((noreturn));
static void end_all(int code)
{
    if (stop_ranks)
        stop_ranks(code);
    _exit(code); /* not exit(): handlers of MPI would wait for the other ranks */
}

void die_at(const char *file, int line, const char *cond, const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    become_the_ending_thread();
    int used = snprintf(text, sizeof text, "%s:%d: ", file, line);
    if (cond && used < (int)sizeof text)
        used += snprintf(text + used, sizeof text - (size_t)used, "check failed: %s: ", cond);
    va_start(ap, fmt);
    if (used < (int)sizeof text)
        vsnprintf(text + used, sizeof text - (size_t)used, fmt, ap);
    va_end(ap);
    print_line(text);
    if (cond)
        abort(); /* a core dump; mpirun stops the other ranks on the signal */
    end_all(EXIT_WORLD);
}

void die_err(const struct err *e)
{
    become_the_ending_thread();
    print_line(e->text);
    end_all(e->code ? e->code : EXIT_INPUT);
}
