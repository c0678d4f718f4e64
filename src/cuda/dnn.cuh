/* dnn.cuh - graphs of cuDNN's backend interface, no more of it than attention needs: tensors of four dimensions,
 * operations, a plan, its runs. Whatever fails is our mistake or the library's: it ends the program with the words of
 * the library (CUDNN_LOGLEVEL_DBG=2 makes it say more). Descriptors live as long as the program. */
#pragma once
#include "cuda/library.cuh"
typedef cudnnBackendDescriptor_t dnn_part; /* a tensor, an operation, a plan */
enum { DNN_OPS = 32, DNN_TENSORS = 16 };

/* Operations in the order of their adding. Zeroed at first. */
struct dnn_graph {
    dnn_part op[DNN_OPS];
    int n_ops, n_inner;
};
/* Lengths and strides in elements, of [batch, head, row, column]. */
struct dnn_shape {
    int64_t dim[4], stride[4];
};
/* A tensor in device memory, which a run binds to an address (16-byte aligned) by its uid (1 to 99). */
dnn_part dnn_tensor(int64_t uid, struct dnn_shape shape, cudnnDataType_t type);
/* A float32 number that a run binds to an address on the host, read when the run is launched. */
dnn_part dnn_scalar(int64_t uid);
/* A value between operations, never in memory. */
dnn_part dnn_inner(struct dnn_graph *g, struct dnn_shape shape, cudnnDataType_t type);
/* c = a b, float32 accumulation */
void dnn_matmul(struct dnn_graph *g, dnn_part a, dnn_part b, dnn_part c);
/* y = mode(x), mode(x, b) or mode(x, b, t); NULL for what the mode does not take */
void dnn_pointwise(struct dnn_graph *g, cudnnPointwiseMode_t mode, dnn_part x, dnn_part b, dnn_part t,
                   dnn_part y);
/* y = x where the row is not before the column, `otherwise` elsewhere; both of this shape, float32 */
void dnn_causal(struct dnn_graph *g, struct dnn_shape shape, dnn_part x, dnn_part otherwise, dnn_part y);
/* y = sum or maximum of x over the dimensions of length 1 in y */
void dnn_reduce(struct dnn_graph *g, cudnnReduceTensorOp_t op, dnn_part x, dnn_part y);
/* y = x with the shape (transposed) and the type of y */
void dnn_reshape(struct dnn_graph *g, dnn_part x, dnn_part y);

/* What cuDNN's heuristic puts first among all that can run in `work_bytes` of device memory. */
dnn_part dnn_plan(struct dnn_graph *g, size_t work_bytes, const char *name);
/* What a run binds: the addresses of uids. */
struct dnn_binding {
    int64_t uid[DNN_TENSORS];
    void *at[DNN_TENSORS];
    int n;
};
void dnn_bind(struct dnn_binding *b, int64_t uid, const void *at);
/* Asynchronous. */
void dnn_run(dnn_part plan, cudaStream_t stream, const struct dnn_binding *b, void *work);
