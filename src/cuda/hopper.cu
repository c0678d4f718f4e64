/* hopper.cu - see hopper.cuh. The driver's encoder is found at run time: nothing links against the driver. */
#include "cuda/hopper.cuh"

CUtensorMap cuda_tensor_map(const void *at, bool wide, int64_t n0, int64_t n1, int64_t n2, int64_t line,
                            int64_t plane, int box0, int box1)
{
    static decltype(&cuTensorMapEncodeTiled) encode;
    const uint64_t bytes = wide ? 4 : 2;
    const cuuint64_t n[3] = { (cuuint64_t)n0, (cuuint64_t)n1, (cuuint64_t)n2 },
                     strides[2] = { (cuuint64_t)line * bytes, (cuuint64_t)plane * bytes };
    const cuuint32_t box[3] = { (cuuint32_t)box0, (cuuint32_t)box1, 1 }, each[3] = { 1, 1, 1 };
    CUtensorMap map;
    const int box_bytes = box0 * (int)bytes;
    CHECK(box_bytes == 256 || box_bytes == 128 || box_bytes == 64, "boxes of %d elements of %d bytes", box0,
          (int)bytes);
    if (!encode) {
        cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
        CUDA_DO(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", (void **)&encode, 12000,
                                                 cudaEnableDefault, &found));
        CHECK(encode && found == cudaDriverEntryPointSuccess, "the driver has no cuTensorMapEncodeTiled");
    }
    const CUresult status =
        encode(&map, wide ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3,
               (void *)(uintptr_t)at, n, strides, box, each, CU_TENSOR_MAP_INTERLEAVE_NONE,
               box_bytes == 256   ? CU_TENSOR_MAP_SWIZZLE_NONE
               : box_bytes == 128 ? CU_TENSOR_MAP_SWIZZLE_128B
                                  : CU_TENSOR_MAP_SWIZZLE_64B,
               CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    CHECK(status == CUDA_SUCCESS,
          "tensor of [%lld, %lld, %lld] elements of %d bytes at %p, boxes of %d x %d: error %d",
          (long long)n2, (long long)n1, (long long)n0, (int)bytes, at, box1, box0, (int)status);
    return map;
}
