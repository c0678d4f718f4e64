/* op.h - an operator, declared once. src/ops/NAME.c defines `const struct op op_NAME`; shape inference,
 * planner, memory plan, tests, bench and docs read that record and nothing else.
 *   anno   "x: n h^, w: h^ -> y: n h^, r: n @f32"; the letters are the glossary in DESIGN.md
 *            d     may be split, and every argument that has d is split with it
 *            d+    may be split; the outputs that lack it are then partial sums (a collective adds them)
 *            d^    stays whole. Partial gradients (w lacks n, so dw is one) are derived, not declared
 *            n     the letter n stands for all leading dimensions that the rest does not name: [B S D]
 *                  matches "n d" with n = B*S; splitting n splits the first of them
 *            (a h) one dimension of length a*h; a is split, h comes from another argument or from the
 *                  attribute of the same name
 *            r(e)  rows sorted by e: r is a capacity, an argument "end: e s @i32" in device memory says
 *                  where each segment ends; splitting e takes its rows along
 *            first  as an attribute: where the part of the letter d+ begins that a call has; 0 of a whole call
 *            1     one element.  @i32 @f32 @f64: dtype; without it, the model's float of the device
 *   saved  arguments that backward reads: they stay alive until then, or are recomputed
 *   cost   of one call on *local* sizes, [0] forward, [1] backward: flops, and bytes of memory traffic
 *   work   by backend: bytes of c->work that one call needs, [0] forward, [1] backward; NULL = none. A pure
 *          function of dim and attr: it is asked where no device is.
 *   fwd    by backend; NULL = not there, and the planner will not place it there. Asynchronous on
 *          c->stream. Cannot fail on input: graph_check() ran before.
 *   bwd    reads saved arguments and grad[] of float outputs, writes grad[] of float inputs; a NULL grad of
 *          an input is not wanted, a NULL grad of an output is zero. Bit i of c->add: add to grad[i]
 *          instead of writing it.
 *   passes bit i: the gradient of input i is that of the first output. Where it is the only one of that input, no kernel
 *          makes it: both lie in one buffer, and bwd gets a NULL grad of the input
 *   sums   bit i: every output is a sum of terms, each of them linear in one of these inputs, and nothing else: partial
 *          sums of all of them give partial sums of the outputs. Their gradients do not depend on them
 *   joins  the gradients of all float inputs that are no parameters are the same sum, with that of the first output
 *          in it: those of them whose add bit is not set may share one buffer, which may be that of the first
 *          output as well (each element is read before it is written)
 *   in_place  output 0 may lie where input 0 does (which is gone then), and the gradient of input 0 where that of
 *          output 0 does: the kernels read an element before they write it, and leave alone what stays the same
 *   copies  row i of its output is a copy of a row of some input, of row row[i] / dim[each], and `place` is the inverse of
 *          `row`: copies of one row are numbered one after the other. each 0: there is no such output
 *   grad_copies  so is row i of the gradient of an input; where bwd adds to it, what it adds
 *   both   forward and backward in one call, for a node whose outputs no other node reads: nothing lives between the
 *          two. Reads the inputs and grad[] of outputs, writes outputs and grad[] of inputs with the bits of fwd
 *          and bwd; outputs without a gradient are its workspace. NULL = there is no such kernel.
 *   widths on CUDA the last dimension of every float argument is a multiple of 8 (16 bytes); other lengths are free
 *   rows   (of r(e)) between the end of a segment and the next multiple of the attribute `tile`, where the next
 *          segment begins: on the CPU never read as data; on CUDA zero in every input and every output, so
 *          that a kernel may work on whole tiles. Rows behind the last segment's tile are never touched.
 *   fill   for tests, bench and profile: writes valid values into the i32 inputs (and constants) of a call
 *          whose dim, attr and arg are set; NULL when any float input does. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
enum backend { CPU, CUDA, BACKENDS }; /* the model's float: float32 on the CPU, bfloat16 on CUDA */
enum { OP_ARGS = 12, OP_DIMS = 10, OP_ATTRS = 8 };
struct call {
    void *arg[OP_ARGS], *grad[OP_ARGS]; /* order of anno; dense, row-major, not aliased but for in_place */
    uint32_t add;                       /* see bwd */
    uint32_t wide;         /* bit i: grad[i] is float32, whatever the device's float (parameters) */
    int64_t dim[OP_DIMS];  /* local sizes in elements, order of first appearance in anno */
    double attr[OP_ATTRS]; /* order of .attrs */
    void *work;            /* 64-byte aligned, contents undefined */
    void *stream;          /* cudaStream_t; NULL on CPU */
};
typedef void kernel(const struct call *c);
struct op_case {
    int64_t dim[OP_DIMS];
    double attr[OP_ATTRS];
};
struct op_copies { /* arguments, and the letter that counts the copies of a row */
    int of, row, place, each;
};
struct op {
    const char *name, *anno, *attrs, *saved;
    void (*cost)(const struct call *c, double flops[2], double bytes[2]);
    void (*work[BACKENDS])(const struct call *c, size_t bytes[2]);
    kernel *fwd[BACKENDS], *bwd[BACKENDS];
    kernel *again
        [BACKENDS]; /* writes the outputs that are not saved, from saved arguments alone; NULL = as fwd */
    kernel *
        saved_again[BACKENDS]; /* writes the outputs that are saved, from saved inputs alone; NULL = as fwd */
    double saved_again_part;   /* what that costs, as a part of fwd */
    kernel *both[BACKENDS];
    void (*fill)(const struct call *c, uint64_t seed);
    uint32_t passes, sums;
    bool joins;
    bool in_place;
    struct op_copies copies, grad_copies;
    const struct op_case *cases; /* sizes for test, bench and profile; a case with dim[0] = 0 ends the list */
    const struct op_case *cuda_cases; /* sizes that the CUDA kernels take, where not all are; else NULL */
};
