// Upsample, pad, FIR filter, downsample: one thread per output value, which skips the inserted zeros.
#include "kernel_device.h"
#include "upfirdn2d.h"

namespace {

// First input pixel under the filter at an output position, and its tap.
struct Reach { int pixel, tap; };

// Output o covers upsampled pixels o*down - pad + (0 .. taps-1); every up-th of them is an input pixel.
__device__ Reach first_reach(int64_t o, const Axis& a, int up) {
    const int64_t start = o * a.down - a.pad;
    const int64_t pixel = start <= 0 ? 0 : (start + up - 1) / up;
    const int64_t tap = pixel * up - start;
    return {int(pixel), int(tap < a.taps ? tap : a.taps)};
}

// Constant UP and TAPS let the compiler unroll the loops for common filters; 0 = use the parameters.
template <class T, class Index, int UP, int TAPS> __global__ void upfirdn2d_kernel(Upfirdn2dParams p) {
    using S = typename Arithmetic<T>::type;
    const int up_x = UP ? UP : p.x_axis.up, up_y = UP ? UP : p.y_axis.up;
    const int taps_x = TAPS ? TAPS : p.x_axis.taps, taps_y = TAPS ? TAPS : p.y_axis.taps;
    const Index width = Index(p.x_axis.out), height = Index(p.y_axis.out), channels = Index(p.channels);
    const Index size = Index(p.batch) * channels * height * width;
    const Index stride = Index(gridDim.x) * blockDim.x;

    for (Index i = Index(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += stride) {
        Index c, ox, oy, n;
        if (p.channels_last) {
            c = i % channels, ox = i / channels % width, oy = i / channels / width % height;
            n = i / channels / width / height;
        } else {
            ox = i % width, oy = i / width % height, c = i / width / height % channels;
            n = i / width / height / channels;
        }
        const Reach rx = first_reach(ox, p.x_axis, up_x), ry = first_reach(oy, p.y_axis, up_y);
        const T* plane = static_cast<const T*>(p.x) + n * p.in_batch_stride + c * p.in_channel_stride;
        S sum = 0;
#pragma unroll
        for (int k = 0; k < (taps_y + up_y - 1) / up_y; ++k) {
            const int y = ry.pixel + k, ty = ry.tap + k * up_y;
            if (ty >= taps_y || y >= p.y_axis.in) break;
            const T* row = plane + y * p.y_axis.in_stride;
            const float* taps = p.f + (p.flip ? ty : taps_y - 1 - ty) * taps_x;
#pragma unroll
            for (int j = 0; j < (taps_x + up_x - 1) / up_x; ++j) {
                const int x = rx.pixel + j, tx = rx.tap + j * up_x;
                if (tx >= taps_x || x >= p.x_axis.in) break;
                sum += load(row[x * p.x_axis.in_stride]) * S(taps[p.flip ? tx : taps_x - 1 - tx]);
            }
        }
        T* out = static_cast<T*>(p.out) + n * p.out_batch_stride + c * p.out_channel_stride;
        store(out + oy * p.y_axis.out_stride + ox * p.x_axis.out_stride, sum * S(p.gain));
    }
}

template <class T> auto kernel_for(const Upfirdn2dParams& p, int64_t size) {
    const bool four_taps = p.x_axis.taps == 4 && p.y_axis.taps == 4 && p.x_axis.up == p.y_axis.up;
    if (!fits_32_bit(size)) return upfirdn2d_kernel<T, uint64_t, 0, 0>;
    if (four_taps && p.x_axis.up == 1) return upfirdn2d_kernel<T, uint32_t, 1, 4>;
    if (four_taps && p.x_axis.up == 2) return upfirdn2d_kernel<T, uint32_t, 2, 4>;
    return upfirdn2d_kernel<T, uint32_t, 0, 0>;
}

}  // namespace

const char* launch_upfirdn2d(const Upfirdn2dParams& p, Scalar scalar, void* stream) {
    const int64_t size = p.batch * p.channels * p.y_axis.out * p.x_axis.out;
    return for_scalar(scalar, [&](auto zero) {
        return launch_over(size, kernel_for<decltype(zero)>(p, size), p, stream);
    });
}
