// Softplus in place and its gradient, on a CPU.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>

#include "cpu_functions.h"

namespace {
using namespace pix2pix3d;

constexpr int64_t kVectorsPerThread = 1024;  // fewer are not worth a thread

void check(const at::Tensor& t, const char* name) {
    TORCH_CHECK_VALUE(t.scalar_type() == at::kFloat && t.is_contiguous(), name, ": expected contiguous float, got ",
                      t.scalar_type(), " ", t.sizes(), " with strides ", t.strides());
}

// out[i] = function(a[i], b[i]), where out may be a or b.
template <class Function> void for_each(const float* a, const float* b, float* out, int64_t size, Function function) {
    at::parallel_for(0, divide_up(size, kLanes), kVectorsPerThread, [&](int64_t first, int64_t last) {
        const int64_t whole = std::min(last, size / kLanes);
        for (int64_t i = first * kLanes; i < whole * kLanes; i += kLanes)
            store(out + i, function(load(a + i), load(b + i)));
        if (whole == last) return;

        // The last vector is not full.
        const int64_t start = whole * kLanes, rest = size - start;
        float last_a[kLanes] = {}, last_b[kLanes] = {};
        std::copy_n(a + start, rest, last_a);
        std::copy_n(b + start, rest, last_b);
        store(last_a, function(load(last_a), load(last_b)));
        std::copy_n(last_a, rest, out + start);
    });
}

// x = log(1 + exp(x)).
void softplus_in_place(at::Tensor x) {
    check(x, "x");
    float* data = x.mutable_data_ptr<float>();
    for_each(data, data, data, x.numel(), [](Vector v, Vector) { return softplus(v); });
}

// dy times the derivative of softplus where its value is y, 1 - exp(-y).
at::Tensor softplus_gradient(const at::Tensor& dy, const at::Tensor& y) {
    check(dy, "dy");
    check(y, "y");
    TORCH_CHECK_VALUE(dy.sizes() == y.sizes(), "dy, y: expected the same shape, got ", dy.sizes(), " and ", y.sizes());
    at::Tensor dx = at::empty_like(y);
    for_each(dy.const_data_ptr<float>(), y.const_data_ptr<float>(), dx.mutable_data_ptr<float>(), y.numel(),
             [](Vector dy, Vector y) {
                 // A series where the difference would lose digits.
                 const Vector series = y * (1.f - y * (1.f / 2 - y * (1.f / 6 - y * (1.f / 24))));
                 return dy * (y < 0.05f ? series : 1.f - exp_nonpositive(-y));
             });
    return dx;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(pix2pix3d, m) {
    m.def("softplus_in_place(Tensor(a!) x) -> ()");
    m.def("softplus_gradient(Tensor dy, Tensor y) -> Tensor");
}

TORCH_LIBRARY_IMPL(pix2pix3d, CPU, m) {
    m.impl("softplus_in_place", softplus_in_place);
    m.impl("softplus_gradient", softplus_gradient);
}
