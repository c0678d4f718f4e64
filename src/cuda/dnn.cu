/* dnn.cu - see dnn.cuh. */
#include "cuda/dnn.cuh"
enum { CONFIGS = 32, NOTES = 32, INNER_UID = 1000 };

static void check(cudnnStatus_t status, const char *what)
{
    char text[512] = "";
    if (status == CUDNN_STATUS_SUCCESS || cuda_forgives(what))
        return;
    cuda_library()->dnn_last_error(text, sizeof text);
    CHECK(status == CUDNN_STATUS_SUCCESS, "cuDNN, %s: %s %s", what, cuda_library()->dnn_error(status), text);
}

static dnn_part new_part(cudnnBackendDescriptorType_t type)
{
    dnn_part p;
    check(cuda_library()->dnn_new(type, &p), "new descriptor");
    return p;
}

static void set(dnn_part p, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t n,
                const void *values)
{
    check(cuda_library()->dnn_set(p, name, type, n, values), "attribute");
}

static void set_type(dnn_part p, cudnnBackendAttributeName_t name, cudnnDataType_t type)
{
    set(p, name, CUDNN_TYPE_DATA_TYPE, 1, &type);
}

static void set_part(dnn_part p, cudnnBackendAttributeName_t name, dnn_part value)
{
    set(p, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

static void finalize(dnn_part p, const char *what)
{
    check(cuda_library()->dnn_finalize(p), what);
}

static dnn_part tensor(int64_t uid, struct dnn_shape shape, cudnnDataType_t type, bool inner, bool scalar)
{
    const dnn_part p = new_part(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    const int64_t align = 16;
    set(p, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &uid);
    set_type(p, CUDNN_ATTR_TENSOR_DATA_TYPE, type);
    set(p, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, shape.dim);
    set(p, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, shape.stride);
    set(p, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &align);
    set(p, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &inner);
    set(p, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &scalar);
    finalize(p, "tensor");
    return p;
}

dnn_part dnn_tensor(int64_t uid, struct dnn_shape shape, cudnnDataType_t type)
{
    return tensor(uid, shape, type, false, false);
}

dnn_part dnn_scalar(int64_t uid)
{
    const struct dnn_shape one = { { 1, 1, 1, 1 }, { 1, 1, 1, 1 } };
    return tensor(uid, one, CUDNN_DATA_FLOAT, false, true);
}

dnn_part dnn_inner(struct dnn_graph *g, struct dnn_shape shape, cudnnDataType_t type)
{
    return tensor(INNER_UID + g->n_inner++, shape, type, true, false);
}

static void add_op(struct dnn_graph *g, dnn_part op)
{
    finalize(op, "operation");
    CHECK(g->n_ops < DNN_OPS, "more than %d operations", DNN_OPS);
    g->op[g->n_ops++] = op;
}

void dnn_matmul(struct dnn_graph *g, dnn_part a, dnn_part b, dnn_part c)
{
    const dnn_part how = new_part(CUDNN_BACKEND_MATMUL_DESCRIPTOR),
                   op = new_part(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    set_type(how, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_DATA_FLOAT);
    finalize(how, "matmul");
    set_part(op, CUDNN_ATTR_OPERATION_MATMUL_ADESC, a);
    set_part(op, CUDNN_ATTR_OPERATION_MATMUL_BDESC, b);
    set_part(op, CUDNN_ATTR_OPERATION_MATMUL_CDESC, c);
    set_part(op, CUDNN_ATTR_OPERATION_MATMUL_DESC, how);
    add_op(g, op);
}

/* axis: of CUDNN_POINTWISE_GEN_INDEX, -1 for the others */
static void pointwise(struct dnn_graph *g, cudnnPointwiseMode_t mode, int64_t axis, cudnnDataType_t precision,
                      const dnn_part in[3], dnn_part y)
{
    const dnn_part how = new_part(CUDNN_BACKEND_POINTWISE_DESCRIPTOR),
                   op = new_part(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    const cudnnBackendAttributeName_t name[] = { CUDNN_ATTR_OPERATION_POINTWISE_XDESC,
                                                 CUDNN_ATTR_OPERATION_POINTWISE_BDESC,
                                                 CUDNN_ATTR_OPERATION_POINTWISE_TDESC };
    set(how, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    set_type(how, CUDNN_ATTR_POINTWISE_MATH_PREC, precision);
    if (axis >= 0)
        set(how, CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, 1, &axis);
    finalize(how, "pointwise");
    set_part(op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how);
    for (int i = 0; i < 3; i++)
        if (in[i])
            set_part(op, name[i], in[i]);
    set_part(op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
    add_op(g, op);
}

void dnn_pointwise(struct dnn_graph *g, cudnnPointwiseMode_t mode, dnn_part x, dnn_part b, dnn_part t,
                   dnn_part y)
{
    const dnn_part in[3] = { x, b, t };
    pointwise(g, mode, -1, CUDNN_DATA_FLOAT, in, y);
}

void dnn_causal(struct dnn_graph *g, struct dnn_shape shape, dnn_part x, dnn_part otherwise, dnn_part y)
{
    const dnn_part row = dnn_inner(g, shape, CUDNN_DATA_INT32),
                   column = dnn_inner(g, shape, CUDNN_DATA_INT32),
                   seen = dnn_inner(g, shape, CUDNN_DATA_BOOLEAN);
    const dnn_part index[3] = { x, NULL, NULL }, compare[3] = { row, column, NULL };
    pointwise(g, CUDNN_POINTWISE_GEN_INDEX, 2, CUDNN_DATA_FLOAT, index, row);
    pointwise(g, CUDNN_POINTWISE_GEN_INDEX, 3, CUDNN_DATA_FLOAT, index, column);
    pointwise(g, CUDNN_POINTWISE_CMP_GE, -1, CUDNN_DATA_BOOLEAN, compare, seen);
    dnn_pointwise(g, CUDNN_POINTWISE_BINARY_SELECT, x, otherwise, seen, y);
}

void dnn_reduce(struct dnn_graph *g, cudnnReduceTensorOp_t op_, dnn_part x, dnn_part y)
{
    const dnn_part how = new_part(CUDNN_BACKEND_REDUCTION_DESCRIPTOR),
                   op = new_part(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
    set(how, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &op_);
    set_type(how, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_DATA_FLOAT);
    finalize(how, "reduction");
    set_part(op, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
    set_part(op, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y);
    set_part(op, CUDNN_ATTR_OPERATION_REDUCTION_DESC, how);
    add_op(g, op);
}

void dnn_reshape(struct dnn_graph *g, dnn_part x, dnn_part y)
{
    const dnn_part op = new_part(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
    set_part(op, CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x);
    set_part(op, CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y);
    add_op(g, op);
}

static dnn_part close_graph(struct dnn_graph *g, const char *name)
{
    const dnn_part p = new_part(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    set(p, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &cuda_library()->dnn);
    set(p, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, g->n_ops, g->op);
    finalize(p, name);
    return p;
}

/* Configurations that cuDNN's heuristic offers, best first; returns their number. */
static int offers(dnn_part graph, dnn_part config[CONFIGS])
{
    const dnn_part heuristic = new_part(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    const cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
    int64_t n = 0;
    set_part(heuristic, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    set(heuristic, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    finalize(heuristic, "heuristic");
    for (int i = 0; i < CONFIGS; i++)
        config[i] = new_part(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    check(cuda_library()->dnn_get(heuristic, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                  CONFIGS, &n, config),
          "results of the heuristic");
    return n < CONFIGS ? (int)n : (int)CONFIGS;
}

static bool is_deterministic(dnn_part config)
{
    const struct cuda_library *l = cuda_library();
    cudnnBackendNumericalNote_t note[NOTES];
    dnn_part engine = new_part(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    int64_t n = 0;
    check(l->dnn_get(config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &n, &engine),
          "engine");
    check(l->dnn_get(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE, NOTES, &n, note),
          "numerical notes");
    l->dnn_free(engine);
    for (int64_t i = 0; i < n && i < NOTES; i++)
        if (note[i] == CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC)
            return false;
    return true;
}

/* NULL where the engine does not take the graph after all. */
static dnn_part plan_of(dnn_part config, int64_t *bytes)
{
    const struct cuda_library *l = cuda_library();
    const dnn_part p = new_part(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    int64_t n = 0;
    set(p, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &l->dnn);
    set_part(p, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config);
    if (l->dnn_finalize(p) != CUDNN_STATUS_SUCCESS) {
        l->dnn_free(p);
        return NULL;
    }
    check(l->dnn_get(p, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &n, bytes),
          "workspace");
    return p;
}

dnn_part dnn_plan(struct dnn_graph *g, size_t work_bytes, const char *name)
{
    dnn_part config[CONFIGS], plan = NULL;
    int64_t bytes = 0, least = -1;
    const int n = offers(close_graph(g, name), config);
    for (int i = 0; i < n && !plan; i++) {
        if (!is_deterministic(config[i]))
            continue;
        plan = plan_of(config[i], &bytes);
        least = plan && (least < 0 || bytes < least) ? bytes : least;
        if (plan && (size_t)bytes > work_bytes) {
            cuda_library()->dnn_free(plan);
            plan = NULL;
        }
    }
    CHECK(plan, "cuDNN %zu: none of %d plans for the %s runs in %zu bytes (least: %lld)",
          cuda_library()->dnn_version(), n, name, work_bytes, (long long)least);
    for (int i = 0; i < CONFIGS; i++)
        cuda_library()->dnn_free(config[i]);
    return plan;
}

void dnn_bind(struct dnn_binding *b, int64_t uid, const void *at)
{
    CHECK(b->n < DNN_TENSORS && (uintptr_t)at % 4 == 0, "tensor %lld", (long long)uid);
    b->uid[b->n] = uid;
    b->at[b->n++] = (void *)at;
}

void dnn_run(dnn_part plan, cudaStream_t stream, const struct dnn_binding *b, void *work)
{
    const struct cuda_library *l = cuda_library();
    const dnn_part pack = new_part(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
    set(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, b->n, b->uid);
    set(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, b->n, b->at);
    set(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &work);
    finalize(pack, "addresses");
    check(l->dnn_set_stream(l->dnn, stream), "stream");
    check(l->dnn_execute(l->dnn, plan, pack), "run");
    l->dnn_free(pack);
}
