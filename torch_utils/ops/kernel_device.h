// What the kernels share on the device: numbers they compute with, and how an element becomes one.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "kernel_types.h"

// Halves are stored, never computed with. Named conversions: PyTorch's build flags remove the implicit ones.
template <class T> struct Arithmetic { using type = float; };
template <> struct Arithmetic<double> { using type = double; };

__device__ inline double load(double v) { return v; }
__device__ inline float load(float v) { return v; }
__device__ inline float load(__half v) { return __half2float(v); }
__device__ inline float load(__nv_bfloat16 v) { return __bfloat162float(v); }

__device__ inline void store(double* to, double v) { *to = v; }
__device__ inline void store(float* to, float v) { *to = v; }
__device__ inline void store(__half* to, float v) { *to = __float2half_rn(v); }
__device__ inline void store(__nv_bfloat16* to, float v) { *to = __float2bfloat16_rn(v); }

// One launch over `size` elements; each thread takes several, a grid's width apart.
template <class Params> cudaError_t launch_over(int64_t size, void (*kernel)(Params), const Params& p, void* stream) {
    constexpr int64_t kThreads = 256, kElementsPerThread = 4;
    const int64_t blocks = (size + kThreads * kElementsPerThread - 1) / (kThreads * kElementsPerThread);
    if (blocks == 0) return cudaSuccess;  // a launch of no blocks is an error
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(unsigned(blocks < INT32_MAX ? blocks : INT32_MAX));
    config.blockDim = dim3(unsigned(kThreads));
    config.stream = static_cast<cudaStream_t>(stream);
    return cudaLaunchKernelEx(&config, kernel, p);
}

// 32-bit division is several times cheaper. Up to this size i + stride cannot wrap around in 32 bits.
inline bool fits_32_bit(int64_t size) { return size < INT32_MAX; }

// run(T()) with the element type that `scalar` names.
template <class Run> const char* for_scalar(Scalar scalar, Run run) {
    cudaError_t error = cudaErrorInvalidValue;
    switch (scalar) {
        case Scalar::f64: error = run(double()); break;
        case Scalar::f32: error = run(float()); break;
        case Scalar::f16: error = run(__half()); break;
        case Scalar::bf16: error = run(__nv_bfloat16()); break;
    }
    return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}
