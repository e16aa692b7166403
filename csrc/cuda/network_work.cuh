// Elementwise work of a network's steps: one thread per element of the result. Each struct is the arguments of a kernel and its body.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/conv_arguments.h"
#include "cuda/divide.h"
#include "cuda/layer_finish.cuh"

namespace ulp::cuda {

constexpr int kWorkThreads = 256;

template <typename Work>
__global__ void __launch_bounds__(kWorkThreads) each_element(const __grid_constant__ Work work) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kWorkThreads + threadIdx.x;
  if (at < work.count) work(static_cast<int>(at));
}

// Codes or floats of a tensor, for work that takes both.
struct Elements {
  unsigned char* codes = nullptr;
  float* floats = nullptr;
  int64_t pixel = 0;  // elements
  float scale = 0;
  int zero = 0;
  int max_code = 0;

  __device__ float value(int64_t pixel_at, int channel) const {
    const int64_t at = pixel_at * pixel + channel;
    return codes != nullptr ? __fmul_rn(__int2float_rn(codes[at] - zero), scale) : floats[at];
  }
  // divide: by the scale, as ONNX defines it, instead of a multiplication.
  __device__ void store(int64_t pixel_at, int channel, float v, bool divide) const {
    const int64_t at = pixel_at * pixel + channel;
    if (codes == nullptr) {
      floats[at] = v;
    } else {
      const float steps = divide ? __fdiv_rn(v, scale) : __fmul_rn(v, __fdiv_rn(1.0f, scale));
      codes[at] = static_cast<unsigned char>(code_of_steps(steps, zero, max_code));
    }
  }
};

// Where element `at` of images with so many pixels and channels lies, by its order: channels last, or plane by plane.
__device__ inline void locate(int at, bool nhwc, const Divisor& pixels, const Divisor& channels, int64_t* pixel, int* channel) {
  if (nhwc) {
    const int whole = channels.quotient(at);
    *channel = channels.remainder(at, whole);
    *pixel = whole;
  } else {
    const int plane = pixels.quotient(at);
    const int image = channels.quotient(plane);
    *channel = channels.remainder(plane, image);
    *pixel = static_cast<int64_t>(image) * pixels.divisor + pixels.remainder(at, plane);
  }
}

struct InputWork {
  int64_t count;  // images x channels x pixels, as they lie in the input
  const float* floats;
  const unsigned char* codes;  // instead of floats
  bool nhwc;
  bool divide;
  bool quantizes;
  Divisor pixels;  // of an image
  Divisor channels;
  int targets;
  Elements to[kMaxResults];
  int* status;

  __device__ void operator()(int at) const {
    int64_t pixel;
    int channel;
    locate(at, nhwc, pixels, channels, &pixel, &channel);
    if (codes != nullptr) {
      const int code = codes[at];
      if (code > to[0].max_code) status[1] = 1;
      to[0].codes[pixel * to[0].pixel + channel] = static_cast<unsigned char>(code);
      return;
    }
    const float v = floats[at];
    if (quantizes ? !(v - v == 0.0f) : v != v) status[0] = 1;
    for (int i = 0; i < targets; ++i) to[i].store(pixel, channel, v, divide);
  }
};

struct OutputWork {
  int64_t count;  // images x channels x pixels, as they lie in the output
  Elements from;
  bool nhwc;
  Divisor pixels;
  Divisor channels;
  float* floats;
  unsigned char* codes;

  __device__ void operator()(int at) const {
    int64_t pixel;
    int channel;
    locate(at, nhwc, pixels, channels, &pixel, &channel);
    const int64_t source = pixel * from.pixel + channel;
    if (codes != nullptr) {
      codes[at] = from.codes[source];
    } else {
      floats[at] = from.floats[source];
    }
  }
};

// The parts of an element's number: of pixels of all images, and channels.
struct PixelChannel {
  int pixel;
  int channel;
  __device__ PixelChannel(const Divisor& channels, int at) : pixel(channels.quotient(at)), channel(channels.remainder(at, pixel)) {}
};

// An output pixel's image and place in it.
struct PixelPlace {
  int image;
  int y;
  int x;
  __device__ PixelPlace(const Divisor& pixels, const Divisor& width, int pixel) {
    image = pixels.quotient(pixel);
    const int in_image = pixels.remainder(pixel, image);
    y = width.quotient(in_image);
    x = width.remainder(in_image, y);
  }
};

