// Checks of tensors shared by all kernels.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include "kernel_types.h"

// CUDA in build.py; CPU in tests that run the kernels without a GPU.
#ifndef KERNEL_DEVICE
#error "define KERNEL_DEVICE as the dispatch key of the kernels"
#endif

inline Scalar scalar_of(const at::Tensor& t, const char* name) {
    switch (t.scalar_type()) {
        case at::kDouble: return Scalar::f64;
        case at::kFloat: return Scalar::f32;
        case at::kHalf: return Scalar::f16;
        case at::kBFloat16: return Scalar::bf16;
        default: TORCH_CHECK_VALUE(false, name, ": expected float64, float32, float16 or bfloat16, got ", t.scalar_type());
    }
}

inline void check_dense(const at::Tensor& t, const char* name) {
    TORCH_CHECK_VALUE(t.is_non_overlapping_and_dense(), name, ": expected a dense tensor, got ", t.sizes(), " with strides ", t.strides());
}

inline void check_launch(const char* error, const char* kernel) {
    TORCH_CHECK(error == nullptr, kernel, " kernel: ", error);
}
