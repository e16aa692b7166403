// mul8 and mul16 on AVX2: the machine's own multiplies, tile 3 x 32. One loop; what differs is the width of an element.
//
// mul8: vpmaddubsw with deferred widening.
//   A: the codes themselves, u8, read straight from their rows: one vpbroadcastd gives four k of a row.
//   Panel: code - 2^(b-1), s8, one 32-byte vector = 8 columns x 4 k:   | step 0: unit 0 .. 3 | step 1: unit 0 .. 3 | ...
//   vpmaddubsw gives 16 sums of two products; they gather in s16 for `flush` steps, then vpmaddwd with ones makes 8 columns of int32.
//
//   Bound. A step adds two products of at most m = (2^a - 1) 2^(b-1) to an s16 lane, so flush = floor(32767 / (2 m)) steps are exact:
//   585 for W3A3, 136 for W4A4, 33, 8, 2 for W5A5, W6A6, W7A7, and none for W8A8.
//
//   Ceiling on Zen 3: 2 x 12 vector operations a step at 3.03 a cycle = 7.9 cycles for 384 multiply-accumulates, 48 a cycle. Twelve
//   accumulators leave four registers: rows 0 and 1 share each load of B, row 2 takes B from memory, 11 loads a step where two a cycle may go.
//
// mul16: vpmaddwd, exact for every pair; meant for W8A8, where vpmaddubsw would saturate.
//   A and panel: 16-bit elements. Splitting bytes into even and odd is one operation, so of every four k the pairs are (0, 2) and (1, 3):
//   A has | k0 k2 | k1 k3 | k4 k6 | ..., the panel two vectors where mul8 has one.
//   Bound: two products of at most 255 * 128 a step go to int32, whose wrap-around is the modulo 2^32 that the driver expects.
//   Ceiling: half of mul8's, 24 multiply-accumulates a cycle.
#include "dense_avx2.h"

