/* peer_cuda.cu - memory of other processes' devices, and words of the host that streams wait for (device.h). */
extern "C" {
#include "device/device_impl.h"
}
#include "cuda/hopper.cuh"
#include <string.h>
enum { MOST_WORDS = 128 };
static decltype(&cuStreamBatchMemOp) batch;
static const char *host_base;
static CUdeviceptr device_base;

bool device_share_cuda(void *memory, struct device_ticket *t)
{
    cudaIpcMemHandle_t h;
    static_assert(sizeof h <= sizeof t->bytes, "a ticket has room for a handle");
    if (cudaIpcGetMemHandle(&h, memory) != cudaSuccess) {
        cudaGetLastError();
        return false;
    }
    memcpy(t->bytes, &h, sizeof h);
    return true;
}

void *device_attach_cuda(const struct device_ticket *t)
{
    cudaIpcMemHandle_t h;
    void *memory = NULL;
    memcpy(&h, t->bytes, sizeof h);
    if (cudaIpcOpenMemHandle(&memory, h, cudaIpcMemLazyEnablePeerAccess) != cudaSuccess) {
        cudaGetLastError();
        return NULL;
    }
    return memory;
}

void device_detach_cuda(void *attached)
{
    CUDA_DO(cudaIpcCloseMemHandle(attached));
}

bool device_see_cuda(void *host, size_t bytes)
{
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    void *there = NULL;
    if (cudaGetDriverEntryPointByVersion("cuStreamBatchMemOp", (void **)&batch, 12000, cudaEnableDefault,
                                         &found) != cudaSuccess ||
        found != cudaDriverEntryPointSuccess ||
        cudaHostRegister(host, bytes, cudaHostRegisterMapped | cudaHostRegisterPortable) != cudaSuccess ||
        cudaHostGetDevicePointer(&there, host, 0) != cudaSuccess) {
        cudaGetLastError();
        return false;
    }
    host_base = (const char *)host;
    device_base = (CUdeviceptr)there;
    return true;
}

static CUdeviceptr seen(const uint32_t *word)
{
    return device_base + (CUdeviceptr)((const char *)word - host_base);
}

/* One call for all words: the write is behind all that was launched before, and a fence. */
void device_meet_cuda(uint32_t *const *word, int n, int mine, uint32_t call, void *stream)
{
    CUstreamBatchMemOpParams op[MOST_WORDS];
    unsigned n_ops = 0;
    CHECK(n < MOST_WORDS, "%d words", n);
    memset(op, 0, sizeof op);
    op[n_ops].operation = CU_STREAM_MEM_OP_WRITE_VALUE_32;
    op[n_ops].writeValue.address = seen(word[mine]);
    op[n_ops].writeValue.value = call;
    op[n_ops++].writeValue.flags = CU_STREAM_WRITE_VALUE_DEFAULT;
    for (int i = 0; i < n; i++) {
        if (i == mine)
            continue;
        op[n_ops].operation = CU_STREAM_MEM_OP_WAIT_VALUE_32;
        op[n_ops].waitValue.address = seen(word[i]);
        op[n_ops].waitValue.value = call;
        op[n_ops++].waitValue.flags = CU_STREAM_WAIT_VALUE_GEQ;
    }
    const CUresult status = batch((CUstream)stream, n_ops, op, 0);
    CHECK(status == CUDA_SUCCESS, "cuStreamBatchMemOp of %u words: error %d", n_ops, (int)status);
}
