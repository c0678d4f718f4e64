/* ref/sort.c - expert by expert, token by token; a segment begins at a multiple of tile. */
#include "tests/ref/ref.h"
enum { TOP, ROW, PLACE, END, N = 0, K, R, E, S };

static void fwd(const struct call *c)
{
    const int64_t tile = (int64_t)c->attr[3];
    const int32_t *top = c->arg[TOP];
    int32_t *row = c->arg[ROW], *place = c->arg[PLACE], *end = c->arg[END], at = 0;
    for (int64_t i = 0; i < c->dim[R]; i++)
        row[i] = -1;
    for (int32_t e = 0; e < c->dim[E]; e++) {
        while (at % tile != 0)
            at++;
        for (int32_t i = 0; i < c->dim[N] * c->dim[K]; i++)
            if (top[i] == e) {
                row[at] = i;
                place[i] = at++;
            }
        end[e] = at;
    }
    while (at % tile != 0)
        at++;
    for (int64_t i = at; i < c->dim[R]; i++)
        row[i] = -2;
}

const struct ref ref_sort = { "", "", fwd, 0 };
