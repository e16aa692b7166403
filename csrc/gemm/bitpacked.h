// Decoding the bitpacked layout (pack/layout.h), for any instruction set that has defined, before it includes this:
//
//   Vec                    kVecUnits vectors of the layout: one, or those of two adjacent units
//   Units                  where those units lie
//   stored(units, i)       stored vector i of them
//   field<s>(x, mask)      byte-wise (x >> s) & mask
//   moved<s>(x, mask)      byte-wise (x << s) & mask, or (x >> -s) & mask
//   either(x, y)           x | y
#pragma once

#include "kernel.h"
#include "kernel_util.h"

namespace ulp {
namespace {

constexpr int kVecBytes = kVecUnits * kVector;
constexpr int kVecCols = kVecUnits * kUnitCols;

// Vector j of a unit: byte 4 c + i is the code of column c, k = 4 j + i. The fields are drawn in pack/layout.h.
template <int bits, int j>
inline Vec code_vector(Units units) {
  const auto x = [units](int i) { return stored(units, i); };
  if constexpr (bits == 1) {
    return field<j>(x(0), 1);
  } else if constexpr (bits == 2) {
    return field<j % 4 * 2>(x(j / 4), 3);
  } else if constexpr (bits == 3 && j < 6) {
    return field<j / 3 * 3>(x(j % 3), 7);
  } else if constexpr (bits == 3) {
    return either(field<6>(x(j - 6), 3), field<j - 2>(x(2), 4));
  } else if constexpr (bits == 8) {
    return x(j);
  } else {
    Vec v = field<j % 2 * 4>(x(j / 2), 15);
    if constexpr (bits & 2) v = either(v, moved<4 - j % 4 * 2>(x(4 + j / 4), 3 << 4));
    if constexpr (bits & 1) v = either(v, moved<bits - 1 - j>(x(bits - 1), 1 << (bits - 1)));
    return v;
  }
}

template <int bits>
inline void decode(Units units, Vec v[8]) {
  unrolled<8>([&](auto j) { v[j.value] = code_vector<bits, j.value>(units); });
}

}  // namespace
}  // namespace ulp
