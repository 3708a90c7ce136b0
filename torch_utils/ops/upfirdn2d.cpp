// Checks and binding of the upfirdn2d kernel; the arithmetic is in upfirdn2d.cu.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <limits>

#include "kernel_checks.h"
#include "upfirdn2d.h"

namespace {

Axis axis_of(const at::Tensor& x, int64_t dim, int64_t taps, int64_t up, int64_t down, int64_t pad0, int64_t pad1) {
    constexpr int64_t kMax = std::numeric_limits<int>::max();
    TORCH_CHECK_VALUE(up >= 1 && down >= 1, "up, down: expected 1 or more, got ", up, ", ", down);
    const int64_t covered = x.size(dim) * up + pad0 + pad1 - taps;  // last position of the filter
    TORCH_CHECK_VALUE(x.size(dim) >= 1 && covered >= 0, "x: ", x.sizes(), " is smaller than the filter's ", taps, " taps along axis ", dim);
    TORCH_CHECK_VALUE(x.size(dim) * up < kMax && covered < kMax && std::abs(pad0) < kMax, "x: ", x.sizes(), " is too large");
    Axis a = {};
    a.in = x.size(dim);
    a.out = covered / down + 1;
    a.in_stride = x.stride(dim);
    a.up = int(up);
    a.down = int(down);
    a.pad = int(pad0);
    a.taps = int(taps);
    return a;
}

at::Tensor upfirdn2d(const at::Tensor& x, const at::Tensor& f, int64_t up_x, int64_t up_y, int64_t down_x,
                     int64_t down_y, at::IntArrayRef padding, bool flip, double gain, int64_t stream) {
    TORCH_CHECK_VALUE(x.dim() == 4, "x: expected N,C,H,W, got ", x.sizes());
    TORCH_CHECK_VALUE(f.dim() == 2 && f.numel() > 0 && f.is_contiguous() && f.scalar_type() == at::kFloat,
                      "f: expected contiguous float32 kh,kw, got ", f.sizes(), " ", f.scalar_type());
    TORCH_CHECK_VALUE(f.device() == x.device(), "f: expected on ", x.device(), ", got ", f.device());
    TORCH_CHECK_VALUE(padding.size() == 4, "padding: expected 4 numbers, got ", padding);

    Upfirdn2dParams p = {};
    p.x_axis = axis_of(x, 3, f.size(1), up_x, down_x, padding[0], padding[1]);
    p.y_axis = axis_of(x, 2, f.size(0), up_y, down_y, padding[2], padding[3]);
    const at::MemoryFormat format = x.suggest_memory_format();
    at::Tensor out = at::empty({x.size(0), x.size(1), p.y_axis.out, p.x_axis.out}, x.options(), format);
    p.x = x.const_data_ptr();
    p.f = f.const_data_ptr<float>();
    p.out = out.data_ptr();
    p.x_axis.out_stride = out.stride(3);
    p.y_axis.out_stride = out.stride(2);
    p.batch = x.size(0);
    p.channels = x.size(1);
    p.in_batch_stride = x.stride(0);
    p.in_channel_stride = x.stride(1);
    p.out_batch_stride = out.stride(0);
    p.out_channel_stride = out.stride(1);
    p.channels_last = format == at::MemoryFormat::ChannelsLast;
    p.flip = flip;
    p.gain = float(gain);
    check_launch(launch_upfirdn2d(p, scalar_of(x, "x"), reinterpret_cast<void*>(stream)), "upfirdn2d");
    return out;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(pix2pix3d, m) {
    m.def(
        "upfirdn2d(Tensor x, Tensor f, int up_x, int up_y, int down_x, int down_y, int[] padding, bool flip, "
        "float gain, int stream) -> Tensor");
}

TORCH_LIBRARY_IMPL(pix2pix3d, KERNEL_DEVICE, m) { m.impl("upfirdn2d", upfirdn2d); }
