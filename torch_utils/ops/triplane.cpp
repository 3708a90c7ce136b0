// Tri-plane features at points and the MLPs on them, on a CPU, for rendering without gradients.
//
// Per block of points that stays in the cache: bilinear samples of all maps, hidden values of every head, and the raw
// density; outputs only of heads whose last layer cannot be deferred.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "cpu_functions.h"

namespace {
using namespace pix2pix3d;

constexpr int64_t kPointsPerBlock = 48;  // a multiple of kRows
constexpr int64_t kPointsAhead = 6, kFloatsPerLine = 16;  // of prefetching
constexpr int64_t kBorderBefore = 1, kBorderAfter = 2;  // as in training/volumetric_rendering/planes.py

constexpr float kSigmoidWidening = 0.001f;  // as in training/networks/decoders.py

inline Vector maximum(Vector x, Vector y) { return x > y ? x : y; }

// Pairwise, which needs fewer steps after each other.
inline float add_lanes(Vector x) {
    float lanes[kLanes];
    store(lanes, x);
    for (int half = kLanes / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) lanes[i] += lanes[half + i];
    return lanes[0];
}

// --------------------------------------------------------------------------- maps

// J maps for each of N scenes, as rows of channels, with a border of zeros: see FoldedPlanes in planes.py.
struct Maps {
    const float* table;
    int64_t channels, size, count;
    const int64_t* axes;  // (column, row) coordinate of each map
    float scale, offset;  // of world units to pixels

    int64_t width() const { return size + kBorderBefore + kBorderAfter; }
};

// Samples `count` points, the first of which is number `first` of all, bilinearly on each map, and adds the maps up.
// points: 3,N,K of which `total` is N K, and `per_scene` K; features: count,channels.
void sample_maps(const Maps& maps, const float* points, int64_t total, int64_t per_scene, int64_t first, int64_t count,
                 float* features) {
    // Pixel coordinates, clamped to the border of zeros; NaN counts as outside.
    int64_t corner[3][kPointsPerBlock];
    float after[3][kPointsPerBlock];
    for (int axis = 0; axis < 3; ++axis) {
        const float* from = points + axis * total + first;
        for (int64_t i = 0; i < count; ++i) {
            const float pixel = from[i] * maps.scale + maps.offset;
            const float clamped = pixel >= -1.f ? std::min(pixel, static_cast<float>(maps.size)) : -1.f;
            const float whole = std::floor(clamped);
            after[axis][i] = clamped - whole;
            corner[axis][i] = static_cast<int64_t>(whole) + kBorderBefore;
        }
    }

    // Four neighbors on each map, whose first is at `neighbor(i, j)`.
    const int64_t channels = maps.channels, row = maps.width() * channels;
    const auto neighbor = [&](int64_t i, int64_t j) {
        const int64_t scene = (first + i) / per_scene;
        const int64_t u = maps.axes[2 * j], v = maps.axes[2 * j + 1];
        return maps.table + ((scene * maps.count + j) * maps.width() + corner[v][i]) * row + corner[u][i] * channels;
    };
    for (int64_t i = 0; i < count; ++i) {
        for (int64_t j = 0; j < maps.count && i + kPointsAhead < count; ++j) {
            const float* ahead = neighbor(i + kPointsAhead, j);
            for (int64_t c = 0; c < 2 * channels; c += kFloatsPerLine) {
                __builtin_prefetch(ahead + c);
                __builtin_prefetch(ahead + row + c);
            }
        }
        float* to = features + i * channels;
        for (int64_t j = 0; j < maps.count; ++j) {
            const float right = after[maps.axes[2 * j]][i], below = after[maps.axes[2 * j + 1]][i];
            const float w11 = below * right, w10 = below - w11, w01 = right - w11, w00 = 1.f - right - w10;
            const float* from = neighbor(i, j);
            for (int64_t c = 0; c < channels; c += kLanes) {
                const Vector sum = w00 * load(from + c) + w01 * load(from + channels + c) + w10 * load(from + row + c) +
                                   w11 * load(from + row + channels + c);
                store(to + c, j ? load(to + c) + sum : sum);
            }
        }
    }
}

// --------------------------------------------------------------------------- heads

// One MLP: linear, softplus, linear. Matrices are in panels of kPanel columns, the last of which may be partly zeros.
struct Head {
    int64_t first_input, inputs, hidden, outputs;  // outputs without the density
    int64_t first_logit, last_logit;  // outputs without sigmoid
    bool has_density;
    std::vector<float> weight0, weight1, bias1, density;
    const float* bias0;
    float density_bias;
    float* result;

