/* grouped_host.cuh - what the probe of the grouped products can check without a device. */
#pragma once
#include "src/cuda/grouped_later.cuh"
#include "src/cuda/grouped_plan.cuh"
#include <stdio.h>
#include <string.h>

/* -- the schedule, on the host: every cell of a grid once -- */
static bool plan_covers(int rows, int columns, int members)
{
    static unsigned char seen[1 << 16];
    int n = 0;
    memset(seen, 0, sizeof seen);
    for (int u = 0; u < plan_units(rows, columns, members); u++)
        for (int rank = 0; rank < members; rank++) {
            const struct cell c = plan_unit(u, rows, columns, members, rank, rows * 5);
            const struct cell first = plan_unit(u, rows, columns, members, 0, rows * 5);
            if (c.row < 0 || c.row >= rows || c.column < 0 || c.same_row != first.same_row ||
                (members > 1 && (c.same_row ? c.row != first.row : c.column != first.column)))
                return false;
            if (c.column == columns && c.same_row && rank)
                continue;
            if (c.column >= columns || seen[c.row * columns + c.column]++)
                return false;
            n++;
        }
    return n == rows * columns;
}

static int check_plan(void)
{
    for (int rows = 0; rows < 70; rows++)
        for (int columns = 1; columns < 24; columns++)
            for (int members = 1; members <= 2; members++)
                if (!plan_covers(rows, columns, members)) {
                    printf("the plan of %d x %d tiles for %d blocks does not cover each once\n", rows,
                           columns, members);
                    return 1;
                }
    printf("plan: every tile once\n");
    return 0;
}

/* -- the addresses of h, on the host: a lane gets the elements whose dy it has (product_256()) -- */
/* Of 64 columns, the 16 from 16 i on; matrix k of 4. */
static bool lane_has(int thread, int i, int k)
{
    enum { BOX = 3 * BOX_BYTES };
    const int lane = thread % WARP, giver = thread - lane + 8 * k + lane / 4;
    const uint32_t at =
        (matrices_at(BOX, giver) ^ (uint32_t)(32 * i)) - BOX; /* of 8 elements; the lane has 2 */
    const int row = (int)at / 128, column = ((int)at % 128 / 16 ^ row % 8) * 8 + 2 * (lane % 4);
    const int d = 8 * i + 2 * k; /* register */
    return at < BOX_BYTES && at % 16 == 0 && row == thread / WARP * 16 + lane / 4 + d / 2 % 2 * 8 &&
           column == d / 4 * 8 + 2 * (lane % 4);
}

/* Of 32 columns, the 8 from 8 i on; matrix k of 2. Lines of 64 bytes: the vector of 16 bytes, bits 4 and 5 of an address,
 * is exchanged by bits 7 and 8. */
static bool lane_has_pair(int thread, int i, int k)
{
    enum { BOX = 3 * PIECE_BYTES };
    const int lane = thread % WARP, giver = thread - lane + 8 * k + lane / 4;
    const uint32_t at = (pair_at(BOX, giver) ^ (uint32_t)(16 * i)) - BOX, plain = at ^ (at >> 7 & 3) << 4;
    const int row = (int)plain / 64, column = (int)plain % 64 / 2 + 2 * (lane % 4);
    const int d = 4 * i + 2 * k;
    return at < PIECE_BYTES && at % 16 == 0 && row == thread / WARP * 16 + lane / 4 + d / 2 % 2 * 8 &&
           column == d / 4 * 8 + 2 * (lane % 4);
}

static int check_addresses(void)
{
    for (int thread = 0; thread < WARPGROUP; thread++)
        for (int i = 0; i < 4; i++)
            for (int k = 0; k < 4; k++)
                if (!lane_has(thread, i, k) || (k < 2 && !lane_has_pair(thread, i, k))) {
                    printf("thread %d has another part of h than of dy (%d, %d)\n", thread, i, k);
                    return 1;
                }
    printf("epilogue of dy: every thread has h of its dy\n");
    return 0;
}
