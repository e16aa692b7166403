// Ops::window_max on AVX-512.
#include "ops_avx512.h"

#include "window_max_x86.h"

namespace ulp::ops_avx512 {

void window_max(const Window& w, uint8_t* out) { ulp::window_max(w, out); }

}  // namespace ulp::ops_avx512
