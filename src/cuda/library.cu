/* library.cu - see library.cuh. */
#include "cuda/library.cuh"
#include <dlfcn.h>
#define TEXT_(x) #x
#define TEXT(x)  TEXT_(x)

static struct cuda_library library;
static bool opened;

struct symbol {
    const char *name;
    void **at;
};

static bool open_one(const char *file, const struct symbol *s, int n, struct err *e)
{
    void *handle = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!handle)
        return err_code(e, EXIT_WORLD, "the CUDA device needs %s: %s (LD_LIBRARY_PATH says where to look)",
                        file, dlerror());
    for (int i = 0; i < n; i++) {
        *s[i].at = dlsym(handle, s[i].name);
        if (!*s[i].at)
            return err_code(e, EXIT_WORLD, "%s has no %s: its version is too old", file, s[i].name);
    }
    return true;
}

#define SYMBOL(name, field)                                                                                  \
    {                                                                                                        \
#name, (void **)&library.field                                                                       \
    }

static bool open_cublas(struct err *e)
{
    const struct symbol s[] = { SYMBOL(cublasLtMatmul, matmul),
                                SYMBOL(cublasLtCreate, matmul_create),
                                SYMBOL(cublasLtMatmulDescInit_internal, matmul_desc_init),
                                SYMBOL(cublasLtMatmulDescSetAttribute, matmul_desc_set),
                                SYMBOL(cublasLtMatrixLayoutInit_internal, layout_init),
                                SYMBOL(cublasLtMatmulPreferenceInit_internal, preference_init),
                                SYMBOL(cublasLtMatmulPreferenceSetAttribute, preference_set),
                                SYMBOL(cublasLtMatmulAlgoGetHeuristic, heuristic),
                                SYMBOL(cublasLtMatmulAlgoConfigGetAttribute, algorithm_get),
                                SYMBOL(cublasLtGetVersion, matmul_version) };
    if (!open_one("libcublasLt.so." TEXT(CUBLAS_VER_MAJOR), s, sizeof s / sizeof *s, e))
        return false;
    const cublasStatus_t status = library.matmul_create(&library.lt);
    return status == CUBLAS_STATUS_SUCCESS ||
           err_code(e, EXIT_WORLD, "cublasLtCreate failed (%d)", (int)status);
}

static bool open_cudnn(struct err *e)
{
    const struct symbol s[] = { SYMBOL(cudnnCreate, dnn_create),
                                SYMBOL(cudnnSetStream, dnn_set_stream),
                                SYMBOL(cudnnGetVersion, dnn_version),
                                SYMBOL(cudnnGetErrorString, dnn_error),
                                SYMBOL(cudnnGetLastErrorString, dnn_last_error),
                                SYMBOL(cudnnBackendCreateDescriptor, dnn_new),
                                SYMBOL(cudnnBackendDestroyDescriptor, dnn_free),
                                SYMBOL(cudnnBackendSetAttribute, dnn_set),
                                SYMBOL(cudnnBackendGetAttribute, dnn_get),
                                SYMBOL(cudnnBackendFinalize, dnn_finalize),
                                SYMBOL(cudnnBackendExecute, dnn_execute) };
    if (!open_one("libcudnn.so.9", s, sizeof s / sizeof *s, e))
        return false;
    const size_t version = library.dnn_version();
    if (version < 91300)
        return err_code(e, EXIT_WORLD, "libcudnn.so.9 is version %zu, expected 91300 or later", version);
    const cudnnStatus_t status = library.dnn_create(&library.dnn);
    return status == CUDNN_STATUS_SUCCESS ||
           err_code(e, EXIT_WORLD, "cudnnCreate failed: %s", library.dnn_error(status));
}

bool cuda_library_open(struct err *e)
{
    opened = opened || (open_cublas(e) && open_cudnn(e));
    return opened;
}

const struct cuda_library *cuda_library(void)
{
    CHECK(opened, "the CUDA device is not open");
    return &library;
}
