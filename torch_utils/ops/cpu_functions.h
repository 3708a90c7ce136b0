// Elementary functions of vectors, for CPU kernels.
#pragma once
#include "cpu_vectors.h"

namespace pix2pix3d {

typedef int32_t Integers __attribute__((vector_size(4 * kLanes)));

// -|x|, by setting the sign.
inline Vector negative_absolute(Vector x) {
    return reinterpret_cast<Vector>(reinterpret_cast<Integers>(x) | (Integers{} + INT32_MIN));
}

// exp(x) for x <= 0, with a relative error below 2e-7; numbers below -87 give exp(-87). NaN stays NaN.
inline Vector exp_nonpositive(Vector x) {
    x = x < -87.f ? Vector{} - 87.f : x;
    // x = n log 2 + r: adding 1.5 * 2^23 rounds to a whole number, which is then in the lowest bits.
    const Vector shifted = x * 1.44269504f + 12582912.f;
    const Vector n = shifted - 12582912.f;
    const Vector r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    Vector y = 1.9875691500e-4f * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * (r * r) + r + 1.f;
    // Times 2^n, by adding n to the exponent.
    return reinterpret_cast<Vector>(reinterpret_cast<Integers>(y) + (reinterpret_cast<Integers>(shifted) << 23));
}

// log(1 + exp(x)), with an error below 1e-7 of max(1, x). NaN stays NaN.
inline Vector softplus(Vector x) {
    // log(1 + exp(x)) = max(x, 0) + log(1 + t). The polynomial approximates log(1 + t) / t for t in [0, 1].
    const Vector t = exp_nonpositive(negative_absolute(x));
    Vector y = t * -6.45251851e-3f + 3.60841453e-2f;
    y = y * t - 9.53218937e-2f;
    y = y * t + 1.67647347e-1f;
    y = y * t - 2.40730524e-1f;
    y = y * t + 3.31798196e-1f;
    y = y * t - 4.99874026e-1f;
    y = y * t + 9.99996424e-1f;
    return y * t + (x > 0.f ? x : Vector{});
}

// 1 / (1 + exp(-x)).
inline Vector sigmoid(Vector x) {
    const Vector t = exp_nonpositive(negative_absolute(x));
    return (x > 0.f ? Vector{} + 1.f : t) / (1.f + t);
}

}  // namespace pix2pix3d
