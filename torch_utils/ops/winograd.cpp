// 3x3 convolutions by Winograd's method (Lavin and Gray 2016), on a CPU, channels-last.
//
// A tile of the result depends on a patch of the input. With the matrices A, B and G of a scheme,
//
//     tile = A^T [ (G w G^T) * (B^T patch B) ] A        (* elementwise, summed over input channels)
//
// so that the sums over channels are as many matrix products as there are elements in brackets. Tiles are computed in
// blocks whose transforms stay in the cache. For 4x4 pixels and every pair of channels, `Plain` needs 36
// multiplications instead of 144, `Strided` 81; `Transposed` needs 81 for 8x8 pixels instead of 144.
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

constexpr int64_t kTilesPerBlock = 24;  // a multiple of kRows
constexpr int64_t kChannelsPerChunk = 8;  // of weights that are transposed together
// Between the matrices of two products: without it, their rows would be a power of two apart, and share few lines of the cache.
constexpr int64_t kGap = 2 * kLanes;

// --------------------------------------------------------------------------- schemes

// Each has the transforms of one axis, from kPatch input pixels and 3 weights to kProducts products and kTile pixels.
// kWeights: different transformed weights; weight_index: those of a product. Patches are kStep pixels apart.

// Correlation: F(4, 3) with the points 0, 1, -1, 2, -2 and infinity.
struct Plain {
    static constexpr int kPatch = 6, kProducts = 6, kWeights = 6, kTile = 4, kStep = 4;
    static constexpr int weight_index(int product) { return product; }

    static void transform_weights(const Vector w[3], Vector u[kWeights]) {
        const Vector even1 = (w[0] + w[2]) * (-1.f / 6), odd1 = w[1] * (-1.f / 6);
        const Vector even2 = w[0] * (1.f / 24) + w[2] * (1.f / 6), odd2 = w[1] * (1.f / 12);
        u[0] = w[0] * (1.f / 4);
        u[1] = even1 + odd1;
        u[2] = even1 - odd1;
        u[3] = even2 + odd2;
        u[4] = even2 - odd2;
        u[5] = w[2];
    }

    static void transform_input(const Vector x[kPatch], Vector v[kProducts]) {
        const Vector even1 = x[4] - 4 * x[2], odd1 = x[3] - 4 * x[1];
        const Vector even2 = x[4] - x[2], odd2 = 2 * (x[3] - x[1]);
        v[0] = 4 * x[0] - 5 * x[2] + x[4];
        v[1] = even1 + odd1;
        v[2] = even1 - odd1;
        v[3] = even2 + odd2;
        v[4] = even2 - odd2;
        v[5] = 4 * x[1] - 5 * x[3] + x[5];
    }

    static void transform_output(const Vector m[kProducts], Vector y[kTile]) {
        const Vector even1 = m[1] + m[2], odd1 = m[1] - m[2], even2 = m[3] + m[4], odd2 = m[3] - m[4];
        y[0] = m[0] + even1 + even2;
        y[1] = odd1 + 2 * odd2;
        y[2] = even1 + 4 * even2;
        y[3] = odd1 + 8 * odd2 + m[5];
    }
};

// F(4, 2) with the points 0, 1, -1, 2 and infinity: y[i] = x[i] w0 + x[i+1] w1. The others of 9 products, which have
// the same weight, are those of 4 pixels each.
struct TwoTaps {
    static void transform_weights(Vector w0, Vector w1, Vector u[5]) {
        u[0] = w0 * (1.f / 2);
        u[1] = (w0 + w1) * (-1.f / 2);
        u[2] = (w0 - w1) * (-1.f / 6);
        u[3] = w0 * (1.f / 6) + w1 * (1.f / 3);
        u[4] = w1;
    }

    // x: 5 pixels, `step` apart.
    static void transform_input(const Vector* x, int step, Vector v[5]) {
        const Vector a = x[0], b = x[step], c = x[2 * step], d = x[3 * step], e = x[4 * step];
        v[0] = 2 * a - b - 2 * c + d;
        v[1] = d - c - 2 * b;
        v[2] = d - 3 * c + 2 * b;
        v[3] = d - b;
        v[4] = 2 * b - c - 2 * d + e;
    }

