// 3x3 convolutions by Winograd's method (Lavin and Gray 2016), on a CPU, channels-last.
//
// A tile of the result depends on a patch of the input. With the matrices A, B and G of a scheme,
//
//     tile = A^T [ (G w G^T) * (B^T patch B) ] A        (* elementwise, summed over input channels)
//
// so that the sums over channels are as many matrix products as there are elements in brackets. Tiles are computed in
// blocks whose transforms stay in the cache. For 4x4 pixels and every pair of channels, `Plain` needs 36
// multiplications instead of 144, `Strided` 81; `Transposed` needs 81 for 8x8 pixels instead of 144.
//
// The gradient of w follows from the same formula, with sums over tiles in place of channels:
//
//     dw = G^T [ sum over tiles of (A dtile A^T) * (B^T patch B) ] G
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/baddbmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "cpu_vectors.h"

namespace {
using namespace pix2pix3d;

constexpr int64_t kTilesPerBlock = 24;  // a multiple of kRows
constexpr int64_t kChannelsPerChunk = 8;  // of weights that are transposed together
constexpr int64_t kTilesPerSum = 512;  // for the gradient of weights: added up by one matrix product
// Between the matrices of two products: without it, their rows would be a power of two apart, in few sets of the cache.
constexpr int64_t kGap = 2 * kLanes;

// --------------------------------------------------------------------------- schemes

// Each has the transforms of one axis, from kPatch input pixels and 3 weights to kProducts products and kTile pixels.
// kWeights: different transformed weights; weight_index: those of a product. Patches are kStep pixels apart.

// Points come in pairs +-a, which share their even and odd parts, and are of a size that keeps rounding errors small:
// with the points 0, 1, -1, 2, -2 they would be four times as large.

// Correlation: F(4, 3) with the points 0, +-kA, +-kB and infinity, where kA^2 = 1/2 and kB^2 = 2.
struct Plain {
    static constexpr int kPatch = 6, kProducts = 6, kWeights = 6, kTile = 4, kStep = 4;
    static constexpr float kA = 0.70710678f, kB = 1.41421356f;
    static constexpr int weight_index(int product) { return product; }

    static void transform_weights(const Vector w[3], Vector u[kWeights]) {
        const Vector even1 = w[0] * (-2.f / 3) - w[2] * (1.f / 3), odd1 = w[1] * (-2 * kA / 3);
        const Vector even2 = w[0] * (1.f / 6) + w[2] * (1.f / 3), odd2 = w[1] * (kB / 6);
        u[0] = w[0];
        u[1] = even1 + odd1;
        u[2] = even1 - odd1;
        u[3] = even2 + odd2;
        u[4] = even2 - odd2;
        u[5] = w[2];
    }

    static void transform_input(const Vector x[kPatch], Vector v[kProducts]) {
        const Vector even1 = x[4] - 2 * x[2], odd1 = kA * (x[3] - 2 * x[1]);
        const Vector even2 = x[4] - 0.5f * x[2], odd2 = kB * (x[3] - 0.5f * x[1]);
        v[0] = x[0] - 2.5f * x[2] + x[4];
        v[1] = even1 + odd1;
        v[2] = even1 - odd1;
        v[3] = even2 + odd2;
        v[4] = even2 - odd2;
        v[5] = x[1] - 2.5f * x[3] + x[5];
    }

    static void transform_output(const Vector m[kProducts], Vector y[kTile]) {
        const Vector even1 = m[1] + m[2], odd1 = kA * (m[1] - m[2]);
        const Vector even2 = m[3] + m[4], odd2 = kB * (m[3] - m[4]);
        y[0] = m[0] + even1 + even2;
        y[1] = odd1 + odd2;
        y[2] = 0.5f * even1 + 2 * even2;
        y[3] = 0.5f * odd1 + 2 * odd2 + m[5];
    }

