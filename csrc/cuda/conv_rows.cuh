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

// Where the codes from k on are in every window: so far from its first pixel, from this channel on.
struct Tap {
  int y;
  int x;
  int channel;

  __device__ Tap(const ConvWindows& w, int k) {
    const int tap = w.channels.quotient(k);
    channel = w.channels.remainder(k, tap);
    const int tap_y = w.kernel_x.quotient(tap);
    y = tap_y * w.dilation_y;
    x = w.kernel_x.remainder(tap, tap_y) * w.dilation_x;
  }
};

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

  // The codes of a tap from its channel on; null: outside of the image.
  __device__ const unsigned char* codes(const ConvArguments& p, const Tap& tap) const {
    const ConvWindows& w = p.windows;
    const int at_y = y + tap.y;
    const int at_x = x + tap.x;
    const bool inside = at_y >= 0 && at_y < w.height && at_x >= 0 && at_x < w.width;
    return inside ? image + (at_y * w.width + at_x) * w.pixel + tap.channel : nullptr;
  }

  // The four codes from k on, a multiple of 4 below p.k.
  __device__ uint32_t word(const ConvArguments& p, int k) const {
    const Tap tap(p.windows, k);
    const unsigned char* from = codes(p, tap);
    if (from == nullptr) return p.zero;
    if (p.pieces != Pieces::bytes) return *reinterpret_cast<const uint32_t*>(from);
    uint32_t value = p.zero;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (tap.channel + i < p.own) value = (value & ~(0xFFu << (8 * i))) | static_cast<uint32_t>(from[i]) << (8 * i);
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

// Copies 16 bytes of a window to shared memory: codes, or bits of one plane of them.
template <bool kPlanes>
struct WindowCopies {
  int64_t plane = 0;                       // where it begins, from p.a
  const unsigned char* outside = nullptr;  // 16 bytes for what lies outside of an image

  __device__ explicit WindowCopies(const ConvArguments& p) : outside(p.outside) {}

  __device__ void select(const ConvArguments& p, int number) {
    plane = number * p.plane_bytes;
    outside = p.outside + ((p.zero >> number & 1) != 0 ? 255 * 16 : 0);
  }

  // Starts the copy of what window and tap have at k, of a plane in bytes; it is zero from the end of k on.
  __device__ void copy(const ConvArguments& p, const WindowPlace& place, const Tap& tap, int k, bool there, uint32_t to) const {
    const bool some = there && place.image != nullptr && k < (kPlanes ? p.planes.stride : p.k);
    if (kPlanes || p.pieces == Pieces::whole) {
      const unsigned char* from = some ? place.codes(p, tap) : nullptr;
      ptx::copy_async16(to, from != nullptr ? from + plane : outside, some ? 16 : 0);
      return;
    }
    ptx::store_shared4(to, some ? piece_of(place, p, k) : make_uint4(0, 0, 0, 0));
  }
};

// The windows that a thread copies codes of.
template <typename Tile, bool kPlanes>
struct ConvRows {
  WindowCopies<kPlanes> copies;
  WindowPlace place[MmaCopies<Tile>::kCount];

  __device__ ConvRows(const ConvArguments& p, int token) : ConvRows(p, token, std::make_integer_sequence<int, MmaCopies<Tile>::kCount>()) {}

  // Starts the copy number i of a stage.
  __device__ void copy(const ConvArguments& p, int i, int /*row*/, int k, bool there, uint32_t to) const {
    copies.copy(p, place[i], Tap(p.windows, k), k, there, to);
  }

 private:
  template <int... kIndices>
  __device__ ConvRows(const ConvArguments& p, int token, std::integer_sequence<int, kIndices...>)
      : copies(p), place{WindowPlace(p, token + MmaCopies<Tile>::token(kIndices))...} {}
};

template <typename Tile, int kBlocks>
__device__ inline ConvRows<Tile, (kBlocks > 1)> rows_of(const ConvArguments& p, const MmaPlace<Tile, kBlocks>& place) {
  return {p, place.token};
}

template <typename Tile>
__device__ inline void select_plane(ConvRows<Tile, true>& rows, const ConvArguments& p, int plane) {
  rows.copies.select(p, plane);
}

// What the epilogue needs of a channel, or of the last one where there is none.
struct LaneChannel {
  int channel;
  bool there;
  Channels<1> sums;
  LayerChannel layer;

  __device__ LaneChannel(const ConvArguments& p, int number)
      : channel(min(number, p.n - 1)), there(number < p.n), sums(p.finish, channel), layer(p.layer, channel) {}
};

__device__ inline LaneChannel lane_channels(const ConvArguments& p, int channel) { return LaneChannel(p, channel); }

__device__ inline void finish_lane(const ConvArguments& p, const LaneChannel& c, int row, const int (&acc)[1]) {
  const int pixel = min(row, p.m - 1);
  const uint32_t rest = c.sums.term[0] + row_term(p.finish, pixel) * c.sums.w_term[0];
  finish_layer<true>(p.layer, c.layer, pixel, c.channel, static_cast<int>(static_cast<uint32_t>(acc[0]) + rest), c.there && row < p.m);
}

// The kernel for weights of `bits` bits: 4, with bytes also 8, with planes 1 and 2. Others are packed to the next of these: images are most
// of what a convolution moves, and a third of the instances are compiled.
template <typename Tile, Unit kUnit>
ConvKernel find_conv(int bits) {
  if constexpr (kUnit == Unit::b1) {
    return with_bits<kMaxConvPlanes>(bits, [](auto constant) -> ConvKernel { return gemm_mma<Tile, constant(), kUnit, ConvArguments>; });
  } else {
    if constexpr (kUnit == Unit::s8) {
      if (bits == 8) return gemm_mma<Tile, 8, kUnit, ConvArguments>;
    }
    return with_bits<4, 4>(bits, [](auto constant) -> ConvKernel { return gemm_mma<Tile, constant(), kUnit, ConvArguments>; });
  }
}

}  // namespace ulp::cuda
