// Bias, activation, gain and clamp: value, first and second derivative, each in one pass over memory.
#include "bias_act.h"
#include "kernel_device.h"

namespace {

template <class S> struct Derivatives { S value, first, second; };

// Value and derivatives of the activation at u; at a kink, the derivative from the left, as in PyTorch.
template <class S> __device__ Derivatives<S> activate(Activation act, S u, S alpha) {
    constexpr S kSeluScale = S(1.0507009873554804934), kSeluAlpha = S(1.6732632423543772848);
    constexpr S kSoftplusLinear = S(20);  // identity above it, as in PyTorch
    switch (act) {
        case Activation::relu: return {u > 0 ? u : S(0), S(u > 0), S(0)};
        case Activation::lrelu: return {u > 0 ? u : u * alpha, u > 0 ? S(1) : alpha, S(0)};
        case Activation::tanh: {
            S t = tanh(u), d = 1 - t * t;
            return {t, d, -2 * t * d};
        }
        case Activation::sigmoid: {
            S s = 1 / (1 + exp(-u)), d = s * (1 - s);
            return {s, d, d * (1 - 2 * s)};
        }
        case Activation::elu: {
            if (u > 0) return {u, S(1), S(0)};
            S e = exp(u);
            return {expm1(u), e, e};
        }
        case Activation::selu: {
            if (u > 0) return {kSeluScale * u, kSeluScale, S(0)};
            S e = kSeluScale * kSeluAlpha * exp(u);
            return {kSeluScale * kSeluAlpha * expm1(u), e, e};
        }
        case Activation::softplus: {
            if (u > kSoftplusLinear) return {u, S(1), S(0)};
            S s = 1 / (1 + exp(-u));
            return {log1p(exp(u)), s, s * (1 - s)};
        }
        case Activation::swish: {
            S s = 1 / (1 + exp(-u)), d = s * (1 - s);
            return {u * s, s + u * d, d * (2 + u * (1 - 2 * s))};
        }
        default: return {u, S(1), S(0)};
    }
}

template <class T, class Index> __global__ void bias_act_kernel(BiasActParams p) {
    using S = typename Arithmetic<T>::type;
    const T *source = static_cast<const T*>(p.source), *b = static_cast<const T*>(p.b);
    const T *dy = static_cast<const T*>(p.dy), *ddx = static_cast<const T*>(p.ddx);
    T* out = static_cast<T*>(p.out);
    const Index size = Index(p.size), step = Index(p.step), channels = Index(p.channels);
    const S alpha = S(p.alpha), gain = S(p.gain), clamp = S(p.clamp);
    const Index stride = Index(gridDim.x) * blockDim.x;

    for (Index i = Index(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += stride) {
        S u = load(source[i]);
        if (b && !p.source_is_output) u += load(b[i / step % channels]);
        const Derivatives<S> d = activate(p.act, u, alpha);
        S y = p.source_is_output ? u : gain * d.value;
        if (p.order == 0) {
            if (clamp >= 0 && !(y != y)) y = y < -clamp ? -clamp : y > clamp ? clamp : y;  // keeps NaN
            store(out + i, y);
            continue;
        }
        // The gradient is zero where y was clamped: a stored y then equals the limit, a recomputed one exceeds it.
        const bool clamped = clamp >= 0 && (p.source_is_output ? !(y > -clamp && y < clamp) : y < -clamp || y > clamp);
        S g = gain * load(dy[i]) * (p.order == 1 ? d.first : d.second * load(ddx[i]));
        store(out + i, clamped ? S(0) : g);
    }
}

}  // namespace

const char* launch_bias_act(const BiasActParams& p, Scalar scalar, void* stream) {
    return for_scalar(scalar, [&](auto zero) {
        using T = decltype(zero);
        auto kernel = fits_32_bit(p.size) ? bias_act_kernel<T, uint32_t> : bias_act_kernel<T, uint64_t>;
        return launch_over(p.size, kernel, p, stream);
    });
}
