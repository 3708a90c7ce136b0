// Stands in for CUDA's header so that a plain C++ compiler runs our kernels, one thread after the other: the tests
// then check their arithmetic without a GPU. Kernels that share memory or wait for each other would need more.
#pragma once

#include <cmath>

#define __global__
#define __device__

using std::exp;
using std::expm1;
using std::log1p;
using std::tanh;

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1) : x(x_), y(1), z(1) {}
};

inline thread_local dim3 gridDim, blockDim, blockIdx, threadIdx;

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorInvalidValue };
inline const char* cudaGetErrorString(cudaError_t) { return "invalid argument"; }

struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    cudaStream_t stream;
};

template <class Params>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params), const Params& params) {
    if (config->gridDim.x == 0) return cudaErrorInvalidValue;
    gridDim = config->gridDim;
    blockDim = config->blockDim;
    for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < blockDim.x; ++threadIdx.x) kernel(params);
    return cudaSuccess;
}
