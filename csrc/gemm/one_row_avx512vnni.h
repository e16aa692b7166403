// One row of A against bitpacked weights of 2, 4 and 8 bits, for stream_avx512vnni.cpp: whole vectors of one unit, fields where they stand.
//
// A vector of 64 bytes is two of a unit's vectors: the same 8 columns for two k-steps, of which the row's operand has one in each half. A
// field is masked and multiplied without a shift, so its products count 2^(bits * field) times; they have a sum of their own, which is
// shifted in the end. That is exact while it stays in int32: the largest field holds 240 (192 with 2 bits), A 128, so K may reach 65536.
//
// Ceiling: an AND and a vpdpbusd for 64 products, 64 multiply-accumulates per cycle (8 bits: no AND, the cache's rate).
#pragma once

#include "bitpacked_avx512.h"

namespace ulp {
namespace {

constexpr int64_t kOneRowK = 65536;
static_assert(kOneRowK * 240 * 128 <= INT32_MAX, "sums of fields where they stand");

template <int bits, int units>
ULP_INLINE void one_row_units(const Tile& t, int first) {
  constexpr int kFields = 8 / bits;              // in a byte
  constexpr int kVectors = bits * kVector / 64;  // of 64 bytes in a unit
  constexpr int kTurns = bits == 8 ? 2 : 1;      // a sum takes five cycles: 8 bits need two that take turns
  Vec sums[units][kFields * kTurns];
  unrolled<units * kFields * kTurns>([&](auto i) { sums[i.value / (kFields * kTurns)][i.value % (kFields * kTurns)] = zero(); });
  const uint8_t* b = t.b + first * bits * kVector;
  const uint8_t* a = t.a;
  for (int64_t left = ceil_div(t.k, kUnitK); left > 0; --left, b += t.units * bits * kVector, a += kUnitK) {
    const Vec block = _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(a)));
    unrolled<kVectors>([&](auto v) {
      Vec x[kFields];
      unrolled<kFields>([&](auto f) {
        constexpr int kFirst = 2 * v.value * kFields + f.value;  // step of the lower half; that of the upper one is kFields behind
        const Vec index = _mm512_inserti64x4(_mm512_set1_epi32(kFirst), _mm256_set1_epi32(kFirst + kFields), 1);
        x[f.value] = _mm512_permutexvar_epi32(index, block);
      });
      unrolled<units>([&](auto u) {
        const Vec codes = load(b + u.value * bits * kVector + v.value * 64);
        unrolled<kFields>([&](auto f) {
          constexpr int kMask = ((1 << bits) - 1) << (bits * f.value);
          const Vec held = bits == 8 ? codes : _mm512_and_si512(codes, _mm512_set1_epi8(static_cast<char>(kMask)));
          Vec& sum = sums[u.value][f.value * kTurns + v.value % kTurns];
          sum = _mm512_dpbusd_epi32(sum, held, x[f.value]);
        });
      });
    });
  }
  __m256i columns[units];
  unrolled<units>([&](auto u) {
    Vec all = sums[u.value][0];
    if constexpr (kTurns == 2) all = add_sums(all, sums[u.value][1]);
    unrolled<kFields - 1>([&](auto f) { all = add_sums(all, _mm512_srai_epi32(sums[u.value][f.value + 1], bits * (f.value + 1))); });
    columns[u.value] = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
  });
  unrolled<(units + 1) / 2>([&](auto pair) {
    constexpr int kLower = 2 * pair.value, kUpper = kLower + 1 < units ? kLower + 1 : kLower;
    const Vec both = _mm512_inserti64x4(_mm512_castsi256_si512(columns[kLower]), columns[kUpper], 1);
    store_result(t, 0, first + kLower, row_term(t, 0), both);
  });
}

template <int bits>
void one_row(const Tile& args) {
  const Tile t = own_copy(args);
  int unit = 0;
  for (; unit + 4 <= t.units; unit += 4) one_row_units<bits, 4>(t, unit);
  if (unit + 2 <= t.units) {
    one_row_units<bits, 2>(t, unit);
    unit += 2;
  }
  if (unit < t.units) one_row_units<bits, 1>(t, unit);
}

}  // namespace
}  // namespace ulp
