// Ops::finish on NEON. Columns are taken 16 at a time, their scales and biases in registers, over all pixels.
//
// A code needs no clamp of the rounded value: conversion to int32 saturates, so do both narrowings, and each grows with its argument. So
// what is below all codes ends at 0, what is above ends above the largest code and takes one minimum of 16 bytes.
#include <arm_neon.h>

#include <cstring>

#include "../gemm/kernel_util.h"
#include "ops_parts.h"

namespace ulp::ops_neon {
namespace {

constexpr int kLanes = 16;
constexpr int kVectors = 4;

struct Values {
  float32x4_t v[kVectors];
};

// What targets of codes need as it is; a zero may lose its sign.
ULP_INLINE float32x4_t clamped(float32x4_t v, float32x4_t low, float32x4_t high) { return vminq_f32(vmaxq_f32(v, low), high); }

// A bound replaces what is beyond it, and nothing else: a NaN stays, and a zero keeps its sign.
ULP_INLINE float32x4_t bounded(float32x4_t v, float32x4_t low, float32x4_t high) {
  v = vbslq_f32(vcgtq_f32(low, v), low, v);
  return vbslq_f32(vcgtq_f32(v, high), high, v);
}

ULP_INLINE uint8x16_t codes_of(const Values& x, const Target& t) {
  const int16x8_t zero = vdupq_n_s16(static_cast<int16_t>(t.zero));
  const float32x4_t inverse = vdupq_n_f32(t.inverse);
  int32x4_t r[kVectors];
  ULP_UNROLL for (int i = 0; i < kVectors; ++i) r[i] = vcvtnq_s32_f32(vmulq_f32(x.v[i], inverse));
  const int16x8_t low = vqaddq_s16(vcombine_s16(vqmovn_s32(r[0]), vqmovn_s32(r[1])), zero);
  const int16x8_t high = vqaddq_s16(vcombine_s16(vqmovn_s32(r[2]), vqmovn_s32(r[3])), zero);
  const uint8x16_t codes = vcombine_u8(vqmovun_s16(low), vqmovun_s16(high));
  return vaddq_u8(vminq_u8(codes, vdupq_n_u8(static_cast<uint8_t>(t.max_code))), vdupq_n_u8(t.offset));
}

// 16 elements, or in a part the first n; the others are 0.
template <bool part, class T>
struct Read {
  T staged[kLanes];

  ULP_INLINE const T* operator()(const T* p, int64_t n) {
    if constexpr (!part) return p;
    std::memset(staged, 0, sizeof staged);
    std::memcpy(staged, p, static_cast<size_t>(n) * sizeof(T));
    return staged;
  }
};

template <bool part>
ULP_INLINE void store(const Values& x, const Target& t, int64_t at, int64_t n) {
  if (t.codes) {
    const uint8x16_t codes = codes_of(x, t);
    if constexpr (part) {
      uint8_t staged[kLanes];
      vst1q_u8(staged, codes);
      std::memcpy(t.codes + at, staged, static_cast<size_t>(n));
    } else {
      vst1q_u8(t.codes + at, codes);
    }
  } else if constexpr (part) {
    float staged[kLanes];
    ULP_UNROLL for (int i = 0; i < kVectors; ++i) vst1q_f32(staged + 4 * i, x.v[i]);
    std::memcpy(t.floats + at, staged, static_cast<size_t>(n) * sizeof(float));
  } else {
    ULP_UNROLL for (int i = 0; i < kVectors; ++i) vst1q_f32(t.floats + at + 4 * i, x.v[i]);
  }
}

// Columns from `column` on, 16 or, for a part, n < 16. Floats: some target is of them.
template <bool part, bool floats>
void columns(const Finish& args, int64_t column, int64_t n) {
  const Finish f = args;  // a copy that no store can alias
  Values scale, bias;
  Read<part, float> read_floats;
  const float* p = f.one_scale ? nullptr : read_floats(f.scale + column, n);
  ULP_UNROLL for (int i = 0; i < kVectors; ++i) scale.v[i] = f.one_scale ? vdupq_n_f32(f.scale[0]) : vld1q_f32(p + 4 * i);
  p = f.bias ? read_floats(f.bias + column, n) : nullptr;
  ULP_UNROLL for (int i = 0; i < kVectors; ++i) {
    bias.v[i] = f.bias ? vld1q_f32(p + 4 * i) : vdupq_n_f32(-0.0f);  // which leaves what it is added to as it is, zeros included
  }
  const float32x4_t low = vdupq_n_f32(f.low);
  const float32x4_t high = vdupq_n_f32(f.high);
  const float32x4_t residual_scale = vdupq_n_f32(f.residual_scale);
  const int32x4_t residual_zero = vdupq_n_s32(f.residual_zero);
  for (int64_t pixel = 0; pixel < f.pixels; ++pixel) {
    Values x;
    Read<part, int32_t> read_sums;
    const int32_t* acc = read_sums(f.acc + pixel * f.ld + column, n);
    ULP_UNROLL for (int i = 0; i < kVectors; ++i) {
      x.v[i] = vaddq_f32(vmulq_f32(vcvtq_f32_s32(vld1q_s32(acc + 4 * i)), scale.v[i]), bias.v[i]);
    }
    if (f.residual) {
      Read<part, uint8_t> read_codes;
      const uint8x16_t codes = vld1q_u8(read_codes(f.residual + pixel * f.residual_pixel + column, n));
      const uint16x8_t words[2] = {vmovl_u8(vget_low_u8(codes)), vmovl_u8(vget_high_u8(codes))};
      ULP_UNROLL for (int i = 0; i < kVectors; ++i) {
        const uint16x4_t four = i % 2 == 0 ? vget_low_u16(words[i / 2]) : vget_high_u16(words[i / 2]);
        const int32x4_t other = vsubq_s32(vreinterpretq_s32_u32(vmovl_u16(four)), residual_zero);
        x.v[i] = vaddq_f32(x.v[i], vmulq_f32(vcvtq_f32_s32(other), residual_scale));
      }
    }
    ULP_UNROLL for (int i = 0; i < kVectors; ++i) x.v[i] = floats ? bounded(x.v[i], low, high) : clamped(x.v[i], low, high);
    for (int i = 0; i < f.target_count; ++i) {
      const Target& t = f.targets[i];
      store<part>(x, t, pixel * t.pixel + column, n);
    }
  }
}

template <bool floats>
void run(const Finish& f) {
  int64_t column = 0;
  for (; column + kLanes <= f.channels; column += kLanes) columns<false, floats>(f, column, kLanes);
  if (column < f.channels) columns<true, floats>(f, column, f.channels - column);
}

void finish_values(const Finish& f) {
  bool floats = false;
  for (int i = 0; i < f.target_count; ++i) floats |= !f.targets[i].codes;
  floats ? run<true>(f) : run<false>(f);
}

// `count` targets from `first` on.
Finish with_targets(Finish f, int first, int count) {
  f.targets += first;
  f.target_count = count;
  return f;
}

}  // namespace

// Targets with thresholds are the portable table's, the runs of others between them are finished together.
void finish(const Finish& f) {
  int first = 0;
  for (int i = 0; i <= f.target_count; ++i) {
    const bool thresholds = i < f.target_count && f.targets[i].thresholds;
    if (i < f.target_count && !thresholds) continue;
    if (i > first) finish_values(with_targets(f, first, i - first));
    if (thresholds) scalar_ops().finish(with_targets(f, i, 1));
    first = i + 1;
  }
}

}  // namespace ulp::ops_neon
