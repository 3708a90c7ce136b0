// Parameters of the upfirdn2d kernel. Without PyTorch headers, because device code includes only CUDA.
#pragma once

#include <cstdint>

#include "kernel_types.h"

// One image axis.
struct Axis {
    int64_t in, out;                  // pixels
    int64_t in_stride, out_stride;    // elements
    int up, down, pad, taps;          // pad: upsampled pixels before the first one, negative crops
};

struct Upfirdn2dParams {
    const void* x;        // batch * channels * y.in * x_axis.in elements at the strides below
    const float* f;       // y.taps * x_axis.taps taps, row-major
    void* out;            // batch * channels * y.out * x_axis.out elements at the strides below
    Axis x_axis, y_axis;
    int64_t batch, channels;
    int64_t in_batch_stride, in_channel_stride, out_batch_stride, out_channel_stride;
    bool channels_last;   // axis along which consecutive threads run: channels, or x if false
    bool flip;            // correlate instead of convolve
    float gain;
};

// Returns null, or CUDA's error message.
const char* launch_upfirdn2d(const Upfirdn2dParams& params, Scalar scalar, void* stream);
