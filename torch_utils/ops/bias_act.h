// Parameters of the bias_act kernel. Without PyTorch headers, because device code includes only CUDA.
#pragma once

#include <cstdint>

#include "kernel_types.h"

// Same order as ACTIVATIONS in bias_act.py.
enum class Activation { linear, relu, lrelu, tanh, sigmoid, elu, selu, softplus, swish, count };

// u = x + b, y = clamp(gain * act(u)). All tensors but b have the same dense layout of `size` elements.
struct BiasActParams {
    const void* source;      // size elements: x, or y where source_is_output
    const void* b;           // channels elements, or null
    const void* dy;          // size elements: gradient of y (orders 1 and 2), else null
    const void* ddx;         // size elements: gradient of dx (order 2), else null
    void* out;               // size elements: y (order 0), dx (order 1), second-order gradient of x (order 2)
    int64_t size;
    int64_t step;            // element i belongs to channel (i / step) % channels
    int64_t channels;
    int order;
    bool source_is_output;   // linear, relu, lrelu with gain > 0 and alpha >= 0 only: y has the sign of u
    Activation act;
    double alpha;
    double gain;
    double clamp;            // negative: no limit
};

// Returns null, or CUDA's error message.
const char* launch_bias_act(const BiasActParams& params, Scalar scalar, void* stream);
