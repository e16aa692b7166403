// What keeps loops over arrays of vectors in registers, and numbers known to the compiler. For kernel files: all of it is inlined or has
// internal linkage, and no templates of std are used, whose copies would carry the file's instruction set under a shared name.
#pragma once

// Before a loop over an array of vectors with constant bounds: gcc keeps the array in registers only if it unrolls the loop early.
#if defined(__GNUC__) && !defined(__clang__) && !defined(ULP_SANITIZED)
#define ULP_UNROLL _Pragma("GCC unroll 32")
#else
#define ULP_UNROLL
#endif

// For helpers that take accumulators by reference: one call that is not inlined puts them all in memory. With sanitizers they lie there
// anyway, and inlined checks take minutes to compile.
#if defined(ULP_SANITIZED)
#define ULP_INLINE inline
#elif defined(__GNUC__)
#define ULP_INLINE inline __attribute__((always_inline))
#else
#define ULP_INLINE __forceinline
#endif

namespace ulp {
namespace {

// A number as a type.
template <int n>
struct Int {
  static constexpr int value = n;
};

// f(Int<bits>) for a number of bits known at run time.
template <class F>
inline auto for_bits(int bits, F f) {
  switch (bits) {
    case 1:
      return f(Int<1>{});
    case 2:
      return f(Int<2>{});
    case 3:
      return f(Int<3>{});
    case 4:
      return f(Int<4>{});
    case 5:
      return f(Int<5>{});
    case 6:
      return f(Int<6>{});
    case 7:
      return f(Int<7>{});
    default:
      return f(Int<8>{});
  }
}

// f(Int<0>), f(Int<1>), ... f(Int<n - 1>): a loop whose counter is a constant in the body.
template <int n, class F>
inline void unrolled(F f) {
  if constexpr (n > 0) {
    unrolled<n - 1>(f);
    f(Int<n - 1>{});
  }
}

}  // namespace
}  // namespace ulp
