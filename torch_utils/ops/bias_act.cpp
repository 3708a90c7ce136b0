// Checks and binding of the bias_act kernel; the arithmetic is in bias_act.cu.
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "bias_act.h"
#include "kernel_checks.h"

namespace {

using OptionalTensor = std::optional<at::Tensor>;

// Checks that an optional tensor is passed exactly if needed, with the type and layout of `source`; returns its data.
const void* same_layout(const OptionalTensor& t, const at::Tensor& source, bool needed, const char* name) {
    TORCH_CHECK_VALUE(t.has_value() == needed, name, needed ? ": missing for" : ": not used by", " this order");
    if (!needed) return nullptr;
    TORCH_CHECK_VALUE(t->device() == source.device() && t->scalar_type() == source.scalar_type(),
                      name, ": expected ", source.options(), ", got ", t->options());
    TORCH_CHECK_VALUE(t->sizes() == source.sizes() && t->strides() == source.strides(),
                      name, ": expected ", source.sizes(), " with strides ", source.strides(),
                      ", got ", t->sizes(), " with strides ", t->strides());
    return t->const_data_ptr();
}

at::Tensor bias_act(const at::Tensor& source, bool source_is_output, const OptionalTensor& b, const OptionalTensor& dy,
                    const OptionalTensor& ddx, int64_t order, int64_t dim, int64_t act, double alpha, double gain,
                    double clamp, int64_t stream) {
    check_dense(source, "source");
    TORCH_CHECK_VALUE(order >= 0 && order <= 2, "order: expected 0, 1 or 2, got ", order);
    TORCH_CHECK_VALUE(act >= 0 && act < int64_t(Activation::count), "act: unknown number ", act);
    TORCH_CHECK_VALUE(!source_is_output || (order > 0 && act <= int64_t(Activation::lrelu) && gain > 0 && alpha >= 0),
                      "source_is_output: the output of this activation does not determine its derivative");

    BiasActParams p = {};
    p.step = p.channels = 1;
    if (b.has_value()) {
        TORCH_CHECK_VALUE(dim >= 0 && dim < source.dim(), "dim: expected 0 to ", source.dim() - 1, ", got ", dim);
        TORCH_CHECK_VALUE(b->dim() == 1 && b->size(0) == source.size(dim) && b->is_contiguous(),
                          "b: expected ", source.size(dim), " contiguous values, got ", b->sizes());
        TORCH_CHECK_VALUE(b->device() == source.device() && b->scalar_type() == source.scalar_type(),
                          "b: expected ", source.options(), ", got ", b->options());
        p.b = b->const_data_ptr();
        p.channels = source.size(dim);
        p.step = std::max<int64_t>(1, source.stride(dim));  // axes of size 1 may have any stride, even 0
    }
    at::Tensor out = at::empty_like(source);
    p.source = source.const_data_ptr();
    p.dy = same_layout(dy, source, order >= 1, "dy");
    p.ddx = same_layout(ddx, source, order == 2, "ddx");
    p.out = out.data_ptr();
    p.size = source.numel();
    p.order = int(order);
    p.source_is_output = source_is_output;
    p.act = Activation(act);
    p.alpha = alpha;
    p.gain = gain;
    p.clamp = clamp;
    check_launch(launch_bias_act(p, scalar_of(source, "source"), reinterpret_cast<void*>(stream)), "bias_act");
    return out;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(pix2pix3d, m) {
    m.def(
        "bias_act(Tensor source, bool source_is_output, Tensor? b, Tensor? dy, Tensor? ddx, int order, int dim, "
        "int act, float alpha, float gain, float clamp, int stream) -> Tensor");
}

TORCH_LIBRARY_IMPL(pix2pix3d, KERNEL_DEVICE, m) { m.impl("bias_act", bias_act); }
