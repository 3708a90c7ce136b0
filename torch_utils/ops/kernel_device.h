// Device code shared by all kernels: conversion of element types, and launches.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "kernel_types.h"

// Type to compute in: 16-bit types are only stored. Conversions are explicit, since PyTorch's build flags disable implicit
// ones.
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

// Launches a kernel over `size` elements; each thread processes several, with the stride of the grid.
template <class Params> cudaError_t launch_over(int64_t size, void (*kernel)(Params), const Params& p, void* stream) {
    constexpr int64_t kThreads = 256, kElementsPerThread = 4;
    const int64_t blocks = (size + kThreads * kElementsPerThread - 1) / (kThreads * kElementsPerThread);
    if (blocks == 0) return cudaSuccess;  // CUDA rejects a launch without blocks
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(unsigned(blocks < INT32_MAX ? blocks : INT32_MAX));
    config.blockDim = dim3(unsigned(kThreads));
    config.stream = static_cast<cudaStream_t>(stream);
    return cudaLaunchKernelEx(&config, kernel, p);
}

// 32-bit division is several times faster. Up to this size, i + stride does not overflow 32 bits.
inline bool fits_32_bit(int64_t size) { return size < INT32_MAX; }

// Calls run(T()) with the element type T of `scalar`.
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
