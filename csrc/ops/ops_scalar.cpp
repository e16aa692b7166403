// The portable table: what the others are held against.
#include <algorithm>
#include <cstring>

#include "combine_loops.h"
#include "ops_parts.h"

namespace ulp {
namespace {

constexpr int64_t kBlock = 128;  // channels whose values are staged between the loops below

void store_codes(const Target& t, const float* v, int64_t count, uint8_t* out) {
  for (int64_t c = 0; c < count; ++c) out[c] = static_cast<uint8_t>(code_of(v[c], t) + t.offset);
}

void store_counts(const Target& t, const int32_t* acc, int64_t begin, int64_t count, uint8_t* out) {
  for (int64_t c = 0; c < count; ++c) {
    const int32_t* thresholds = t.thresholds + (begin + c) * t.max_code;
    const int32_t x = acc[c] ^ t.flip[begin + c];
    int code = 0;
    while (code < t.max_code && thresholds[code] <= x) ++code;
    out[c] = static_cast<uint8_t>(code);
  }
}

void finish(const Finish& f) {
  float v[kBlock];
  for (int64_t p = 0; p < f.pixels; ++p) {
    for (int64_t begin = 0; begin < f.channels; begin += kBlock) {
      const int64_t count = std::min(kBlock, f.channels - begin);
      const int32_t* acc = f.acc + p * f.ld + begin;
      if (f.one_scale) {
        const float scale = f.scale[0];
        for (int64_t c = 0; c < count; ++c) v[c] = static_cast<float>(acc[c]) * scale;
      } else {
        const float* scale = f.scale + begin;
        for (int64_t c = 0; c < count; ++c) v[c] = static_cast<float>(acc[c]) * scale[c];
      }
      if (f.bias) {
        const float* bias = f.bias + begin;
        for (int64_t c = 0; c < count; ++c) v[c] += bias[c];
      }
      if (f.residual) {
        const uint8_t* residual = f.residual + p * f.residual_pixel + begin;
        for (int64_t c = 0; c < count; ++c) v[c] += static_cast<float>(residual[c] - f.residual_zero) * f.residual_scale;
      }
      for (int64_t c = 0; c < count; ++c) v[c] = bounded(v[c], f.low, f.high);
      for (int i = 0; i < f.target_count; ++i) {
        const Target& t = f.targets[i];
        const int64_t at = p * t.pixel + begin;
        if (!t.codes) {
          std::memcpy(t.floats + at, v, static_cast<size_t>(count) * sizeof(float));
        } else if (t.thresholds) {
          store_counts(t, acc, begin, count, t.codes + at);
        } else {
          store_codes(t, v, count, t.codes + at);
        }
      }
    }
  }
}

// f(first channel of a pixel) for every pixel of the window.
template <class F>
void for_window(const Window& w, F f) {
  for (int y = w.y0; y < w.y1; y += w.y_step) {
    for (int x = w.x0; x < w.x1; x += w.x_step) f(w.a + y * w.row + x * w.pixel);
  }
}

void window_max(const Window& w, uint8_t* out) {
  std::memset(out, 0, static_cast<size_t>(w.channels));
  for_window(w, [&](const uint8_t* a) {
    for (int64_t c = 0; c < w.channels; ++c) out[c] = std::max(out[c], a[c]);
  });
}

void window_sum(const Window& w, int32_t* out) {
  std::memset(out, 0, static_cast<size_t>(w.channels) * sizeof(int32_t));
  for_window(w, [&](const uint8_t* a) {
    for (int64_t c = 0; c < w.channels; ++c) out[c] += a[c];
  });
}

bool quantize(const float* x, int64_t plane, int64_t pixels, int64_t channels, const Target* targets, int target_count) {
  bool finite = true;
  for (int64_t c = 0; c < channels; ++c) {
    const float* from = x + c * plane;
    for (int64_t p = 0; p < pixels; ++p) finite &= from[p] - from[p] == 0;
    for (int i = 0; i < target_count; ++i) {
      const Target& t = targets[i];
      for (int64_t p = 0; p < pixels; ++p) t.codes[p * t.pixel + c] = code_of(from[p], t);
    }
  }
  return finite;
}

void channel_sum(const uint8_t* a, int64_t pixel, int64_t pixels, int64_t channels, int32_t* out) {
  for (int64_t p = 0; p < pixels; ++p) {
    int32_t sum = 0;
    for (int64_t c = 0; c < channels; ++c) sum += a[p * pixel + c];
    out[p] = sum;
  }
}

void to_planes(const float* x, int64_t pixel, int64_t pixels, int64_t channels, float* out, int64_t plane) {
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t p = 0; p < pixels; ++p) out[c * plane + p] = x[p * pixel + c];
  }
}

void lookup(const uint8_t* a, int64_t count, const uint8_t* table, int /*bits*/, uint8_t* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = table[a[i]];
}

void lookup_pairs(const uint8_t* a, const uint8_t* b, int64_t count, const uint8_t* table, int a_bits, int /*bits*/, uint8_t* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = table[a[i] | b[i] << a_bits];
}

}  // namespace

const Ops& scalar_ops() {
  static const Ops table{finish, window_max, window_sum, quantize, channel_sum, to_planes, lookup, lookup_pairs, combine_run};
  return table;
}

}  // namespace ulp
