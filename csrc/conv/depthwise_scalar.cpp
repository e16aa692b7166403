// Depthwise convolution, portable: what the other rows are held against.
#include "depthwise.h"

namespace ulp::depthwise_scalar {

void run(const Depthwise& args);
void run(const Depthwise& args) {
  if (args.rows > 1) {
    for (int64_t r = 0; r < args.rows; ++r) run(row_of(args, r));
    return;
  }
  const Depthwise d = args;
  for (int64_t p = 0; p < d.pixels; ++p) {
    const uint8_t* a = d.a + p * d.step;
    for (int64_t c = 0; c < d.channels; ++c) {
      uint32_t sum = static_cast<uint32_t>(d.start[c]);
      for (int t = 0; t < d.tap_count; ++t) sum += static_cast<uint32_t>(a[d.taps[t] + c] * d.weights[t * d.weight_stride + c]);
      d.acc[p * d.ld + c] = static_cast<int32_t>(sum);
    }
  }
}

}  // namespace ulp::depthwise_scalar