struct DepthwiseWork {
  int64_t count;
  const unsigned char* a;
  ConvWindows windows;  // channels: of the image
  int kernel_y;
  int kernel_x;
  int zero;
  const signed char* weights;
  LayerFinish layer;

  __device__ void operator()(int at) const {
    const PixelChannel own(windows.channels, at);
    const PixelPlace place(windows.out_pixels, windows.out_width, own.pixel);
    const int channels = static_cast<int>(windows.channels.divisor);
    const unsigned char* image = a + place.image * windows.image + own.channel;
    const int y0 = place.y * windows.stride_y - windows.pad_top;
    const int x0 = place.x * windows.stride_x - windows.pad_left;
    int sum = 0;
    for (int ky = 0; ky < kernel_y; ++ky) {
      const int y = y0 + ky * windows.dilation_y;
      if (y < 0 || y >= windows.height) continue;
      for (int kx = 0; kx < kernel_x; ++kx) {
        const int x = x0 + kx * windows.dilation_x;
        if (x < 0 || x >= windows.width) continue;
        sum += (image[(y * windows.width + x) * windows.pixel] - zero) * weights[(ky * kernel_x + kx) * channels + own.channel];
      }
    }
    finish_layer<false>(layer, LayerChannel(layer, own.channel), own.pixel, own.channel, sum);
  }
};

// X_a of windows (arguments.h) from the sums of pixels' codes.
struct TapSumsWork {
  int64_t count;
  const int* sums;      // of pixels
  ConvWindows windows;  // pixel: 1; image: its pixels
  int kernel_y;
  int kernel_x;
  int outside;  // the sum of a pixel that lies outside
  int* out;

  __device__ void operator()(int at) const {
    const PixelPlace place(windows.out_pixels, windows.out_width, at);
    const int* image = sums + place.image * windows.image;
    int sum = 0;
    for (int ky = 0; ky < kernel_y; ++ky) {
      const int y = place.y * windows.stride_y - windows.pad_top + ky * windows.dilation_y;
      for (int kx = 0; kx < kernel_x; ++kx) {
        const int x = place.x * windows.stride_x - windows.pad_left + kx * windows.dilation_x;
        const bool inside = y >= 0 && y < windows.height && x >= 0 && x < windows.width;
        sum += inside ? image[y * windows.width + x] : outside;
      }
    }
    out[at] = sum;
  }
};

// What windows of an image are: rows and columns are pairs, begin and end.
struct WindowSource {
  const unsigned char* a;
  int64_t image;  // bytes
  int width;
  int pixel;
  Divisor channels;
  Divisor out_pixels;
  Divisor out_width;
  const int* rows;
  const int* columns;
};

struct MaxPoolWork {
  int64_t count;
  WindowSource from;
  int step_y;
  int step_x;
  const unsigned char* masks;  // or null
  unsigned char* out;
  int64_t out_pixel;

  __device__ void operator()(int at) const {
    const PixelChannel own(from.channels, at);
    const PixelPlace place(from.out_pixels, from.out_width, own.pixel);
    const unsigned char* image = from.a + place.image * from.image + own.channel;
    // Complementing codes turns their minimum into a maximum.
    const int mask = masks != nullptr ? masks[own.channel] : 0;
    int largest = 0;
    for (int y = from.rows[2 * place.y]; y < from.rows[2 * place.y + 1]; y += step_y) {
      for (int x = from.columns[2 * place.x]; x < from.columns[2 * place.x + 1]; x += step_x) {
        largest = max(largest, image[(y * from.width + x) * from.pixel] ^ mask);
      }
    }
    out[own.pixel * out_pixel + own.channel] = static_cast<unsigned char>(largest ^ mask);
  }
};

struct MeanWork {
  int64_t count;
  WindowSource from;
  int zero;
  const float* scales;  // per window
  LayerFinish layer;

