// From a number of bits known at run time to one known at compile time.
#pragma once

#include <stdexcept>
#include <string>
#include <type_traits>

namespace ulp::cuda {

// f(std::integral_constant<int, bits>()) for bits in kFirst ... kLast.
template <int kLast = 8, int kFirst = 1, typename F>
auto with_bits(int bits, const F& f) {
  if constexpr (kFirst < kLast) {
    if (bits != kFirst) return with_bits<kLast, kFirst + 1>(bits, f);
  } else {
    if (bits != kFirst) throw std::logic_error("no code for weights of " + std::to_string(bits) + " bits");
  }
  return f(std::integral_constant<int, kFirst>());
}

}  // namespace ulp::cuda
