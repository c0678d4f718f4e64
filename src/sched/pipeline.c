/* pipeline.c - see pipeline.h. */
#include "sched/pipeline.h"

/* The k-th forward of a rank; backward goes through the parts the other way round. */
static struct pipeline_step nth(int stages, int parts, int64_t k, bool backward)
{
    const int64_t group = (int64_t)stages * parts;
    const int part = (int)(k % group / stages);
    if (parts == 1)
        return (struct pipeline_step){ 0, k, backward };
    return (struct pipeline_step){ backward ? parts - 1 - part : part, k / group * stages + k % stages,
                                   backward };
}

/* Forward steps before the first backward one. */
static int64_t warm_up(int stages, int parts, int64_t micro, int stage)
{
    const int64_t all = micro * parts, behind = stages - stage - 1,
                  wanted = parts == 1 ? behind : 2 * behind + (int64_t)(parts - 1) * stages;
    return wanted < all ? wanted : all;
}

void pipeline_order(int stages, int parts, int64_t micro, int stage, struct pipeline_step *out)
{
    const int64_t all = micro * parts, first = warm_up(stages, parts, micro, stage);
    for (int64_t k = 0; k < first; k++)
        *out++ = nth(stages, parts, k, false);
    for (int64_t k = first; k < all; k++) {
        *out++ = nth(stages, parts, k, false);
        *out++ = nth(stages, parts, k - first, true);
    }
    for (int64_t k = all - first; k < all; k++)
        *out++ = nth(stages, parts, k, true);
}

int64_t pipeline_in_flight(const struct pipeline_step *order, int64_t n, int part)
{
    int64_t now = 0, most = 0;
    for (int64_t i = 0; i < n; i++) {
        if (order[i].part != part)
            continue;
        now += order[i].backward ? -1 : 1;
        most = now > most ? now : most;
    }
    return most;
}
