/* attention_tile.h - tiles of attention_mma.cu in shared memory, what each lane loads of them for mma.m16n8k16, and the
 * order of blocks: arithmetic alone, which tests/attention_tile_test.c goes through on the host.
 * A tile has rows of queries or keys, `width` elements each: a multiple of 64, in vectors of VECTOR. Of each 8 vectors of
 * a row the order depends on the row, so that neither 8 rows of a matrix of ldmatrix nor copies of a row share banks. */
#pragma once
#include "cuda/mma_tile.h"
#include <stdint.h>

/* First element of vector v of a row. */
ANYWHERE int rows_at(int width, int row, int v)
{
    return row * width + v / 8 * 64 + (v % 8 ^ row % 8) * VECTOR;
}

/* ldmatrix.x4 of an operand a [16, 16]: rows of the tile from `row` on, steps are columns from `step` on. */
ANYWHERE int rows_a(int width, int row, int step, int lane)
{
    return rows_at(width, row + lane % 16, step / VECTOR + lane / 16);
}

/* Of two operands b [16, 8] side by side. Steps are columns of the tile: b's columns are its rows from `row` on. */
ANYWHERE int rows_b(int width, int row, int step, int lane)
{
    return rows_at(width, row + lane % 8 + lane / 16 * 8, step / VECTOR + lane / 8 % 2);
}

/* The same with ldmatrix.trans. Steps are rows of the tile: b's columns are its columns from `column` on. */
ANYWHERE int rows_b_turned(int width, int step, int column, int lane)
{
    return rows_at(width, step + lane % 16, column / VECTOR + lane / 16);
}

/* A block's head, and its turn among the blocks of that head. HEADS_TOGETHER heads go through their turns side by side: few
 * enough that the keys of all blocks that run stay in the L2 cache, and the long first turns do not come last. */
enum { HEADS_TOGETHER = 16 };
struct attention_spot {
    int64_t head, turn;
};
ANYWHERE struct attention_spot attention_spot(int64_t block, int64_t heads, int64_t turns)
{
    const int64_t first = block / (HEADS_TOGETHER * turns) * HEADS_TOGETHER, rest = heads - first;
    const int64_t most = HEADS_TOGETHER, together = rest < most ? rest : most, left = block - first * turns;
    const struct attention_spot s = { first + left % together, left / together };
    return s;
}

/* The same of some heads alone: those from number b a + head = first on, of sequences with a heads each. */
struct attention_part {
    int64_t b, a, turn, head; /* head: counted from the first one */
};
ANYWHERE struct attention_part attention_part(int64_t block, int64_t first, int64_t heads, int64_t turns,
                                              int64_t a)
{
    const struct attention_spot at = attention_spot(block, heads, turns);
    const struct attention_part p = { (first + at.head) / a, (first + at.head) % a, at.turn, at.head };
    return p;
}
