/* grouped_plan.cuh - which tile of which expert comes when: pure arithmetic, the same on host (the probe checks it)
 * and device. */
#pragma once
#include "cuda/cuda.cuh"
enum { TILE_ROWS = 128, TILE_COLUMNS = 256, TILE_DEPTH = 64 };
enum { BAND_TILES = 16 }; /* tiles of a band: so many share a matrix while it is in the L2 cache */
struct cell {
    int row, column; /* in tiles */
};
/* Cell `u` of a grid of rows x columns tiles: band by band, in a band column by column. */
__host__ __device__ static inline struct cell plan_cell(int u, int rows, int columns)
{
    const int each = BAND_TILES * columns, first = u / each * BAND_TILES, left = rows - first;
    const int height = left < BAND_TILES ? left : BAND_TILES, rest = u % each;
    const struct cell c = { first + rest % height, rest / height };
    return c;
}
__host__ __device__ static inline int plan_cells(int rows, int columns)
{
    return rows * columns;
}