    static void transform_output(const Vector m[5], Vector y[4]) {
        const Vector even = m[1] + m[2], odd = m[1] - m[2];
        y[0] = m[0] + even + m[3];
        y[1] = odd + 2 * m[3];
        y[2] = even + 4 * m[3];
        y[3] = odd + 8 * m[3] + m[4];
    }
};

// Transposed convolution of stride 2: pixels 2i of the result are x[i-1] w[2] + x[i] w[0], pixels 2i+1 are x[i] w[1]. A
// patch starts at x[i-1].
struct Transposed {
    static constexpr int kPatch = 5, kProducts = 9, kWeights = 6, kTile = 8, kStep = 4;
    static constexpr int weight_index(int product) { return std::min(product, 5); }

    static void transform_weights(const Vector w[3], Vector u[kWeights]) {
        TwoTaps::transform_weights(w[2], w[0], u);
        u[5] = w[1];
    }

    static void transform_input(const Vector x[kPatch], Vector v[kProducts]) {
        TwoTaps::transform_input(x, 1, v);
        for (int i = 0; i < 4; ++i) v[5 + i] = x[1 + i];
    }

    static void transform_output(const Vector m[kProducts], Vector y[kTile]) {
        Vector even[4];
        TwoTaps::transform_output(m, even);
        for (int i = 0; i < 4; ++i) {
            y[2 * i] = even[i];
            y[2 * i + 1] = m[5 + i];
        }
    }
};

// Correlation at every second pixel: y[i] = x[2i] w[0] + x[2i+1] w[1] + x[2i+2] w[2].
struct Strided {
    static constexpr int kPatch = 9, kProducts = 9, kWeights = 6, kTile = 4, kStep = 8;
    static constexpr int weight_index(int product) { return std::min(product, 5); }

    static void transform_weights(const Vector w[3], Vector u[kWeights]) {
        TwoTaps::transform_weights(w[0], w[2], u);
        u[5] = w[1];
    }

    static void transform_input(const Vector x[kPatch], Vector v[kProducts]) {
        TwoTaps::transform_input(x, 2, v);
        for (int i = 0; i < 4; ++i) v[5 + i] = x[1 + 2 * i];
    }

    static void transform_output(const Vector m[kProducts], Vector y[kTile]) {
        TwoTaps::transform_output(m, y);
        for (int i = 0; i < 4; ++i) y[i] += m[5 + i];
    }
};

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

// Transformed weights, matrices of input by output channels, in panels of kPanel output channels, each with C rows.
template <typename Scheme>
struct Weights {
    static constexpr int kMatrices = Scheme::kWeights * Scheme::kWeights;
    int64_t out, channels, panels, matrix_size;
    at::Tensor data;

    // w is O,C,3,3, contiguous.
    explicit Weights(const at::Tensor& w)
        : out(w.size(0)),
          channels(w.size(1)),
          panels(divide_up(out, kPanel)),
          matrix_size(panels * channels * kPanel + kGap),
          data(at::empty({kMatrices * matrix_size}, w.options())) {
        const int64_t chunks = divide_up(channels, kChannelsPerChunk);
        at::parallel_for(0, panels * chunks, 8, [&](int64_t first, int64_t last) {
            for (int64_t i = first; i < last; ++i) transform_chunk(w, i / chunks, i % chunks * kChannelsPerChunk);
        });
    }

    // The weights of a product, by its row and column.
    const float* panel(int row, int column, int64_t i) const {
        const int matrix = Scheme::weight_index(row) * Scheme::kWeights + Scheme::weight_index(column);
        return data.const_data_ptr<float>() + matrix * matrix_size + i * channels * kPanel;
    }

