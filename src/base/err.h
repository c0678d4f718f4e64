/* err.h - who is at fault decides how to fail.
 *   input is wrong     return err_set(e, "%s:%d: unknown key '%s'", path, line, key);
 *   world is wrong     die("open %s: %s", path, strerror(errno));    stops every rank
 *   program is wrong   CHECK(h % 8 == 0, "h = %ld", h);              always compiled in; core dump
 * The exit status of the program is err.code; the table is in README ("Exit codes"). */
#pragma once
#include <stdbool.h>
enum exit_code {
    EXIT_DONE = 0,
    EXIT_WORLD = 1,     /* the machine failed: disk full, peer lost, library error */
    EXIT_USAGE = 2,     /* command line or config file */
    EXIT_INPUT = 3,     /* a file of the user is unreadable, malformed or of another version */
    EXIT_MEMORY = 4,    /* the plan does not fit the memory limit */
    EXIT_CORRUPT = 5,   /* a checkpoint or dataset fails its checksums or is incomplete */
    EXIT_NONFINITE = 6, /* loss or gradient is not finite */
    EXIT_MISMATCH = 7,  /* dataset, config or checkpoint do not belong together; or `check` past tolerance */
};
struct err {
    int code;       /* 0, or an exit_code */
    char text[512]; /* "" = no error; the first text wins */
};
/* Both return false, so that a reader can end with `return err_set(...)`. err_set uses EXIT_INPUT. */
bool err_set(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool err_code(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Ends the program on every rank with "moec: rank R: text" on standard error. */
void die_at(const char *file, int line, const char *cond, const char *fmt, ...)
    __attribute__((format(printf, 4, 5), noreturn));
void die_err(const struct err *e) __attribute__((noreturn));
/* Called once by device/comm: how to stop the other ranks, and who we are. */
void err_on_rank(int rank, int n_ranks, void (*stop_all)(int code));
#define die(...)      die_at(__FILE__, __LINE__, 0, __VA_ARGS__)
#define CHECK(c, ...) ((c) ? (void)0 : die_at(__FILE__, __LINE__, #c, __VA_ARGS__))