    // Without sigmoid on any output, the last layer is left to the caller.
    bool deferred() const { return first_logit == 0 && last_logit == outputs; }
    int64_t width() const { return deferred() ? hidden : outputs; }
};

// Columns `first` on of a contiguous matrix, in panels.
std::vector<float> pack_panels(const at::Tensor& matrix, int64_t first) {
    const int64_t rows = matrix.size(0), columns = matrix.size(1);
    std::vector<float> packed(divide_up(columns - first, kPanel) * rows * kPanel);
    const float* from = matrix.const_data_ptr<float>();
    for (int64_t k = 0; k < rows; ++k)
        for (int64_t j = first; j < columns; ++j)
            packed[((j - first) / kPanel * rows + k) * kPanel + (j - first) % kPanel] = from[k * columns + j];
    return packed;
}

// Rows of a multiple of kRows: y (rows,panels*kPanel) = a (rows,depth) times packed panels.
void multiply(const float* a, int64_t a_stride, const std::vector<float>& packed, int64_t depth, int64_t rows,
              float* y, int64_t y_stride) {
    const int64_t panels = static_cast<int64_t>(packed.size()) / (depth * kPanel);
    for (int64_t panel = 0; panel < panels; ++panel)
        for (int64_t i = 0; i < rows; i += kRows)
            multiply_panel(a + i * a_stride, a_stride, packed.data() + panel * depth * kPanel, depth,
                           y + i * y_stride + panel * kPanel, y_stride);
}

// Hidden values in place, and the density at `count` points; sigma null if it is not wanted.
void activate_hidden(const Head& head, float* hidden, int64_t count, float* result, float* sigma) {
    for (int64_t i = 0; i < count; ++i) {
        Vector sum{};
        for (int64_t c = 0; c < head.hidden; c += kLanes) {
            const Vector value = softplus(load(hidden + i * head.hidden + c) + load(head.bias0 + c));
            store(result + i * head.hidden + c, value);
            if (sigma) sum += value * load(head.density.data() + c);
        }
        if (!sigma) continue;
        sigma[i] = head.density_bias + add_lanes(sum);
    }
}

// Outputs with bias and sigmoid; `out` has a row of panels for each point.
void activate_outputs(const Head& head, const float* out, int64_t stride, int64_t count, float* result) {
    std::vector<float> values(stride);
    for (int64_t i = 0; i < count; ++i) {
        for (int64_t c = 0; c < stride; c += kLanes) {
            const Vector x = load(out + i * stride + c) + load(head.bias1.data() + c);
            store(values.data() + c, sigmoid(x) * (1.f + 2 * kSigmoidWidening) - kSigmoidWidening);
        }
        for (int64_t c = head.first_logit; c < head.last_logit; ++c) values[c] = out[i * stride + c] + head.bias1[c];
        std::memcpy(result + i * head.outputs, values.data(), sizeof(float) * head.outputs);
    }
}

// --------------------------------------------------------------------------- operator

void check(const at::Tensor& t, at::IntArrayRef sizes, const char* name) {
    TORCH_CHECK_VALUE(t.scalar_type() == at::kFloat && t.is_contiguous() && t.sizes() == sizes, name,
                      ": expected contiguous float of shape ", sizes, ", got ", t.scalar_type(), " ", t.sizes(),
                      " with strides ", t.strides());
}

// weights: weight0 (C,hidden), bias0, weight1 (hidden,1+outputs), bias1; ranges: inputs and logits, first and last.
Head make_head(const at::Tensor* weights, const int64_t* ranges, int64_t channels, bool has_density) {
    Head head{ranges[0], ranges[1] - ranges[0], weights[0].size(-1), weights[3].size(-1) - 1, ranges[2], ranges[3],
              has_density};
    TORCH_CHECK_VALUE(0 <= ranges[0] && ranges[0] < ranges[1] && ranges[1] <= channels, "inputs: expected 0 to ",
                      channels, ", got ", ranges[0], " to ", ranges[1]);
    TORCH_CHECK_VALUE(0 <= ranges[2] && ranges[2] <= ranges[3] && ranges[3] <= head.outputs, "logits: expected 0 to ",
                      head.outputs, ", got ", ranges[2], " to ", ranges[3]);
    TORCH_CHECK_VALUE(head.hidden > 0 && head.hidden % kPanel == 0, "hidden: expected a multiple of ", kPanel, ", got ",
                      head.hidden);
    check(weights[0], {head.inputs, head.hidden}, "weight0");
    check(weights[1], {head.hidden}, "bias0");
    check(weights[2], {head.hidden, 1 + head.outputs}, "weight1");
    check(weights[3], {1 + head.outputs}, "bias1");

    head.weight0 = pack_panels(weights[0], 0);
    head.weight1 = pack_panels(weights[2], 1);
    head.bias0 = weights[1].const_data_ptr<float>();
    const float* bias1 = weights[3].const_data_ptr<float>();
    head.density_bias = bias1[0];
    head.bias1.assign(round_up(head.outputs, kPanel), 0);
    std::copy_n(bias1 + 1, head.outputs, head.bias1.begin());
    const float* weight1 = weights[2].const_data_ptr<float>();
    for (int64_t k = 0; k < head.hidden; ++k) head.density.push_back(weight1[k * (1 + head.outputs)]);
    return head;
}

// Decodes points `first` to `last`.
void decode(const Maps& maps, const std::vector<Head>& heads, const at::Tensor& points, int64_t first, int64_t last,
            float* sigma) {
    const int64_t per_scene = points.size(2), total = points.size(1) * per_scene;
    int64_t hidden = 0, outputs = 0;
    for (const Head& head : heads) {
        hidden = std::max(hidden, head.hidden);
        outputs = std::max(outputs, round_up(head.outputs, kPanel));
    }
    // Zeros, since a last block with fewer points still computes with whole groups of kRows.
    std::vector<float> memory(kPointsPerBlock * (maps.channels + hidden + outputs));
    float* features = memory.data();
    float* layer0 = features + kPointsPerBlock * maps.channels;
    float* layer1 = layer0 + kPointsPerBlock * hidden;

    for (int64_t k = first; k < last; k += kPointsPerBlock) {
        const int64_t count = std::min(kPointsPerBlock, last - k), rows = round_up(count, kRows);
        sample_maps(maps, points.const_data_ptr<float>(), total, per_scene, k, count, features);
        for (const Head& head : heads) {
            float* result = head.result + k * head.width();
            float* density = head.has_density ? sigma + k : nullptr;
            multiply(features + head.first_input, maps.channels, head.weight0, head.inputs, rows, layer0, head.hidden);
            activate_hidden(head, layer0, count, head.deferred() ? result : layer0, density);
            if (head.deferred()) continue;
            const int64_t stride = round_up(head.outputs, kPanel);
            multiply(layer0, head.hidden, head.weight1, head.hidden, rows, layer1, stride);
            activate_outputs(head, layer1, stride, count, result);
        }
    }
}

// Deferred features N,K,any of each head and raw density N,K,1 of the last, as decode_deferred in decoders.py, at
// points 3,N,K.
std::tuple<std::vector<at::Tensor>, at::Tensor> decode_triplanes(const at::Tensor& points, const at::Tensor& table,
                                                                 int64_t size, at::IntArrayRef axes, double box_warp,
                                                                 at::TensorList weights, at::IntArrayRef ranges) {
    TORCH_CHECK_VALUE(points.dim() == 3 && points.size(0) == 3, "points: expected 3,N,K, got ", points.sizes());
    TORCH_CHECK_VALUE(table.dim() == 2 && table.size(1) % kLanes == 0, "table: expected 2 axes, the last a multiple of ",
                      kLanes, ", got ", table.sizes());
    TORCH_CHECK_VALUE(size > 0 && box_warp > 0, "size, box_warp: expected more than 0, got ", size, ", ", box_warp);
    for (int64_t axis : axes) TORCH_CHECK_VALUE(0 <= axis && axis < 3, "axes: expected 0 to 2, got ", axes);
    TORCH_CHECK_VALUE(!weights.empty() && weights.size() == ranges.size() && weights.size() % 4 == 0,
                      "weights, ranges: expected 4 each for every head, got ", weights.size(), ", ", ranges.size());
    const Maps maps{table.const_data_ptr<float>(), table.size(1), size, static_cast<int64_t>(axes.size()) / 2,
                    axes.data(), static_cast<float>(size / box_warp), static_cast<float>(size - 1) / 2};
    check(points, points.sizes(), "points");
    check(table, {points.size(1) * maps.count * maps.width() * maps.width(), maps.channels}, "table");

    std::vector<Head> heads;
    std::vector<at::Tensor> results;
    for (size_t i = 0; i < weights.size(); i += 4) {
        heads.push_back(make_head(&weights[i], &ranges[i], maps.channels, i + 4 == weights.size()));
        results.push_back(at::empty({points.size(1), points.size(2), heads.back().width()}, points.options()));
        heads.back().result = results.back().mutable_data_ptr<float>();
    }
    at::Tensor sigma = at::empty({points.size(1), points.size(2), 1}, points.options());
    float* sigma_data = sigma.mutable_data_ptr<float>();

    // Whole blocks for each thread.
    const int64_t total = points.size(1) * points.size(2);
    at::parallel_for(0, divide_up(total, kPointsPerBlock), 1, [&](int64_t first, int64_t last) {
        decode(maps, heads, points, first * kPointsPerBlock, std::min(total, last * kPointsPerBlock), sigma_data);
    });
    return {results, sigma};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(pix2pix3d, m) {
    m.def(
        "decode_triplanes(Tensor points, Tensor table, int size, int[] axes, float box_warp, Tensor[] weights, "
        "int[] ranges) -> (Tensor[], Tensor)");
}

TORCH_LIBRARY_IMPL(pix2pix3d, CPU, m) { m.impl("decode_triplanes", decode_triplanes); }
