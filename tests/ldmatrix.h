/* ldmatrix.h - what ldmatrix.x4 of PTX loads from a tile in shared memory, on the host: at[lane] is the address that a lane
 * gives, in elements. */
#pragma once
#include "cuda/mma_tile.h"

/* Matrix i of ldmatrix.x4 for a lane: row lane / 4, columns 2 (lane % 4) and the next; .trans: the other way round. */
static int loaded(const int *from, const int at[32], int i, int lane, int which, bool trans)
{
    const int row = trans ? lane % 4 * 2 + which : lane / 4, column = trans ? lane / 4 : lane % 4 * 2 + which;
    return from[at[8 * i + row] + column];
}

/* No two of the 8 rows of a matrix (16 bytes each) lie in the same of the 8 groups of banks. */
static bool free_of_conflicts(const int at[32])
{
    for (int i = 0; i < 4; i++) {
        int seen = 0;
        for (int k = 0; k < 8; k++)
            seen |= 1 << at[8 * i + k] / VECTOR % 8;
        if (seen != 0xff)
            return false;
    }
    return true;
}
