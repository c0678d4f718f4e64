/* cbc.h - mixed-integer programs of tests, solved by cbc (coinor-cbc). */
#pragma once
#include "base/arena.h"
#include "tests/test.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Skips the test where there is none. */
static inline bool have_cbc(void)
{
    const bool have = system("command -v cbc >/dev/null 2>&1") == 0;
    if (!have)
        test_skip("cbc is not installed (coinor-cbc)");
    return have;
}

/* Solves NAME.lp in test_dir(); `how`: options of cbc. The first line of what it says, from which the value follows
 * (cbc_value()). */
static inline const char *cbc_solve(struct arena *a, const char *name, const char *how)
{
    char *line = arena_alloc(a, 256);
    EXPECT_INT(system(arena_printf(a, "cd '%s' && cbc %s.lp %s solve solu %s.txt >/dev/null 2>&1", test_dir(),
                                   name, how, name)),
               0);
    FILE *f = fopen(arena_printf(a, "%s/%s.txt", test_dir(), name), "r");
    *line = 0;
    EXPECT(f && fgets(line, 256, f));
    if (f)
        fclose(f);
    return line;
}

/* -1: there is none. */
static inline double cbc_value(const char *line)
{
    const char *at = strstr(line, "value");
    return at ? strtod(at + 5, NULL) : -1;
}
