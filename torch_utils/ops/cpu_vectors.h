// Vectors of floats as wide as the instructions that build.py asks for, and the product of small matrices, for CPU
// kernels. GCC and Clang compile arithmetic on these types to vector instructions on any processor.
#pragma once
#include <cstdint>

namespace pix2pix3d {

// kRows * kVectors sums, and the operands of one step, fill the vector registers: 32, or 16 without AVX-512.
#if defined(__AVX512F__)
constexpr int kLanes = 16, kRows = 12;
#elif defined(__AVX2__)
constexpr int kLanes = 8, kRows = 6;
#else
constexpr int kLanes = 4, kRows = 6;
#endif
constexpr int kVectors = 2;
constexpr int kPanel = kVectors * kLanes;  // columns of a product that are computed together

typedef float Vector __attribute__((vector_size(4 * kLanes)));
typedef float UnalignedVector __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

inline Vector load(const float* from) { return *reinterpret_cast<const UnalignedVector*>(from); }
inline void store(float* to, Vector v) { *reinterpret_cast<UnalignedVector*>(to) = v; }

inline int64_t divide_up(int64_t n, int64_t by) { return (n + by - 1) / by; }
inline int64_t round_up(int64_t n, int64_t multiple) { return divide_up(n, multiple) * multiple; }

// y = a b for kRows rows of a (kRows, depth) and one panel b (depth, kPanel), which is contiguous.
inline void multiply_panel(const float* __restrict a, int64_t a_stride, const float* __restrict b, int64_t depth,
                           float* __restrict y, int64_t y_stride) {
    // Unrolled, so that all sums stay in registers.
    Vector sums[kRows][kVectors] = {};
    for (int64_t k = 0; k < depth; ++k) {
        Vector row[kVectors];
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) row[j] = load(b + k * kPanel + j * kLanes);
#pragma GCC unroll 16
        for (int i = 0; i < kRows; ++i) {
            const float factor = a[i * a_stride + k];
#pragma GCC unroll 4
            for (int j = 0; j < kVectors; ++j) sums[i][j] += factor * row[j];
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) store(y + i * y_stride + j * kLanes, sums[i][j]);
    }
}

}  // namespace pix2pix3d
