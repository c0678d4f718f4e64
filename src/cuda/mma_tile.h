/* mma_tile.h - tiles of grouped.cu in shared memory, and what each lane loads of them for mma.m16n8k16: arithmetic
 * alone, which tests/mma_tile_test.c goes through on the host.
 * A tile has 128 rows of a (or columns of b) and 32 steps of the contraction, in vectors of 8 elements. Deep: a line is
 * a row with its 32 steps; otherwise a line is one step of all 128 rows. The vectors of a line are permuted, so that
 * neither the 8 addresses of a matrix of ldmatrix nor the copies into the tile share banks. */
#pragma once
#include <stdbool.h>
#ifdef __CUDACC__
#define ANYWHERE __host__ __device__ static inline
#else
#define ANYWHERE static inline
#endif
enum { SIDE = 128, DEPTH = 32, VECTOR = 8 };

/* First element of vector v of a line. */
ANYWHERE int tile_at(bool deep, int line, int v)
{
    return deep ? line * DEPTH + (v ^ (line >> 1 & 3)) * VECTOR : line * SIDE + (v ^ (line & 7)) * VECTOR;
}

/* ldmatrix.x4, whose lane 8i + k gives row k of matrix i. Of a: rows 0 and 8, then the same 8 steps further. */
ANYWHERE int tile_a(bool deep, int row, int step, int lane)
{
    return deep ? tile_at(true, row + lane % 16, step / VECTOR + lane / 16)
                : tile_at(false, step + lane % 8 + lane / 16 * 8, row / VECTOR + lane / 8 % 2);
}

/* Of b: steps 0 and 8, then the same 8 columns further. */
ANYWHERE int tile_b(bool deep, int column, int step, int lane)
{
    return deep ? tile_at(true, column + lane % 8 + lane / 16 * 8, step / VECTOR + lane / 8 % 2)
                : tile_at(false, step + lane % 16, column / VECTOR + lane / 16);
}