  __device__ void operator()(int at) const {
    const PixelChannel own(from.channels, at);
    const PixelPlace place(from.out_pixels, from.out_width, own.pixel);
    const unsigned char* image = from.a + place.image * from.image + own.channel;
    const int y1 = from.rows[2 * place.y + 1];
    const int x1 = from.columns[2 * place.x + 1];
    int sum = 0;
    for (int y = from.rows[2 * place.y]; y < y1; ++y) {
      for (int x = from.columns[2 * place.x]; x < x1; ++x) sum += image[(y * from.width + x) * from.pixel] - zero;
    }
    LayerChannel channel(layer, own.channel);
    channel.scale = scales[place.y * static_cast<int>(from.out_width.divisor) + place.x];
    finish_layer<false>(layer, channel, own.pixel, own.channel, sum);
  }
};

struct RescaleWork {
  int64_t count;
  const unsigned char* a;
  int64_t pixel;
  int zero;
  Divisor channels;
  LayerFinish layer;

  __device__ void operator()(int at) const {
    const PixelChannel own(channels, at);
    finish_layer<false>(layer, LayerChannel(layer, own.channel), own.pixel, own.channel, a[own.pixel * pixel + own.channel] - zero);
  }
};

template <typename T>
struct MoveWork {
  int64_t count;
  const T* from;
  int64_t image;  // elements
  Divisor channels;
  Divisor out_pixels;
  Divisor out_width;
  const int* rows;
  const int* columns;
  const int* places;  // of channels, or null
  T* to;
  int64_t to_pixel;
  T zero;

  __device__ void operator()(int at) const {
    const PixelChannel own(channels, at);
    const PixelPlace place(out_pixels, out_width, own.pixel);
    const int row = rows[place.y];
    const int column = columns[place.x];
    const int channel = places != nullptr ? places[own.channel] : own.channel;
    const bool inside = row >= 0 && column >= 0;
    to[own.pixel * to_pixel + own.channel] = inside ? from[place.image * image + row + column + channel] : zero;
  }
};

struct LookupWork {
  int64_t count;
  const unsigned char* a;
  int64_t pixel;
  Divisor channels;
  int levels;
  bool per_channel;
  const unsigned char* codes;
  const float* values;  // instead of codes
  unsigned char* out_codes;
  float* out_floats;
  int64_t out_pixel;

  __device__ void operator()(int at) const {
    const PixelChannel own(channels, at);
    const int entry = (per_channel ? own.channel * levels : 0) + a[own.pixel * pixel + own.channel];
    const int64_t to = own.pixel * out_pixel + own.channel;
    if (codes != nullptr) {
      out_codes[to] = codes[entry];
    } else {
      out_floats[to] = values[entry];
    }
  }
};

// A product of floats, summed in the order of k.
struct LinearFloatsWork {
  int64_t count;  // images x columns
  Divisor columns;
  int k;
  const float* a;        // images of k floats
  const float* weights;  // k x columns
  const float* bias;
  float* out;
  int64_t out_pixel;

  __device__ void operator()(int at) const {
    const PixelChannel own(columns, at);
    const float* row = a + static_cast<int64_t>(own.pixel) * k;
    const int n = static_cast<int>(columns.divisor);
    float sum = 0;
    for (int i = 0; i < k; ++i) sum = __fadd_rn(sum, __fmul_rn(row[i], weights[static_cast<int64_t>(i) * n + own.channel]));
    out[own.pixel * out_pixel + own.channel] = __fadd_rn(sum, bias[own.channel]);
  }
};

constexpr int kMaxCombined = 4;

struct CombineWork {
  int64_t count;
  Divisor channels;
  Divisor pixels;  // of an image
  int operand_count;
  Elements operands[kMaxCombined];
  bool one_pixel[kMaxCombined];  // per image, for all of its pixels
  bool multiply;
  float low;
  float high;
  bool divide;
  bool quantizes;
  int target_count;
  Elements targets[kMaxResults];
  int* status;

  __device__ void operator()(int at) const {
    const PixelChannel own(channels, at);
    float v = 0;
    bool finite = true;
    for (int i = 0; i < operand_count; ++i) {
      const float w = operands[i].value(one_pixel[i] ? pixels.quotient(own.pixel) : own.pixel, own.channel);
      finite = finite && w - w == 0.0f;
      v = i == 0 ? w : multiply ? __fmul_rn(v, w) : __fadd_rn(v, w);
    }
    if (quantizes && !finite) status[0] = 1;
    v = bounded(v, low, high);
    for (int i = 0; i < target_count; ++i) targets[i].store(own.pixel, own.channel, v, divide);
  }
};

}  // namespace ulp::cuda
