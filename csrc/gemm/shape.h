// A product without its data: what selects a kernel, on a CPU as on a GPU.
#pragma once

#include <cstdint>

#include "../pack/bits.h"
#include "../pack/lane_excess.h"

namespace ulp {

struct Shape {
  int64_t m;
  int64_t n;
  int64_t k;
  Encoding a;
  Encoding b;
  LaneExcess excess{0.02, 0.001};  // without weights at hand: that of a normal distribution, the largest of 512 at 127
  double packs = 1;                // how often an element of A is packed; a convolution packs a pixel once for all products that it is in
};

// int32: the exact sums. float32, quantized: scaled, see ops/fused.h.
enum class OutputKind { int32, float32, quantized };

}  // namespace ulp
