// The windows of a convolution as rows of a product: what gemm_mma.cuh copies to shared memory, and how it ends.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <utility>

#include "cuda/conv_arguments.h"
#include "cuda/conv_kernels.h"
#include "cuda/epilogue.cuh"
#include "cuda/gemm_mma.cuh"
#include "cuda/layer_finish.cuh"
#include "cuda/ptx.cuh"

namespace ulp::cuda {

// Not inlined where it is compiled for a GPU: what few layers need would take most of the kernels' code.
#if defined(__CUDACC__)
#define ULP_CUDA_RARE __noinline__
#else
#define ULP_CUDA_RARE
#endif

// The first pixel of a window, which may lie outside of its image.
struct WindowPlace {
  const unsigned char* image;  // null: there is no such window
  int y;
  int x;

  __device__ WindowPlace(const ConvArguments& p, int row) : image(nullptr), y(0), x(0) {
    if (row >= p.m) return;
    const ConvWindows& w = p.windows;
    const int i = w.out_pixels.quotient(row);
    const int in_image = w.out_pixels.remainder(row, i);
    const int out_y = w.out_width.quotient(in_image);
    y = out_y * w.stride_y - w.pad_top;
    x = w.out_width.remainder(in_image, out_y) * w.stride_x - w.pad_left;
    image = p.a + i * w.image;
  }

  // The codes from k on, which are of one tap; null: outside of the image.
  __device__ const unsigned char* codes(const ConvArguments& p, int k, int& channel) const {
    const ConvWindows& w = p.windows;
    const int tap = w.channels.quotient(k);
    channel = w.channels.remainder(k, tap);
    const int tap_y = w.kernel_x.quotient(tap);
    const int at_y = y + tap_y * w.dilation_y;
    const int at_x = x + w.kernel_x.remainder(tap, tap_y) * w.dilation_x;
    const bool inside = at_y >= 0 && at_y < w.height && at_x >= 0 && at_x < w.width;
    return inside ? image + (at_y * w.width + at_x) * w.pixel + channel : nullptr;
  }

  // The four codes from k on, a multiple of 4 below p.k.
  __device__ uint32_t word(const ConvArguments& p, int k) const {
    int channel = 0;
    const unsigned char* from = codes(p, k, channel);
    if (from == nullptr) return p.zero;
    if (p.pieces != Pieces::bytes) return *reinterpret_cast<const uint32_t*>(from);
    uint32_t value = p.zero;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (channel + i < p.own) value = (value & ~(0xFFu << (8 * i))) | static_cast<uint32_t>(from[i]) << (8 * i);
    }
    return value;
  }
};

// The 16 codes of a window from k on, those from p.k on being zero.
__device__ inline ULP_CUDA_RARE uint4 piece_of(WindowPlace place, const ConvArguments& p, int k) {
  uint32_t words[4] = {};
#pragma unroll
  for (int part = 0; part < 4; ++part) {
    if (k + 4 * part < p.k) words[part] = place.word(p, k + 4 * part);
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

// The windows that a thread copies codes of.
template <typename Tile>
struct ConvRows {
  WindowPlace place[MmaCopies<Tile>::kCount];

  __device__ ConvRows(const ConvArguments& p, int token) : ConvRows(p, token, std::make_integer_sequence<int, MmaCopies<Tile>::kCount>()) {}

  // Starts the copy number i of a stage: 16 codes from k on, those from p.k on being zero, to shared memory.
  __device__ void copy(const ConvArguments& p, int i, int /*row*/, int k, bool there, uint32_t to) const {
    const bool some = there && place[i].image != nullptr && k < p.k;
    if (p.pieces == Pieces::whole) {
      int channel = 0;
      const unsigned char* from = some ? place[i].codes(p, k, channel) : nullptr;
      ptx::copy_async16(to, from != nullptr ? from : p.outside, some ? 16 : 0);
      return;
    }
    ptx::store_shared4(to, some ? piece_of(place[i], p, k) : make_uint4(0, 0, 0, 0));
  }

 private:
  template <int... kIndices>
  __device__ ConvRows(const ConvArguments& p, int token, std::integer_sequence<int, kIndices...>)
      : place{WindowPlace(p, token + MmaCopies<Tile>::token(kIndices))...} {}
};

template <typename Tile, int kBlocks>
__device__ inline ConvRows<Tile> rows_of(const ConvArguments& p, const MmaPlace<Tile, kBlocks>& place) {
  return ConvRows<Tile>(p, place.token);
}

// What the epilogue needs of two neighbouring channels.
struct LayerChannels {
  Channels<2> sums;
  LayerChannel first;
  LayerChannel second;

  __device__ LayerChannels(const ConvArguments& p, int channel)
      : sums(p.finish, channel), first(p.layer, channel), second(p.layer, min(channel + 1, p.n - 1)) {}
};

__device__ inline LayerChannels channels_of(const ConvArguments& p, int channel) { return LayerChannels(p, channel); }

__device__ inline void finish_pair(const ConvArguments& p, const LayerChannels& c, int row, const int (&acc)[2]) {
  const uint32_t row_part = row_term(p.finish, row);
  const int channel = c.sums.first;
  const int sum0 = static_cast<int>(static_cast<uint32_t>(acc[0]) + c.sums.term[0] + row_part * c.sums.w_term[0]);
  finish_layer(p.layer, c.first, row, channel, sum0);
  if (c.sums.count < 2) return;
  const int sum1 = static_cast<int>(static_cast<uint32_t>(acc[1]) + c.sums.term[1] + row_part * c.sums.w_term[1]);
  finish_layer(p.layer, c.second, row, channel + 1, sum1);
}

// The kernel for weights of `bits` bits: 4, and with bytes 8. Others are packed to the next of these: images are most of what a convolution
// moves, and a third of the instances are compiled.
template <typename Tile, Unit kUnit>
ConvKernel find_conv(int bits) {
  if constexpr (kUnit == Unit::s8) {
    if (bits == 8) return gemm_mma<Tile, 8, kUnit, ConvArguments>;
  }
  return with_bits<4, 4>(bits, [](auto constant) -> ConvKernel { return gemm_mma<Tile, constant(), kUnit, ConvArguments>; });
}

}  // namespace ulp::cuda
