// The loop of a tile of 3 x 32 on the 8- and 16-bit multiplies: for kernel files built with -mavx2 only.
#pragma once

#include "bitpacked_avx2.h"
#include "panel_codes.h"

namespace ulp {
namespace {

// The whole tile's loop. Zen 3 gives an instruction its scheduler by its place in the group of six that it is dispatched with, so the order
// counts for up to a third: of 1,500 orders tried this was among the best, at 51 multiply-accumulates per cycle from L1 (bench/NOTES.md).
// %0-%11 accumulators by row and unit, %12-%15 work, %16 offset in A, %17 steps, %18 B, %19 pieces, %20 pieces left, %21-%23 rows of A.
#define ULP_HOT_LOOP(mul, add)                                                                                          \
  "vpxor %0, %0, %0\n\tvpxor %1, %1, %1\n\tvpxor %2, %2, %2\n\tvpxor %3, %3, %3\n\t"                                    \
  "vpxor %4, %4, %4\n\tvpxor %5, %5, %5\n\tvpxor %6, %6, %6\n\tvpxor %7, %7, %7\n\t"                                    \
  "vpxor %8, %8, %8\n\tvpxor %9, %9, %9\n\tvpxor %10, %10, %10\n\tvpxor %11, %11, %11\n\t"                              \
  "2:\n\t"                                                                                                              \
  "mov (%19), %16\n\tmov 8(%19), %17\n\tadd $16, %19\n\t"                                                               \
  ".p2align 5\n"                                                                                                        \
  "1:\n\t"                                                                                                              \
  "vpbroadcastd (%23,%16), %12\n\t" mul " (%18), %12, %13\n\t" add " %13, %8, %8\n\t" mul " 32(%18), %12, %14\n\t" add  \
  " %14, %9, %9\n\t" mul " 64(%18), %12, %15\n\t" add " %15, %10, %10\n\t" mul " 96(%18), %12, %13\n\t" add             \
  " %13, %11, %11\n\t"                                                                                                  \
  "vpbroadcastd (%21,%16), %12\n\t"                                                                                     \
  "vpbroadcastd (%22,%16), %13\n\t"                                                                                     \
  "vmovdqu (%18), %14\n\t" mul " %14, %12, %15\n\t" mul " %14, %13, %14\n\t" add " %15, %0, %0\n\t" add                 \
  " %14, %4, %4\n\t"                                                                                                    \
  "vmovdqu 32(%18), %14\n\t" mul " %14, %12, %15\n\t" add " %15, %1, %1\n\t" mul " %14, %13, %14\n\t" add               \
  " %14, %5, %5\n\t"                                                                                                    \
  "vmovdqu 64(%18), %14\n\t" mul " %14, %12, %15\n\t" add " %15, %2, %2\n\t" mul                                        \
  " %14, %13, %14\n\t"                                                                                                  \
  "nop\n\t" add " %14, %6, %6\n\t" mul " 96(%18), %12, %15\n\t" add " %15, %3, %3\n\t" mul " 96(%18), %13, %14\n\t" add \
  " %14, %7, %7\n\t"                                                                                                    \
  "add $128, %18\n\t"                                                                                                   \
  "add $4, %16\n\t"                                                                                                     \
  "sub $1, %17\n\t"                                                                                                     \
  "jnz 1b\n\t"                                                                                                          \
  "sub $1, %20\n\t"                                                                                                     \
  "jnz 2b"

#define ULP_HOT_OPERANDS                                                                                                        \
  : "=&x"(c[0][0]), "=&x"(c[0][1]), "=&x"(c[0][2]), "=&x"(c[0][3]), "=&x"(c[1][0]), "=&x"(c[1][1]), "=&x"(c[1][2]),             \
    "=&x"(c[1][3]), "=&x"(c[2][0]), "=&x"(c[2][1]), "=&x"(c[2][2]), "=&x"(c[2][3]), "=&x"(w0), "=&x"(w1), "=&x"(w2), "=&x"(w3), \
    "=&r"(offset), "=&r"(steps), "+r"(b), "+r"(pieces), "+r"(count)                                                             \
  : "r"(a[0]), "r"(a[1]), "r"(a[2])                                                                                              \
  : "memory", "cc"

// multiply_add: a multiply-accumulate of one vector each. Written out, and volatile, because a compiler hoists the multiplies, runs out of
// registers and spills accumulators (gcc 12: 25 multiply-accumulates per cycle instead of 45).
struct Mul8 {
  static constexpr int kStepK = 4;
#if defined(__GNUC__)
  static void multiply_add(__m256i& acc, __m256i a, __m256i b) {
    __m256i product;
    __asm__ volatile("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(acc), "=&x"(product) : "x"(a), "x"(b));
  }
  static void multiply_add(__m256i& acc, __m256i a, const uint8_t* b) {
    __m256i product;
    __asm__ volatile("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0"
                     : "+x"(acc), "=&x"(product)
                     : "x"(a), "m"(*reinterpret_cast<const __m256i*>(b)));
  }
#else
  static void multiply_add(__m256i& acc, __m256i a, __m256i b) { acc = _mm256_add_epi16(acc, _mm256_maddubs_epi16(a, b)); }
  static void multiply_add(__m256i& acc, __m256i a, const uint8_t* b) { multiply_add(acc, a, load(b)); }
#endif
  static __m256i widen(__m256i acc) { return _mm256_madd_epi16(acc, _mm256_set1_epi16(1)); }
#if defined(__GNUC__)
  static ULP_INLINE void hot_loop(const uint8_t* const (&a)[3], const uint8_t*& b, const Piece* pieces, int64_t count, __m256i (&c)[3][4]) {
    __m256i w0, w1, w2, w3;
    int64_t offset, steps;
    __asm__ volatile(ULP_HOT_LOOP("vpmaddubsw", "vpaddw") ULP_HOT_OPERANDS);
  }
#endif
};

struct Mul16 {
  static constexpr int kStepK = 2;
#if defined(__GNUC__)
  static void multiply_add(__m256i& acc, __m256i a, __m256i b) {
    __m256i product;
    __asm__ volatile("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(acc), "=&x"(product) : "x"(a), "x"(b));
  }
  static void multiply_add(__m256i& acc, __m256i a, const uint8_t* b) {
    __m256i product;
    __asm__ volatile("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0"
                     : "+x"(acc), "=&x"(product)
                     : "x"(a), "m"(*reinterpret_cast<const __m256i*>(b)));
  }
#else
  static void multiply_add(__m256i& acc, __m256i a, __m256i b) { acc = _mm256_add_epi32(acc, _mm256_madd_epi16(a, b)); }
  static void multiply_add(__m256i& acc, __m256i a, const uint8_t* b) { multiply_add(acc, a, load(b)); }
#endif
  static __m256i widen(__m256i acc) { return acc; }
#if defined(__GNUC__)
  static ULP_INLINE void hot_loop(const uint8_t* const (&a)[3], const uint8_t*& b, const Piece* pieces, int64_t count, __m256i (&c)[3][4]) {
    __m256i w0, w1, w2, w3;
    int64_t offset, steps;
    __asm__ volatile(ULP_HOT_LOOP("vpmaddwd", "vpaddd") ULP_HOT_OPERANDS);
  }
#endif
};

// Below this the hot loop's start costs more than its order gains.
constexpr int kHotSteps = 8;

// acc = the steps of the tile's pieces; b moves on. `a`: the rows' starts.
template <class Op, int rows, int units>
ULP_INLINE void multiply(const uint8_t* const (&a)[rows], const uint8_t*& b, const Piece* pieces, int64_t count,
                         __m256i (&acc)[rows][units]) {
#if defined(__GNUC__)
  if constexpr (rows == 3 && units == 4) {
    if (count > 1 || pieces->steps >= kHotSteps) return Op::hot_loop(a, b, pieces, count, acc);
  }
#endif
  ULP_UNROLL for (int r = 0; r < rows; ++r) { ULP_UNROLL for (int u = 0; u < units; ++u) acc[r][u] = _mm256_setzero_si256(); }
  for (const Piece* piece = pieces; piece != pieces + count; ++piece) {
    const int64_t end = piece->a + 4 * piece->steps;
    for (int64_t at = piece->a; at < end; at += 4) {
      if constexpr (rows == 3) {
        const __m256i x2 = broadcast4(a[2] + at);
        ULP_UNROLL for (int u = 0; u < units; ++u) Op::multiply_add(acc[2][u], x2, b + u * kVector);
      }
      const __m256i x0 = broadcast4(a[0] + at);
      const __m256i x1 = broadcast4(a[rows > 1 ? 1 : 0] + at);
      ULP_UNROLL for (int u = 0; u < units; ++u) {
        const __m256i y = load(b + u * kVector);
        Op::multiply_add(acc[0][u], x0, y);
        if constexpr (rows > 1) Op::multiply_add(acc[1][u], x1, y);
      }
      b += units * kVector;
    }
  }
}

}  // namespace
}  // namespace ulp