    // Weights of a few input channels from `first` on, for one panel of output channels.
    void transform_chunk(const at::Tensor& w, int64_t panel, int64_t first) {
        // Transposed, so that output channels are contiguous. Those that do not exist are zero.
        float kernels[kChannelsPerChunk * 9][kPanel];
        const int64_t columns = std::min<int64_t>(kPanel, out - panel * kPanel);
        const int64_t rows = std::min(kChannelsPerChunk, channels - first);
        if (columns < kPanel) std::memset(kernels, 0, sizeof(kernels));
        for (int64_t j = 0; j < columns; ++j) {
            const float* row = w.const_data_ptr<float>() + ((panel * kPanel + j) * channels + first) * 9;
            for (int64_t k = 0; k < rows * 9; ++k) kernels[k][j] = row[k];
        }
        for (int64_t c = 0; c < rows; ++c) {
            float* to = data.mutable_data_ptr<float>() + (panel * channels + first + c) * kPanel;
            for (int j = 0; j < kPanel; j += kLanes)
                transform<3, Scheme::kWeights, Scheme::transform_weights>(
                    &kernels[c * 9][j], 3 * kPanel, kPanel, to + j, Scheme::kWeights * matrix_size, matrix_size);
        }
    }
};

// --------------------------------------------------------------------------- convolution

// An N,C,H,W image in channels-last format.
struct Image {
    int64_t batch, channels, height, width;

    int64_t offset(int64_t n, int64_t y, int64_t x) const { return ((n * height + y) * width + x) * channels; }
};

// Scratch memory of one thread. Transforms: for each product, one row of channels per tile.
template <typename Scheme>
struct Scratch {
    static constexpr int kProducts = Scheme::kProducts * Scheme::kProducts;
    int64_t in_row, out_row, in_product, out_product;
    at::Tensor memory;
    float *in, *out, *patch, *tile;

    Scratch(int64_t channels, int64_t panels, const at::TensorOptions& options)
        : in_row(round_up(channels, kLanes)),
          out_row(panels * kPanel),
          in_product(kTilesPerBlock * in_row + kGap),
          out_product(kTilesPerBlock * out_row + kGap),
          // Zeros, since a last block with fewer tiles still computes with all of its rows.
          memory(at::zeros({kProducts * (in_product + out_product) + Scheme::kPatch * Scheme::kPatch * in_row +
                            Scheme::kTile * Scheme::kTile * out_row},
                           options)),
          in(memory.mutable_data_ptr<float>()),
          out(in + kProducts * in_product),
          patch(out + kProducts * out_product),
          tile(patch + Scheme::kPatch * Scheme::kPatch * in_row) {}
};

template <typename Scheme>
struct Convolution {
    Image in, out;
    const float* x;
    float* y;
    int64_t pad_y, pad_x;  // of patches
    const Weights<Scheme>& weights;

    static constexpr int kPatch = Scheme::kPatch, kProducts = Scheme::kProducts, kTile = Scheme::kTile;

    int64_t rows() const { return divide_up(out.height, kTile); }
    int64_t columns() const { return divide_up(out.width, kTile); }
    int64_t tiles() const { return out.batch * rows() * columns(); }

    // Transforms the input of a tile to row `to_row` of the scratch memory.
    void transform_patch(int64_t tile, int64_t to_row, Scratch<Scheme>& scratch) const {
        const int64_t n = tile / (rows() * columns());
        const int64_t y0 = tile / columns() % rows() * Scheme::kStep - pad_y;
        const int64_t x0 = tile % columns() * Scheme::kStep - pad_x;
        const bool inside = y0 >= 0 && x0 >= 0 && y0 + kPatch <= in.height && x0 + kPatch <= in.width;

        // In place, or a copy with zeros for pixels outside of the image and for the channels of the last vector.
        const float* from = scratch.patch;
        int64_t from_row = kPatch * scratch.in_row, from_column = scratch.in_row;
        if (inside && in.channels % kLanes == 0) {
            from = x + in.offset(n, y0, x0);
            from_row = in.width * in.channels;
            from_column = in.channels;
        } else {
            std::memset(scratch.patch, 0, sizeof(float) * kPatch * kPatch * scratch.in_row);
            for (int64_t j = std::max<int64_t>(0, -y0); j < std::min<int64_t>(kPatch, in.height - y0); ++j)
                for (int64_t i = std::max<int64_t>(0, -x0); i < std::min<int64_t>(kPatch, in.width - x0); ++i)
                    std::memcpy(scratch.patch + (j * kPatch + i) * scratch.in_row, x + in.offset(n, y0 + j, x0 + i),
                                sizeof(float) * in.channels);
        }
        float* to = scratch.in + to_row * scratch.in_row;
        for (int64_t c = 0; c < scratch.in_row; c += kLanes)
            transform<kPatch, kProducts, Scheme::transform_input>(from + c, from_row, from_column, to + c,
                                                                  kProducts * scratch.in_product, scratch.in_product);
    }

