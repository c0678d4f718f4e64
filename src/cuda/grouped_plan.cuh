/* grouped_plan.cuh - which tile of which expert comes when: pure arithmetic, the same on host (the probe checks it)
 * and device. */
#pragma once
#include "cuda/cuda.cuh"
enum { TILE_ROWS = 128, TILE_COLUMNS = 256, TILE_DEPTH = 64 };
#ifndef GROUPED_BAND
#define GROUPED_BAND 16
#endif
enum { BAND_TILES = GROUPED_BAND }; /* tiles of a band: so many share a matrix while it is in the L2 cache */
struct cell {
    int row, column; /* in tiles */
    bool same_row;   /* a pair: both tiles have one row; else one column */
};
/* Cell `u` of a grid of rows x columns tiles: band by band, in a band column by column. */
__host__ __device__ static inline struct cell plan_cell(int u, int rows, int columns, int band_rows)
{
    const int each = band_rows * columns, first = u / each * band_rows, left = rows - first;
    const int height = left < band_rows ? left : band_rows, rest = u % each;
    const struct cell c = { first + rest % height, rest / height, false };
    return c;
}
/* Two blocks that share an operand take a pair of tiles each time: two rows of one column, and two columns of the last
 * row when the number of rows is odd. Of an odd number of columns, the last pair's second tile is column `columns`,
 * which is empty. The columns begin at `shift`: otherwise narrow last columns, which are quicker, could always fall to
 * the same blocks. */
__host__ __device__ static inline int plan_units(int rows, int columns, int members)
{
    return members == 1 ? rows * columns : rows / 2 * columns + rows % 2 * ((columns + 1) / 2);
}
__host__ __device__ static inline struct cell plan_unit(int u, int rows, int columns, int members, int rank,
                                                        int shift)
{
    const int n_whole = rows / members * columns; /* units of one column */
    struct cell c = { rows - 1, 2 * (u - n_whole) + rank, true };
    if (u < n_whole) {
        c = plan_cell(u, rows / members, columns, BAND_TILES / members);
        c.row = members * c.row + rank;
        c.column = (c.column + shift) % columns;
    }
    return c;
}
