// Division by a number that is known before a kernel starts, as a multiplication (Granlund and Montgomery, PLDI 1994).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace ulp::cuda {

// n / d for 0 <= n < 2^31, 1 <= d < 2^31: with s = ceil(log2 d) and m = ceil(2^(31 + s) / d), floor(n m / 2^(31 + s)) is exact, because
// m d exceeds 2^(31 + s) by less than d <= 2^s, and n < 2^31.
struct Divisor {
  uint32_t divisor = 1;
  uint32_t multiplier = 0;  // 0: the divisor is 1
  uint32_t shift = 0;       // s - 1

  Divisor() = default;
  explicit Divisor(int64_t d) : divisor(static_cast<uint32_t>(d)) {
    if (d <= 1) return;
    uint32_t log = 1;
    while (int64_t{1} << log < d) ++log;
    multiplier = static_cast<uint32_t>(((uint64_t{1} << (31 + log)) + static_cast<uint64_t>(d) - 1) / static_cast<uint64_t>(d));
    shift = log - 1;
  }

  __device__ int quotient(int n) const {
    if (multiplier == 0) return n;
    return static_cast<int>(static_cast<uint32_t>((static_cast<uint64_t>(static_cast<uint32_t>(n)) * multiplier) >> 32) >> shift);
  }
  __device__ int remainder(int n, int quotient) const { return n - quotient * static_cast<int>(divisor); }
};

}  // namespace ulp::cuda
