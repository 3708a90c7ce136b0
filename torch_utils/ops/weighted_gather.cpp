// Gradient of weighted_gather with respect to the table, on a CPU.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

namespace {

constexpr int64_t kRowsPerThread = 4096;  // fewer are not worth a thread

void check(const at::Tensor& t, at::ScalarType type, const char* name) {
    TORCH_CHECK_VALUE(t.dim() == 2 && t.scalar_type() == type && t.is_contiguous(),
                      name, ": expected contiguous ", type, " with 2 axes, got ", t.scalar_type(), " ", t.sizes(),
                      " with strides ", t.strides());
}

// Adds weights[k][j] * dy[k] to row rows[k][j] of a table of zeros; returns table_size,C.
at::Tensor weighted_scatter(const at::Tensor& dy, const at::Tensor& rows, const at::Tensor& weights,
                            int64_t table_size) {
    check(dy, at::kFloat, "dy");
    check(rows, at::kInt, "rows");
    check(weights, at::kFloat, "weights");
    TORCH_CHECK_VALUE(rows.sizes() == weights.sizes() && rows.size(0) == dy.size(0),
                      "dy, rows, weights: expected K,C and twice K,J, got ", dy.sizes(), ", ", rows.sizes(), " and ",
                      weights.sizes());
    TORCH_CHECK_VALUE(table_size >= 0, "table_size: expected 0 or more, got ", table_size);

    const int64_t points = rows.size(0), neighbors = rows.size(1), channels = dy.size(1);
    at::Tensor table = at::zeros({table_size, channels}, dy.options());
    const float* dy_data = dy.const_data_ptr<float>();
    const int32_t* row_data = rows.const_data_ptr<int32_t>();
    const float* weight_data = weights.const_data_ptr<float>();
    float* table_data = table.mutable_data_ptr<float>();

    // Every thread reads all points and adds to its own range of rows. So no two threads write the same row, each row
    // is added up in the order of the points whatever the number of threads, and no row outside the table is written.
    at::parallel_for(0, table_size, kRowsPerThread, [&](int64_t first, int64_t last) {
        for (int64_t k = 0; k < points; ++k) {
            const float* __restrict from = dy_data + k * channels;
            for (int64_t i = k * neighbors; i < (k + 1) * neighbors; ++i) {
                const int64_t row = row_data[i];
                if (row < first || row >= last) continue;
                float* __restrict to = table_data + row * channels;
                const float weight = weight_data[i];
                for (int64_t c = 0; c < channels; ++c) to[c] += weight * from[c];
            }
        }
    });
    return table;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(pix2pix3d, m) {
    m.def("weighted_scatter(Tensor dy, Tensor rows, Tensor weights, int table_size) -> Tensor");
}

TORCH_LIBRARY_IMPL(pix2pix3d, CPU, m) { m.impl("weighted_scatter", weighted_scatter); }