    // Writes channels `first` to `last` of a tile from row `from_row` of the scratch memory.
    void transform_tile(int64_t tile, int64_t from_row, int64_t first, int64_t last, Scratch<Scheme>& scratch) const {
        const int64_t n = tile / (rows() * columns());
        const int64_t y0 = tile / columns() % rows() * kTile, x0 = tile % columns() * kTile;
        const int64_t height = std::min<int64_t>(kTile, out.height - y0);
        const int64_t width = std::min<int64_t>(kTile, out.width - x0);

        // In place, or through a tile of which the existing pixels and channels are copied.
        const bool whole = height == kTile && width == kTile && last <= out.channels && last % kLanes == 0;
        float* to = whole ? y + out.offset(n, y0, x0) : scratch.tile;
        const int64_t to_row = whole ? out.width * out.channels : kTile * scratch.out_row;
        const int64_t to_column = whole ? out.channels : scratch.out_row;
        for (int64_t c = first; c < last; c += kLanes)
            transform<kProducts, kTile, Scheme::transform_output>(scratch.out + from_row * scratch.out_row + c,
                                                                  kProducts * scratch.out_product, scratch.out_product,
                                                                  to + c, to_row, to_column);
        if (whole) return;
        const size_t bytes = sizeof(float) * (std::min(last, out.channels) - first);
        for (int64_t j = 0; j < height; ++j)
            for (int64_t i = 0; i < width; ++i)
                std::memcpy(y + out.offset(n, y0 + j, x0 + i) + first,
                            scratch.tile + (j * kTile + i) * scratch.out_row + first, bytes);
    }

    // Computes the panels `first` to `last` of output channels of the tiles of one block.
    void convolve_block(int64_t block, int64_t first, int64_t last, Scratch<Scheme>& scratch) const {
        const int64_t first_tile = block * kTilesPerBlock;
        const int64_t count = std::min(kTilesPerBlock, tiles() - first_tile);
        for (int64_t i = 0; i < count; ++i) transform_patch(first_tile + i, i, scratch);
        for (int p = 0; p < kProducts * kProducts; ++p)
            for (int64_t panel = first; panel < last; ++panel)
                for (int64_t i = 0; i < count; i += kRows)
                    multiply_panel(scratch.in + p * scratch.in_product + i * scratch.in_row, scratch.in_row,
                                   weights.panel(p / kProducts, p % kProducts, panel), in.channels,
                                   scratch.out + p * scratch.out_product + i * scratch.out_row + panel * kPanel,
                                   scratch.out_row);
        for (int64_t i = 0; i < count; ++i) transform_tile(first_tile + i, i, first * kPanel, last * kPanel, scratch);
    }
};

// --------------------------------------------------------------------------- operators

void check(const at::Tensor& t, at::MemoryFormat format, const char* name) {
    TORCH_CHECK_VALUE(t.dim() == 4 && t.scalar_type() == at::kFloat && t.is_contiguous(format), name,
                      ": expected float with 4 axes in format ", format, ", got ", t.scalar_type(), " ", t.sizes(),
                      " with strides ", t.strides());
}

