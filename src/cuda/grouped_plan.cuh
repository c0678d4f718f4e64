/* grouped_plan.cuh - which tile of which expert comes when: pure arithmetic, the same on host (the probe checks it)
 * and device. */
#pragma once
#include "cuda/cuda.cuh"
enum { TILE_ROWS = 128, TILE_COLUMNS = 256, TILE_DEPTH = 64 };
enum { BAND_TILES = 16 }; /* tiles of a band: so many share a matrix while it is in the L2 cache */
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
 * which is empty. */
__host__ __device__ static inline int plan_units(int rows, int columns, int members)
{
    return members == 1 ? rows * columns : rows / 2 * columns + rows % 2 * ((columns + 1) / 2);
}
__host__ __device__ static inline struct cell plan_unit(int u, int rows, int columns, int members, int rank)
{
    if (members == 1)
        return plan_cell(u, rows, columns, BAND_TILES);
    const int n_pairs = rows / 2 * columns;
    struct cell c = { rows - 1, 2 * (u - n_pairs) + rank, true };
    if (u < n_pairs) {
        c = plan_cell(u, rows / 2, columns, BAND_TILES / 2);
        c.row = 2 * c.row + rank;
    }
    return c;
}
