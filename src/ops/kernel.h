/* kernel.h - what the CPU kernels share: work is cut by sizes alone (never by the number of threads), so
 * that the bits of a result are the same on any pool. */
#pragma once
#include "graph/op.h"
#include <stdbool.h>
#include <string.h>
/* The CUDA kernels of an operator are NAME_fwd_cuda and NAME_bwd_cuda in ops/NAME.cu, its workspace NAME_work_cuda;
 * in a program built without nvcc, and where a kernel does not exist, these names are NULL. */
#define CUDA_KERNELS(name)                                                                                   \
    void name##_fwd_cuda(const struct call *c) __attribute__((weak));                                        \
    void name##_bwd_cuda(const struct call *c) __attribute__((weak));                                        \
    void name##_again_cuda(const struct call *c) __attribute__((weak));                                      \
    void name##_both_cuda(const struct call *c) __attribute__((weak));                                       \
    void name##_work_cuda(const struct call *c, size_t bytes[2]) __attribute__((weak))
struct span {
    int64_t from, to;
};
static inline int64_t cut_parts(int64_t n, int64_t each)
{
    return (n + each - 1) / each;
}
static inline struct span cut_span(int64_t n, int64_t each, int64_t part)
{
    const int64_t from = part * each, to = from + each;
    return (struct span){ from, to < n ? to : n };
}
/* Rows of a task that touches row_elements floats per row: about 64 KiB. */
static inline int64_t cut_rows(int64_t row_elements)
{
    const int64_t rows = 16384 / (row_elements > 0 ? row_elements : 1);
    return rows > 0 ? rows : 1;
}
static inline bool adds(const struct call *c, int arg)
{
    return (c->add >> arg & 1) != 0;
}
/* beta of the gemm that makes grad[arg] */
static inline float beta_of(const struct call *c, int arg)
{
    return adds(c, arg) ? 1 : 0;
}
static inline int64_t round_up(int64_t n, int64_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}
