// 3x3 convolution of stride 1 by Winograd's F(4x4, 3x3) (Lavin and Gray 2016), on a CPU, channels-last.
//
// A tile of 4x4 output pixels depends on a patch of 6x6 input pixels. With the matrices A, B and G below,
//
//     tile = A^T [ (G w G^T) * (B^T patch B) ] A        (* elementwise, summed over input channels)
//
// so that each of 36 points needs one multiplication for each pair of channels, instead of 9 * 16 = 144 in all: the sums
// over channels are 36 matrix products. Tiles are computed in blocks whose transforms stay in the cache.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>

#include "cpu_vectors.h"

namespace {
using namespace pix2pix3d;

constexpr int kTile = 4, kPatch = 6, kPoints = kPatch * kPatch;
constexpr int64_t kTilesPerBlock = 24;  // a multiple of kRows
constexpr int64_t kChannelsPerChunk = 8;  // of weights that are transposed together
// Between the points' matrices: without it, their rows would be a power of two apart, and share few lines of the cache.
constexpr int64_t kGap = 2 * kLanes;

// --------------------------------------------------------------------------- transforms of one axis

// G, with the points 0, 1, -1, 2, -2 and infinity.
inline void transform_weights_1d(const Vector w[3], Vector u[kPatch]) {
    const Vector even1 = (w[0] + w[2]) * (-1.f / 6), odd1 = w[1] * (-1.f / 6);
    const Vector even2 = w[0] * (1.f / 24) + w[2] * (1.f / 6), odd2 = w[1] * (1.f / 12);
    u[0] = w[0] * (1.f / 4);
    u[1] = even1 + odd1;
    u[2] = even1 - odd1;
    u[3] = even2 + odd2;
    u[4] = even2 - odd2;
    u[5] = w[2];
}

// B^T.
inline void transform_input_1d(const Vector x[kPatch], Vector v[kPatch]) {
    const Vector even1 = x[4] - 4 * x[2], odd1 = x[3] - 4 * x[1];
    const Vector even2 = x[4] - x[2], odd2 = 2 * (x[3] - x[1]);
    v[0] = 4 * x[0] - 5 * x[2] + x[4];
    v[1] = even1 + odd1;
    v[2] = even1 - odd1;
    v[3] = even2 + odd2;
    v[4] = even2 - odd2;
    v[5] = 4 * x[1] - 5 * x[3] + x[5];
}

// A^T.
inline void transform_output_1d(const Vector m[kPatch], Vector y[kTile]) {
    const Vector even1 = m[1] + m[2], odd1 = m[1] - m[2], even2 = m[3] + m[4], odd2 = m[3] - m[4];
    y[0] = m[0] + even1 + even2;
    y[1] = odd1 + 2 * odd2;
    y[2] = even1 + 4 * even2;
    y[3] = odd1 + 8 * odd2 + m[5];
}

// --------------------------------------------------------------------------- transforms of both axes

// `from` holds In x In vectors of channels with the given strides, `to` receives Out x Out.
template <int In, int Out, void (*Transform)(const Vector*, Vector*)>
inline void transform(const float* from, int64_t from_row, int64_t from_column, float* to, int64_t to_row,
                      int64_t to_column) {
    Vector half[Out][In];
    for (int i = 0; i < In; ++i) {
        Vector column[In], result[Out];
        for (int j = 0; j < In; ++j) column[j] = load(from + j * from_row + i * from_column);
        Transform(column, result);
        for (int j = 0; j < Out; ++j) half[j][i] = result[j];
    }
    for (int j = 0; j < Out; ++j) {
        Vector result[Out];
        Transform(half[j], result);
        for (int i = 0; i < Out; ++i) store(to + j * to_row + i * to_column, result[i]);
    }
}

// Transformed weights, one matrix for each of the points: panels of kPanel output channels, each with C rows.
struct Weights {
    at::Tensor data;
    int64_t channels, panels, point;

    const float* panel(int64_t p, int64_t i) const {
        return data.const_data_ptr<float>() + p * point + i * channels * kPanel;
    }
};

// w is O,C,3,3, contiguous.
Weights transform_weights(const at::Tensor& w) {
    const int64_t out = w.size(0), channels = w.size(1), panels = divide_up(out, kPanel);
    const int64_t point = panels * channels * kPanel + kGap;
    at::Tensor data = at::empty({kPoints * point}, w.options());
    const float* from = w.const_data_ptr<float>();
    float* to = data.mutable_data_ptr<float>();

    const int64_t chunks = divide_up(channels, kChannelsPerChunk);
    at::parallel_for(0, panels * chunks, 8, [&](int64_t first, int64_t last) {
        // Of a few input channels: the 9 weights of each, for kPanel output channels. Those that do not exist are zero.
        float kernels[kChannelsPerChunk * 9][kPanel];
        for (int64_t i = first; i < last; ++i) {
            const int64_t panel = i / chunks, c0 = i % chunks * kChannelsPerChunk;
            const int64_t columns = std::min<int64_t>(kPanel, out - panel * kPanel);
            const int64_t rows = std::min(kChannelsPerChunk, channels - c0);
            if (columns < kPanel) std::memset(kernels, 0, sizeof(kernels));
            for (int64_t j = 0; j < columns; ++j) {
                const float* row = from + ((panel * kPanel + j) * channels + c0) * 9;
                for (int64_t k = 0; k < rows * 9; ++k) kernels[k][j] = row[k];
            }
            for (int64_t c = 0; c < rows; ++c)
                for (int j = 0; j < kPanel; j += kLanes)
                    transform<3, kPatch, transform_weights_1d>(&kernels[c * 9][j], 3 * kPanel, kPanel,
                                                               to + (panel * channels + c0 + c) * kPanel + j,
                                                               kPatch * point, point);
        }
    });
    return {data, channels, panels, point};
}

// --------------------------------------------------------------------------- convolution

// An N,C,H,W image in channels-last format.
struct Image {
    int64_t batch, channels, height, width;

