// 16 floats in plain C++, which compilers turn into vectors of the ISA of the file that includes it.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "../gemm/kernel_util.h"

namespace ulp {
namespace {

struct Vector16 {
  float v[16];

  static constexpr int tile_rows = 4;

  template <class F>
  static ULP_INLINE Vector16 each(F f) {
    Vector16 r;
    for (int i = 0; i < 16; ++i) r.v[i] = f(i);
    return r;
  }

  static ULP_INLINE Vector16 all(float x) {
    return each([x](int) { return x; });
  }
  static ULP_INLINE Vector16 load(const float* p) {
    Vector16 r;
    std::memcpy(r.v, p, sizeof r.v);
    return r;
  }
  static ULP_INLINE Vector16 load_first(const float* p, int64_t n) {
    Vector16 r{};
    std::memcpy(r.v, p, static_cast<size_t>(n) * sizeof(float));
    return r;
  }
  static ULP_INLINE Vector16 load_codes(const uint8_t* p, int zero) {
    return each([=](int i) { return static_cast<float>(p[i] - zero); });
  }
  static ULP_INLINE Vector16 load_first_codes(const uint8_t* p, int64_t n, int zero) {
    uint8_t bytes[16] = {};
    std::memcpy(bytes, p, static_cast<size_t>(n));
    return load_codes(bytes, zero);
  }
  // sums - zero * columns, modulo 2^32, as floats.
  static ULP_INLINE Vector16 load_sums(const int32_t* sums, const int32_t* columns, int32_t zero) {
    return each([=](int i) {
      const uint32_t shift = static_cast<uint32_t>(columns[i]) * static_cast<uint32_t>(zero);
      return static_cast<float>(static_cast<int32_t>(static_cast<uint32_t>(sums[i]) - shift));
    });
  }

  ULP_INLINE void store(float* p) const { std::memcpy(p, v, sizeof v); }
  ULP_INLINE void store_first(float* p, int64_t n) const { std::memcpy(p, v, static_cast<size_t>(n) * sizeof(float)); }
  ULP_INLINE Vector16 first(int64_t n) const {
    return each([=](int i) { return i < n ? v[i] : 0.0f; });
  }
  ULP_INLINE void store_codes(uint8_t* p, int64_t n, int zero) const {
    for (int64_t i = 0; i < (n < 16 ? n : 16); ++i) p[i] = static_cast<uint8_t>(static_cast<int>(v[i]) + zero);
  }

  // Of values that are yet to be rounded.
  ULP_INLINE void store_rounded(uint8_t* p, int64_t n, int zero) const { rint().store_codes(p, n, zero); }

  static ULP_INLINE void store_four_rounded(uint8_t* p, const Vector16 (&x)[4], int zero) {
    for (int i = 0; i < 4; ++i) x[i].store_rounded(p + 16 * i, 16, zero);
  }

  ULP_INLINE Vector16 operator+(const Vector16& o) const {
    return each([&](int i) { return v[i] + o.v[i]; });
  }
  ULP_INLINE Vector16 operator-(const Vector16& o) const {
    return each([&](int i) { return v[i] - o.v[i]; });
  }
  ULP_INLINE Vector16 operator*(const Vector16& o) const {
    return each([&](int i) { return v[i] * o.v[i]; });
  }
  ULP_INLINE Vector16 operator/(const Vector16& o) const {
    return each([&](int i) { return v[i] / o.v[i]; });
  }
  ULP_INLINE Vector16 fma(const Vector16& b, const Vector16& c) const {
    return each([&](int i) { return ::fmaf(v[i], b.v[i], c.v[i]); });
  }
  ULP_INLINE Vector16 max(const Vector16& o) const {
    return each([&](int i) { return v[i] > o.v[i] ? v[i] : o.v[i]; });
  }
  ULP_INLINE Vector16 min(const Vector16& o) const {
    return each([&](int i) { return v[i] < o.v[i] ? v[i] : o.v[i]; });
  }
  // Of values below 2^22: a sum that leaves no bits for a fraction is rounded by the FPU, half to even.
  ULP_INLINE Vector16 rint() const {
    return each([&](int i) { return (v[i] + 12582912.0f) - 12582912.0f; });
  }
  // v * 2^n, n being integers of -126 .. 127.
  ULP_INLINE Vector16 times_power_of_2(const Vector16& n) const {
    return each([&](int i) {
      const int32_t bits = (static_cast<int32_t>(n.v[i]) + 127) << 23;
      float power;
      std::memcpy(&power, &bits, 4);
      return v[i] * power;
    });
  }
  ULP_INLINE Vector16 magnitude() const {
    return each([&](int i) { return ::fabsf(v[i]); });
  }
  ULP_INLINE Vector16 below(const Vector16& limit, const Vector16& a, const Vector16& b) const {
    return each([&](int i) { return v[i] < limit.v[i] ? a.v[i] : b.v[i]; });
  }
  ULP_INLINE float sum() const {
    float s[16];
    std::memcpy(s, v, sizeof v);
    for (int half = 8; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) s[i] += s[i + half];
    }
    return s[0];
  }
  ULP_INLINE float largest() const {
    float m = v[0];
    for (int i = 1; i < 16; ++i) m = v[i] > m ? v[i] : m;
    return m;
  }
};

}  // namespace
}  // namespace ulp