// Returns N,O,height,width from x (N,C,H,W, channels-last) and w (O,C,3,3, contiguous), channels-last.
template <typename Scheme>
at::Tensor convolve(const at::Tensor& x, const at::Tensor& w, int64_t height, int64_t width, int64_t pad_y,
                    int64_t pad_x) {
    check(x, at::MemoryFormat::ChannelsLast, "x");
    check(w, at::MemoryFormat::Contiguous, "w");
    TORCH_CHECK_VALUE(w.size(1) == x.size(1) && w.size(2) == 3 && w.size(3) == 3, "w: expected O,", x.size(1),
                      ",3,3, got ", w.sizes());
    const Image in{x.size(0), x.size(1), x.size(2), x.size(3)}, out{in.batch, w.size(0), height, width};
    at::Tensor y = at::empty({out.batch, out.channels, height, width}, x.options(), at::MemoryFormat::ChannelsLast);
    const Weights<Scheme> weights(w);
    const Convolution<Scheme> conv{in, out, x.const_data_ptr<float>(), y.mutable_data_ptr<float>(), pad_y, pad_x,
                                   weights};

    // If there are fewer blocks than threads, the output channels of a block are divided too, at the price of several
    // transforms of its input. Every sum is added up in the same order in either case.
    const int64_t blocks = divide_up(conv.tiles(), kTilesPerBlock), panels = weights.panels;
    const int64_t wanted = divide_up(at::get_num_threads(), std::max<int64_t>(1, blocks));
    const int64_t panels_each = divide_up(panels, std::min(std::max<int64_t>(1, panels), wanted));
    const int64_t groups = panels ? divide_up(panels, panels_each) : 0;
    at::parallel_for(0, blocks * groups, 1, [&](int64_t first, int64_t last) {
        Scratch<Scheme> scratch(in.channels, panels, x.options());
        for (int64_t i = first; i < last; ++i) {
            const int64_t panel = i % groups * panels_each;
            conv.convolve_block(i / groups, panel, std::min(panels, panel + panels_each), scratch);
        }
    });
    return y;
}

// Correlates x with w at every pixel or, with stride 2, at every second one of both axes:
// N,O,(H+2*pad_y-3)/stride+1,(W+2*pad_x-3)/stride+1.
at::Tensor winograd_conv3x3(const at::Tensor& x, const at::Tensor& w, int64_t pad_y, int64_t pad_x, int64_t stride) {
    TORCH_CHECK_VALUE(x.dim() == 4, "x: expected 4 axes, got ", x.sizes());
    TORCH_CHECK_VALUE(stride == 1 || stride == 2, "stride: expected 1 or 2, got ", stride);
    const int64_t height = x.size(2) + 2 * pad_y - 3, width = x.size(3) + 2 * pad_x - 3;
    TORCH_CHECK_VALUE(pad_y >= 0 && pad_x >= 0 && height >= 0 && width >= 0, "padding: expected 0 or more and at least ",
                      "one pixel in the result, got ", pad_y, ", ", pad_x, " for ", x.sizes());
    if (stride == 1) return convolve<Plain>(x, w, height + 1, width + 1, pad_y, pad_x);
    return convolve<Strided>(x, w, height / 2 + 1, width / 2 + 1, pad_y, pad_x);
}

// Inserts a zero between pixels of x and convolves with w: N,O,2*H+1,2*W+1.
at::Tensor winograd_conv3x3_transposed(const at::Tensor& x, const at::Tensor& w) {
    TORCH_CHECK_VALUE(x.dim() == 4 && x.size(2) > 0 && x.size(3) > 0, "x: expected 4 axes with at least one pixel, got ",
                      x.sizes());
    return convolve<Transposed>(x, w, 2 * x.size(2) + 1, 2 * x.size(3) + 1, 1, 1);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(pix2pix3d, m) {
    m.def("winograd_conv3x3(Tensor x, Tensor w, int pad_y, int pad_x, int stride) -> Tensor");
    m.def("winograd_conv3x3_transposed(Tensor x, Tensor w) -> Tensor");
}

TORCH_LIBRARY_IMPL(pix2pix3d, CPU, m) {
    m.impl("winograd_conv3x3", winograd_conv3x3);
    m.impl("winograd_conv3x3_transposed", winograd_conv3x3_transposed);
}