namespace ulp {
namespace {

constexpr int local_steps(int a_bits, int b_bits) {
  return accumulation_length(32767, 2, max_product(a_bits, 0, b_bits, 1 << (b_bits - 1)));
}
static_assert(local_steps(3, 3) == 585 && local_steps(4, 4) == 136 && local_steps(5, 5) == 33, "deferred widening");
static_assert(local_steps(6, 6) == 8 && local_steps(7, 7) == 2 && local_steps(8, 7) == 1 && local_steps(8, 8) == 0, "deferred widening");

template <int bits>
void expand8(const DenseSlice& s, uint8_t* panel) {
  const __m256i centre = _mm256_set1_epi8(static_cast<char>(1 << (bits - 1)));
  for (int64_t kb = 0; kb < s.k_blocks; ++kb) {
    for (int u = 0; u < s.units; ++u) {
      __m256i v[8];
      decode<bits>(dense_unit(s, kb, u), v);
      ULP_UNROLL for (int j = 0; j < 8; ++j) {
        store(panel + ((kb * 8 + j) * s.units + u) * kVector, _mm256_sub_epi8(v[j], centre));
      }
    }
  }
}

template <int bits>
void expand16(const DenseSlice& s, uint8_t* panel) {
  const __m256i centre = _mm256_set1_epi16(1 << (bits - 1));
  for (int64_t kb = 0; kb < s.k_blocks; ++kb) {
    for (int u = 0; u < s.units; ++u) {
      __m256i v[8];
      decode<bits>(dense_unit(s, kb, u), v);
      ULP_UNROLL for (int j = 0; j < 8; ++j) {
        uint8_t* to = panel + ((kb * 16 + 2 * j) * s.units + u) * kVector;
        store(to, _mm256_sub_epi16(_mm256_and_si256(v[j], _mm256_set1_epi16(0xFF)), centre));
        store(to + s.units * kVector, _mm256_sub_epi16(_mm256_srli_epi16(v[j], 8), centre));
      }
    }
  }
}

void widen_a(const uint8_t* codes, int64_t stride, int rows, int64_t k32, uint8_t* out, int64_t out_stride) {
  for (int r = 0; r < rows; ++r, codes += stride, out += out_stride) {
    for (int64_t k = 0; k < k32; k += kUnitK) {
      const __m256i x = load(codes + k);
      const __m256i even = _mm256_and_si256(x, _mm256_set1_epi16(0xFF));
      const __m256i odd = _mm256_srli_epi16(x, 8);
      const __m256i lo = _mm256_unpacklo_epi32(even, odd);
      const __m256i hi = _mm256_unpackhi_epi32(even, odd);
      store(out + 2 * k, _mm256_permute2x128_si256(lo, hi, 0x20));
      store(out + 2 * k + kVector, _mm256_permute2x128_si256(lo, hi, 0x31));
    }
  }
}

// A multiply-accumulate of one vector each. Written out because a compiler hoists the multiplies, runs out of registers and spills
// accumulators (gcc 12: 25 multiply-accumulates a cycle instead of 44).
struct Mul8 {
  static constexpr int kStepK = 4;
#if defined(__GNUC__)
  static void multiply_add(__m256i& acc, __m256i a, __m256i b) {
    __m256i product;
    __asm__("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(acc), "=&x"(product) : "x"(a), "x"(b));
  }
  static void multiply_add(__m256i& acc, __m256i a, const uint8_t* b) {
    __m256i product;
    __asm__("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(acc), "=&x"(product) : "x"(a), "m"(*reinterpret_cast<const __m256i*>(b)));
  }
#else
  static void multiply_add(__m256i& acc, __m256i a, __m256i b) { acc = _mm256_add_epi16(acc, _mm256_maddubs_epi16(a, b)); }
  static void multiply_add(__m256i& acc, __m256i a, const uint8_t* b) { multiply_add(acc, a, load(b)); }
#endif
  static __m256i widen(__m256i acc) { return _mm256_madd_epi16(acc, _mm256_set1_epi16(1)); }
};

struct Mul16 {
  static constexpr int kStepK = 2;
#if defined(__GNUC__)
  static void multiply_add(__m256i& acc, __m256i a, __m256i b) {
    __m256i product;
    __asm__("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(acc), "=&x"(product) : "x"(a), "x"(b));
  }
  static void multiply_add(__m256i& acc, __m256i a, const uint8_t* b) {
    __m256i product;
    __asm__("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(acc), "=&x"(product) : "x"(a), "m"(*reinterpret_cast<const __m256i*>(b)));
  }
#else
  static void multiply_add(__m256i& acc, __m256i a, __m256i b) { acc = _mm256_add_epi32(acc, _mm256_madd_epi16(a, b)); }
  static void multiply_add(__m256i& acc, __m256i a, const uint8_t* b) { multiply_add(acc, a, load(b)); }
#endif
  static __m256i widen(__m256i acc) { return acc; }
};

__m256i broadcast4(const uint8_t* p) {
  int32_t four;
  __builtin_memcpy(&four, p, 4);
  return _mm256_set1_epi32(four);
}

template <class Op, int rows, int units>
void tile(const Tile& t) {
  alignas(32) int32_t total[rows][units][kUnitCols] = {};
  const uint8_t* a[rows];
  ULP_UNROLL for (int r = 0; r < rows; ++r) a[r] = t.a + r * t.a_stride;
  const uint8_t* b = t.b;
  const int64_t all = ceil_div(t.k, Op::kStepK);
  for (int64_t done = 0; done < all;) {
    const int64_t steps = all - done < t.flush ? all - done : t.flush;
    __m256i acc[rows][units];
    ULP_UNROLL for (int r = 0; r < rows; ++r) {
      ULP_UNROLL for (int u = 0; u < units; ++u) acc[r][u] = _mm256_setzero_si256();
    }
    for (int64_t i = done; i < done + steps; ++i) {
      if constexpr (rows == 3) {
        const __m256i x2 = broadcast4(a[2] + 4 * i);
        ULP_UNROLL for (int u = 0; u < units; ++u) Op::multiply_add(acc[2][u], x2, b + u * kVector);
      }
      const __m256i x0 = broadcast4(a[0] + 4 * i);
      const __m256i x1 = broadcast4(a[rows > 1 ? 1 : 0] + 4 * i);
      ULP_UNROLL for (int u = 0; u < units; ++u) {
        const __m256i y = load(b + u * kVector);
        Op::multiply_add(acc[0][u], x0, y);
        if constexpr (rows > 1) Op::multiply_add(acc[1][u], x1, y);
      }
      b += units * kVector;
    }
    done += steps;
    const bool last = done == all;
    ULP_UNROLL for (int r = 0; r < rows; ++r) {
      ULP_UNROLL for (int u = 0; u < units; ++u) {
        __m256i* sum = reinterpret_cast<__m256i*>(total[r][u]);
        const __m256i wide = _mm256_add_epi32(Op::widen(acc[r][u]), _mm256_load_si256(sum));
        if (last) {
          store_result(t, r, u, wide);
        } else {
          _mm256_store_si256(sum, wide);
        }
      }
    }
  }
}

template <class Op, int rows>
void tile_of_rows(const Tile& t) {
  switch (t.units) {
    case 1: return tile<Op, rows, 1>(t);
    case 2: return tile<Op, rows, 2>(t);
    case 3: return tile<Op, rows, 3>(t);
    default: return tile<Op, rows, 4>(t);
  }
}

template <class Op>
void run(const Tile& t) {
  switch (t.rows) {
    case 1: return tile_of_rows<Op, 1>(t);
    case 2: return tile_of_rows<Op, 2>(t);
    default: return tile_of_rows<Op, 3>(t);
  }
}

}  // namespace

namespace mul8_avx2 {

bool supports(int a_bits, int b_bits) { return local_steps(a_bits, b_bits) > 0; }

Bound bind(int a_bits, int b_bits) {
  Bound b;
  b.centre_b = 1 << (b_bits - 1);
  b.flush = local_steps(a_bits, b_bits);
  b.panel_bytes = kUnitCodes;
  b.expand = for_bits(b_bits, [](auto bits) { return &expand8<decltype(bits)::value>; });
  b.run = run<Mul8>;
  return b;
}

}  // namespace mul8_avx2

namespace mul16_avx2 {

bool supports(int, int) { return true; }

Bound bind(int, int b_bits) {
  Bound b;
  b.centre_b = 1 << (b_bits - 1);
  b.flush = 1 << 30;  // nothing to spill
  b.a_bytes = 2 * kUnitK;
  b.panel_bytes = 2 * kUnitCodes;
  b.pack_a = widen_a;
  b.expand = for_bits(b_bits, [](auto bits) { return &expand16<decltype(bits)::value>; });
  b.run = run<Mul16>;
  return b;
}

}  // namespace mul16_avx2

}  // namespace ulp