    // The transposes of transform_output and transform_weights.
    static void transform_output_gradient(const Vector dy[kTile], Vector dm[kProducts]) {
        const Vector even1 = dy[0] + 0.5f * dy[2], odd1 = kA * (dy[1] + 0.5f * dy[3]);
        const Vector even2 = dy[0] + 2 * dy[2], odd2 = kB * (dy[1] + 2 * dy[3]);
        dm[0] = dy[0];
        dm[1] = even1 + odd1;
        dm[2] = even1 - odd1;
        dm[3] = even2 + odd2;
        dm[4] = even2 - odd2;
        dm[5] = dy[3];
    }

    static void transform_weights_gradient(const Vector du[kWeights], Vector dw[3]) {
        const Vector even1 = du[1] + du[2], even2 = du[3] + du[4];
        dw[0] = du[0] - even1 * (2.f / 3) + even2 * (1.f / 6);
        dw[1] = (du[3] - du[4]) * (kB / 6) - (du[1] - du[2]) * (2 * kA / 3);
        dw[2] = du[5] + (even2 - even1) * (1.f / 3);
    }
};

// F(4, 2) with the points +-kA, +-kB and infinity: y[i] = x[i] w0 + x[i+1] w1. The other 4 of a scheme's 9
// products are single pixels times the third weight.
struct TwoTaps {
    static constexpr float kA = 0.5f, kB = 1.25f, kA2 = kA * kA, kB2 = kB * kB;
    // Products of the differences between points.
    static constexpr float kFactorA = 1 / (2 * kA * (kA2 - kB2)), kFactorB = 1 / (2 * kB * (kB2 - kA2));

    static void transform_weights(Vector w0, Vector w1, Vector u[5]) {
        u[0] = (w0 + kA * w1) * kFactorA;
        u[1] = (kA * w1 - w0) * kFactorA;
        u[2] = (w0 + kB * w1) * kFactorB;
        u[3] = (kB * w1 - w0) * kFactorB;
        u[4] = w1;
    }

    // x: 5 pixels, `step` apart.
    static void transform_input(const Vector* x, int step, Vector v[5]) {
        const Vector a = x[0], b = x[step], c = x[2 * step], d = x[3 * step], e = x[4 * step];
        const Vector even1 = kA * (c - kB2 * a), odd1 = d - kB2 * b;
        const Vector even2 = kB * (c - kA2 * a), odd2 = d - kA2 * b;
        v[0] = odd1 + even1;
        v[1] = odd1 - even1;
        v[2] = odd2 + even2;
        v[3] = odd2 - even2;
        v[4] = e - (kA2 + kB2) * c + kA2 * kB2 * a;
    }