    int64_t offset(int64_t n, int64_t y, int64_t x) const { return ((n * height + y) * width + x) * channels; }
};

struct Convolution {
    Image in, out;
    const float* x;
    float* y;
    int64_t pad_y, pad_x;
    const Weights& weights;

    int64_t tile_rows() const { return divide_up(out.height, kTile); }
    int64_t tile_columns() const { return divide_up(out.width, kTile); }
    int64_t tiles() const { return out.batch * tile_rows() * tile_columns(); }
};

// Scratch memory of one thread. Transforms: for each point, one row of channels per tile.
struct Scratch {
    int64_t in_row, out_row, in_point, out_point;
    at::Tensor memory;
    float *in, *out, *patch, *tile;

    Scratch(int64_t channels, int64_t panels, const at::TensorOptions& options)
        : in_row(round_up(channels, kLanes)),
          out_row(panels * kPanel),
          in_point(kTilesPerBlock * in_row + kGap),
          out_point(kTilesPerBlock * out_row + kGap),
          // Zeros, since a last block with fewer tiles still computes with all of its rows.
          memory(at::zeros({kPoints * (in_point + in_row + out_point) + kTile * kTile * out_row}, options)),
          in(memory.mutable_data_ptr<float>()),
          out(in + kPoints * in_point),
          patch(out + kPoints * out_point),
          tile(patch + kPoints * in_row) {}
};

// Transforms the input of tile `index` to row `row` of the scratch memory.
void transform_patch(const Convolution& conv, int64_t index, int64_t row, Scratch& scratch) {
    const Image& in = conv.in;
    const int64_t n = index / (conv.tile_rows() * conv.tile_columns());
    const int64_t y0 = index / conv.tile_columns() % conv.tile_rows() * kTile - conv.pad_y;
    const int64_t x0 = index % conv.tile_columns() * kTile - conv.pad_x;
    const bool inside = y0 >= 0 && x0 >= 0 && y0 + kPatch <= in.height && x0 + kPatch <= in.width;

    // In place, or a copy with zeros for pixels outside of the image and for the channels of the last vector.
    const float* from;
    int64_t from_row = in.width * in.channels, from_column = in.channels;
    if (inside && in.channels % kLanes == 0) {
        from = conv.x + in.offset(n, y0, x0);
    } else {
        std::memset(scratch.patch, 0, sizeof(float) * kPoints * scratch.in_row);
        for (int64_t j = std::max<int64_t>(0, -y0); j < std::min<int64_t>(kPatch, in.height - y0); ++j)
            for (int64_t i = std::max<int64_t>(0, -x0); i < std::min<int64_t>(kPatch, in.width - x0); ++i)
                std::memcpy(scratch.patch + (j * kPatch + i) * scratch.in_row,
                            conv.x + in.offset(n, y0 + j, x0 + i), sizeof(float) * in.channels);
        from = scratch.patch;
        from_row = kPatch * scratch.in_row;
        from_column = scratch.in_row;
    }
    float* to = scratch.in + row * scratch.in_row;
    for (int64_t c = 0; c < scratch.in_row; c += kLanes)
        transform<kPatch, kPatch, transform_input_1d>(from + c, from_row, from_column, to + c,
                                                      kPatch * scratch.in_point, scratch.in_point);
}

// Writes channels `first` to `last` of tile `index` from row `row` of the scratch memory.
void transform_tile(const Convolution& conv, int64_t index, int64_t row, int64_t first, int64_t last,
                    Scratch& scratch) {
    const Image& out = conv.out;
    const int64_t n = index / (conv.tile_rows() * conv.tile_columns());
    const int64_t y0 = index / conv.tile_columns() % conv.tile_rows() * kTile;
    const int64_t x0 = index % conv.tile_columns() * kTile;
    const int64_t height = std::min<int64_t>(kTile, out.height - y0), width = std::min<int64_t>(kTile, out.width - x0);
    const bool whole = height == kTile && width == kTile && last <= out.channels && last % kLanes == 0;

    // In place, or through a tile of which the existing pixels and channels are copied.
    float* to = conv.y + out.offset(n, y0, x0);
    const int64_t to_row = whole ? out.width * out.channels : kTile * scratch.out_row;
    const int64_t to_column = whole ? out.channels : scratch.out_row;
    for (int64_t c = first; c < last; c += kLanes)
        transform<kPatch, kTile, transform_output_1d>(scratch.out + row * scratch.out_row + c,
                                                      kPatch * scratch.out_point, scratch.out_point,
                                                      (whole ? to : scratch.tile) + c, to_row, to_column);
    if (whole) return;
    const size_t bytes = sizeof(float) * (std::min(last, out.channels) - first);
    for (int64_t j = 0; j < height; ++j)
        for (int64_t i = 0; i < width; ++i)
            std::memcpy(conv.y + out.offset(n, y0 + j, x0 + i) + first,
                        scratch.tile + (j * kTile + i) * scratch.out_row + first, bytes);
}

// Computes the panels `first` to `last` of output channels of the tiles of one block.
void convolve_block(const Convolution& conv, int64_t block, int64_t first, int64_t last, Scratch& scratch) {
    const int64_t first_tile = block * kTilesPerBlock;
    const int64_t tiles = std::min(kTilesPerBlock, conv.tiles() - first_tile);
    for (int64_t i = 0; i < tiles; ++i) transform_patch(conv, first_tile + i, i, scratch);
    for (int64_t p = 0; p < kPoints; ++p)
        for (int64_t panel = first; panel < last; ++panel)
            for (int64_t i = 0; i < tiles; i += kRows)
                multiply_panel(scratch.in + p * scratch.in_point + i * scratch.in_row, scratch.in_row,
                               conv.weights.panel(p, panel), conv.in.channels,
                               scratch.out + p * scratch.out_point + i * scratch.out_row + panel * kPanel,
                               scratch.out_row);
    for (int64_t i = 0; i < tiles; ++i)
        transform_tile(conv, first_tile + i, i, first * kPanel, last * kPanel, scratch);
}

void check(const at::Tensor& t, at::MemoryFormat format, const char* name) {
    TORCH_CHECK_VALUE(t.dim() == 4 && t.scalar_type() == at::kFloat && t.is_contiguous(format), name,
                      ": expected float with 4 axes in format ", format, ", got ", t.scalar_type(), " ", t.sizes(),
                      " with strides ", t.strides());
}

// Correlates x (N,C,H,W, channels-last) with w (O,C,3,3, contiguous): N,O,H+2*pad_y-2,W+2*pad_x-2, channels-last.
at::Tensor winograd_conv3x3(const at::Tensor& x, const at::Tensor& w, int64_t pad_y, int64_t pad_x) {
    check(x, at::MemoryFormat::ChannelsLast, "x");
    check(w, at::MemoryFormat::Contiguous, "w");
    TORCH_CHECK_VALUE(w.size(1) == x.size(1) && w.size(2) == 3 && w.size(3) == 3, "w: expected O,", x.size(1),
                      ",3,3, got ", w.sizes());
    const Image in{x.size(0), x.size(1), x.size(2), x.size(3)};
    const Image out{in.batch, w.size(0), in.height + 2 * pad_y - 2, in.width + 2 * pad_x - 2};
    TORCH_CHECK_VALUE(pad_y >= 0 && pad_x >= 0 && out.height > 0 && out.width > 0, "padding: expected 0 or more and at ",
                      "least one pixel in the result, got ", pad_y, ", ", pad_x, " for ", x.sizes());

    at::Tensor y = at::empty({out.batch, out.channels, out.height, out.width}, x.options(),
                             at::MemoryFormat::ChannelsLast);
    const Weights weights = transform_weights(w);
    const Convolution conv{in, out, x.const_data_ptr<float>(), y.mutable_data_ptr<float>(), pad_y, pad_x, weights};

    // If there are fewer blocks than threads, the output channels of a block are divided too, at the price of several
    // transforms of its input. Every sum is added up in the same order in either case.
    const int64_t blocks = divide_up(conv.tiles(), kTilesPerBlock), panels = weights.panels;
    const int64_t wanted = divide_up(at::get_num_threads(), std::max<int64_t>(1, blocks));
    const int64_t panels_each = divide_up(panels, std::min(std::max<int64_t>(1, panels), wanted));
    const int64_t groups = panels ? divide_up(panels, panels_each) : 0;
    at::parallel_for(0, blocks * groups, 1, [&](int64_t first, int64_t last) {
        Scratch scratch(in.channels, panels, x.options());
        for (int64_t i = first; i < last; ++i) {
            const int64_t panel = i % groups * panels_each;
            convolve_block(conv, i / groups, panel, std::min(panels, panel + panels_each), scratch);
        }
    });
    return y;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(pix2pix3d, m) {
    m.def("winograd_conv3x3(Tensor x, Tensor w, int pad_y, int pad_x) -> Tensor");
}

TORCH_LIBRARY_IMPL(pix2pix3d, CPU, m) { m.impl("winograd_conv3x3", winograd_conv3x3); }
