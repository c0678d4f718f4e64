/* library.cuh - cuBLASLt and cuDNN, opened when the CUDA device is: a program that only uses its CPU device
 * needs neither. A library that is missing is named, with where it was looked for. */
#pragma once
#include "cuda/cuda.cuh"
#include <cublasLt.h>
#include <cudnn.h>
struct cuda_library {
    decltype(&cublasLtMatmul) matmul;
    decltype(&cublasLtCreate) matmul_create;
    decltype(&cublasLtMatmulDescInit_internal) matmul_desc_init;
    decltype(&cublasLtMatmulDescSetAttribute) matmul_desc_set;
    decltype(&cublasLtMatrixLayoutInit_internal) layout_init;
    decltype(&cublasLtMatmulPreferenceInit_internal) preference_init;
    decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;
    decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
    decltype(&cublasLtMatmulAlgoConfigGetAttribute) algorithm_get;
    decltype(&cublasLtGetVersion) matmul_version;
    decltype(&cudnnCreate) dnn_create;
    decltype(&cudnnSetStream) dnn_set_stream;
    decltype(&cudnnGetVersion) dnn_version;
    decltype(&cudnnGetErrorString) dnn_error;
    decltype(&cudnnGetLastErrorString) dnn_last_error;
    decltype(&cudnnBackendCreateDescriptor) dnn_new;
    decltype(&cudnnBackendDestroyDescriptor) dnn_free;
    decltype(&cudnnBackendSetAttribute) dnn_set;
    decltype(&cudnnBackendGetAttribute) dnn_get;
    decltype(&cudnnBackendFinalize) dnn_finalize;
    decltype(&cudnnBackendExecute) dnn_execute;
    cublasLtHandle_t lt;
    cudnnHandle_t dnn;
};
/* Opened once by cuda_library_open(), which device_cuda_open() calls. */
bool cuda_library_open(struct err *e);
const struct cuda_library *cuda_library(void);