    static void transform_output(const Vector m[5], Vector y[4]) {
        const Vector even1 = m[0] + m[1], odd1 = kA * (m[0] - m[1]);
        const Vector even2 = m[2] + m[3], odd2 = kB * (m[2] - m[3]);
        y[0] = even1 + even2;
        y[1] = odd1 + odd2;
        y[2] = kA2 * even1 + kB2 * even2;
        y[3] = kA2 * odd1 + kB2 * odd2 + m[4];
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

// Transforms Size x Size pixels from y0,x0 on, zero outside of the image, to rows of channels, `to_product` apart.
// `copy` is memory for Size * Size rows.
template <int Size, int Products, void (*Transform)(const Vector*, Vector*)>
void transform_pixels(const Image& image, const float* pixels, int64_t n, int64_t y0, int64_t x0, float* copy,
                      float* to, int64_t to_product) {
    const int64_t row = round_up(image.channels, kLanes);
    const bool inside = y0 >= 0 && x0 >= 0 && y0 + Size <= image.height && x0 + Size <= image.width;

    // In place, or a copy with zeros for pixels outside of the image and for the channels of the last vector.
    const float* from = copy;
    int64_t from_row = Size * row, from_column = row;
    if (inside && image.channels % kLanes == 0) {
        from = pixels + image.offset(n, y0, x0);
        from_row = image.width * image.channels;
        from_column = image.channels;
    } else {
        std::memset(copy, 0, sizeof(float) * Size * Size * row);
        for (int64_t j = std::max<int64_t>(0, -y0); j < std::min<int64_t>(Size, image.height - y0); ++j)
            for (int64_t i = std::max<int64_t>(0, -x0); i < std::min<int64_t>(Size, image.width - x0); ++i)
                std::memcpy(copy + (j * Size + i) * row, pixels + image.offset(n, y0 + j, x0 + i),
                            sizeof(float) * image.channels);
    }
    for (int64_t c = 0; c < row; c += kLanes)
        transform<Size, Products, Transform>(from + c, from_row, from_column, to + c, Products * to_product,
                                             to_product);
}

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

// Division of the result into tiles, each with its patch of the input x.
template <typename Scheme>
struct Tiles {
    Image in, out;
    const float* x;
    int64_t pad_y, pad_x;  // of patches

    int64_t rows() const { return divide_up(out.height, Scheme::kTile); }
    int64_t columns() const { return divide_up(out.width, Scheme::kTile); }
    int64_t count() const { return out.batch * rows() * columns(); }

    // Sample, row and column of a tile.
    std::array<int64_t, 3> place(int64_t tile) const {
        return {tile / (rows() * columns()), tile / columns() % rows(), tile % columns()};
    }

    // Transforms the input of a tile, see `transform_pixels`.
    void transform_patch(int64_t tile, float* copy, float* to, int64_t to_product) const {
        const auto [n, row, column] = place(tile);
        transform_pixels<Scheme::kPatch, Scheme::kProducts, Scheme::transform_input>(
            in, x, n, row * Scheme::kStep - pad_y, column * Scheme::kStep - pad_x, copy, to, to_product);
    }
};

template <typename Scheme>
struct Convolution {
    Tiles<Scheme> tiles;
    float* y;
    const Weights<Scheme>& weights;

    static constexpr int kPatch = Scheme::kPatch, kProducts = Scheme::kProducts, kTile = Scheme::kTile;

    // Writes channels `first` to `last` of a tile from row `from_row` of the scratch memory.
    void transform_tile(int64_t tile, int64_t from_row, int64_t first, int64_t last, Scratch<Scheme>& scratch) const {
        const Image& out = tiles.out;
        const auto [n, row, column] = tiles.place(tile);
        const int64_t y0 = row * kTile, x0 = column * kTile;
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
        const int64_t count = std::min(kTilesPerBlock, tiles.count() - first_tile);
        for (int64_t i = 0; i < count; ++i)
            tiles.transform_patch(first_tile + i, scratch.patch, scratch.in + i * scratch.in_row, scratch.in_product);
        for (int p = 0; p < kProducts * kProducts; ++p)
            for (int64_t panel = first; panel < last; ++panel)
                for (int64_t i = 0; i < count; i += kRows)
                    multiply_panel(scratch.in + p * scratch.in_product + i * scratch.in_row, scratch.in_row,
                                   weights.panel(p / kProducts, p % kProducts, panel), tiles.in.channels,
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
    const Tiles<Scheme> tiles{in, out, x.const_data_ptr<float>(), pad_y, pad_x};
    const Convolution<Scheme> conv{tiles, y.mutable_data_ptr<float>(), weights};

    // If there are fewer blocks than threads, the output channels of a block are divided too, at the price of several
    // transforms of its input. Every sum is added up in the same order in either case.
    const int64_t blocks = divide_up(tiles.count(), kTilesPerBlock), panels = weights.panels;
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

// Returns the gradient O,C,3,3 of the weights of a convolution of x (N,C,H,W) with stride 1, from the gradient dy
// (N,O,H+2*pad_y-2,W+2*pad_x-2) of its result; both channels-last.
at::Tensor winograd_conv3x3_weight_gradient(const at::Tensor& dy, const at::Tensor& x, int64_t pad_y, int64_t pad_x) {
    check(x, at::MemoryFormat::ChannelsLast, "x");
    check(dy, at::MemoryFormat::ChannelsLast, "dy");
    const Image in{x.size(0), x.size(1), x.size(2), x.size(3)}, out{dy.size(0), dy.size(1), dy.size(2), dy.size(3)};
    TORCH_CHECK_VALUE(pad_y >= 0 && pad_x >= 0 && out.batch == in.batch && out.height == in.height + 2 * pad_y - 2 &&
                          out.width == in.width + 2 * pad_x - 2,
                      "dy: expected the result of a convolution of x ", x.sizes(), " with padding ", pad_y, ", ",
                      pad_x, ", got ", dy.sizes());
    constexpr int kProducts = Plain::kProducts, kTile = Plain::kTile, kMatrices = kProducts * kProducts;
    const Tiles<Plain> tiles{in, out, x.const_data_ptr<float>(), pad_y, pad_x};
    const int64_t in_row = round_up(in.channels, kLanes), out_row = round_up(out.channels, kLanes);

    // One matrix for each product: a row of channels per tile, of the input and of the gradient. Their product, output
    // by input channels, sums over tiles.
    const int64_t largest = std::min(kTilesPerSum, tiles.count());
    at::Tensor patches = at::empty({kMatrices, largest, in_row}, x.options());
    at::Tensor gradients = at::empty({kMatrices, largest, out_row}, x.options());
    at::Tensor sums = at::zeros({kMatrices, out_row, in_row}, x.options());
    for (int64_t begin = 0; begin < tiles.count(); begin += largest) {
        const int64_t count = std::min(largest, tiles.count() - begin);
        at::parallel_for(0, count, 8, [&](int64_t first, int64_t last) {
            at::Tensor copy = at::empty({Plain::kPatch * Plain::kPatch * std::max(in_row, out_row)}, x.options());
            for (int64_t i = first; i < last; ++i) {
                tiles.transform_patch(begin + i, copy.mutable_data_ptr<float>(),
                                      patches.mutable_data_ptr<float>() + i * in_row, largest * in_row);
                const auto [n, row, column] = tiles.place(begin + i);
                transform_pixels<kTile, kProducts, Plain::transform_output_gradient>(
                    out, dy.const_data_ptr<float>(), n, row * kTile, column * kTile, copy.mutable_data_ptr<float>(),
                    gradients.mutable_data_ptr<float>() + i * out_row, largest * out_row);
            }
        });
        sums.baddbmm_(gradients.narrow(1, 0, count).transpose(1, 2), patches.narrow(1, 0, count));
    }

    // From transformed weights to weights, 3,3,O,C.
    at::Tensor dw = at::empty({3, 3, out_row, in_row}, x.options());
    const int64_t size = out_row * in_row;
    at::parallel_for(0, size / kLanes, 1024, [&](int64_t first, int64_t last) {
        for (int64_t i = first * kLanes; i < last * kLanes; i += kLanes)
            transform<kProducts, 3, Plain::transform_weights_gradient>(
                sums.const_data_ptr<float>() + i, kProducts * size, size, dw.mutable_data_ptr<float>() + i, 3 * size,
                size);
    });
    return dw.narrow(2, 0, out.channels).narrow(3, 0, in.channels).permute({2, 3, 0, 1}).contiguous();
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
    m.def("winograd_conv3x3_weight_gradient(Tensor dy, Tensor x, int pad_y, int pad_x) -> Tensor");
}

TORCH_LIBRARY_IMPL(pix2pix3d, CPU, m) {
    m.impl("winograd_conv3x3", winograd_conv3x3);
    m.impl("winograd_conv3x3_transposed", winograd_conv3x3_transposed);
    m.impl("winograd_conv3x3_weight_gradient", winograd_conv3x3_weight_gradient);
}
