// lut on AVX2: vpshufb, tile 3 x 96 (tile_lut.h).
//
// Ceiling on Zen 3: 18 vector operations and 9 loads (and 3 scalar ones) per step. Measured from L1: 188 multiply-accumulates per cycle at
// g = 4, 94 at g = 2, before the spills, which take 3 operations and 2 stores an accumulator.
#include "bitpacked_avx2.h"

namespace ulp {
namespace {

__m256i set_bytes(int b0, int b1, int b2, int b3) { return _mm256_set1_epi32(b0 | b1 << 8 | b2 << 16 | b3 << 24); }

// 32 codes -> 16 offsets (g = 2) or 8 (g = 4) of 16-byte tables, u16.
template <int a_bits, int g>
void pack_offsets(const uint8_t* codes, int64_t stride, int rows, int64_t k32, uint8_t* out, int64_t out_stride) {
  constexpr int radix = 1 << a_bits;
  const __m256i pair = set_bytes(1, radix, 1, radix);
  // The codes were in range when they were checked. If another thread has changed A since, the sums are its own fault, but a table beyond
  // the last one must not be read.
  const __m256i code = _mm256_set1_epi8(radix - 1);
  for (int r = 0; r < rows; ++r, codes += stride, out += out_stride) {
    for (int64_t k = 0; k < k32; k += kUnitK) {
      __m256i x = _mm256_maddubs_epi16(_mm256_and_si256(load(codes + k), code), pair);
      if constexpr (g == 2) {
        store(out + 2 * (k / 2), _mm256_slli_epi16(x, 4));
      } else {
        x = _mm256_madd_epi16(x, _mm256_set1_epi32(1 | radix * radix << 16));
        x = _mm256_permute4x64_epi64(_mm256_packus_epi32(x, x), 0x08);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 2 * (k / 4)), _mm_slli_epi16(_mm256_castsi256_si128(x), 4));
      }
    }
  }
}

// 8 codes -> two tables of 16 bytes: entry e is the sum of the activations whose bit is set in e.
void pack_tables(const uint8_t* codes, int64_t stride, int rows, int64_t k32, uint8_t* out, int64_t out_stride) {
  alignas(32) uint8_t pick[4][32];
  alignas(32) uint8_t mask[4][32];
  for (int i = 0; i < 4; ++i) {
    for (int e = 0; e < 32; ++e) {
      pick[i][e] = static_cast<uint8_t>(e < 16 ? i : 4 + i);
      mask[i][e] = e >> i & 1 ? 0xFF : 0;
    }
  }
  for (int r = 0; r < rows; ++r, codes += stride, out += out_stride) {
    for (int64_t k = 0; k < k32; k += 8) {
      int64_t eight;
      __builtin_memcpy(&eight, codes + k, 8);
      const __m256i x = _mm256_set1_epi64x(eight);
      __m256i sum = _mm256_setzero_si256();
      ULP_UNROLL for (int i = 0; i < 4; ++i) {
        sum = _mm256_add_epi8(sum, _mm256_and_si256(_mm256_shuffle_epi8(x, load(pick[i])), load(mask[i])));
      }
      store(out + 4 * k, sum);
    }
  }
}

// Four vectors of eight 32-bit patterns (units 0 .. 3) -> 32 bytes in column order.
__m256i gather_columns(const __m256i p[4]) {
  const __m256i bytes = _mm256_packus_epi16(_mm256_packus_epi32(p[0], p[1]), _mm256_packus_epi32(p[2], p[3]));
  return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

// Patterns of one vector of 32 columns and 32 k: the fields of the bitpacked data are taken as they lie, without the eight vectors in
// between.
template <int b_bits>
void expand_vector(const BitpackedSlice& s, int64_t kb, int first_unit, uint8_t* panel, int64_t step_stride) {
  const __m256i low = _mm256_set1_epi8((1 << b_bits) - 1);
  const __m256i high = _mm256_set1_epi32(0xFFFF);
  for (int h = 0; h < b_bits; ++h) {
    __m256i x[kPanelUnits];
    ULP_UNROLL for (int u = 0; u < kPanelUnits; ++u) {
      x[u] = first_unit + u < s.units ? load(bitpacked_unit(s, kb, first_unit + u) + h * kVector) : _mm256_setzero_si256();
    }
    ULP_UNROLL for (int f = 0; f < 8; f += b_bits) {
      __m256i p[kPanelUnits];
      ULP_UNROLL for (int u = 0; u < kPanelUnits; ++u) {
        const __m256i codes = _mm256_and_si256(_mm256_srli_epi16(x[u], f), low);
        if constexpr (b_bits == 1) {
          p[u] = _mm256_madd_epi16(_mm256_maddubs_epi16(codes, set_bytes(1, 2, 4, 8)), _mm256_set1_epi16(1));
        } else {
          p[u] = _mm256_maddubs_epi16(codes, set_bytes(1, 4, 1, 4));  // k = 0, 1 in the low half of 32 bits, k = 2, 3 in the high
        }
      }
      if constexpr (b_bits == 1) {
        store(panel, gather_columns(p));
        panel += step_stride;
      } else {
        __m256i q[kPanelUnits];
        ULP_UNROLL for (int u = 0; u < kPanelUnits; ++u) {
          q[u] = _mm256_srli_epi32(p[u], 16);
          p[u] = _mm256_and_si256(p[u], high);
        }
        store(panel, gather_columns(p));
        store(panel + step_stride, gather_columns(q));
        panel += 2 * step_stride;
      }
    }
  }
}

// acc[v] += table[index[v]] for one row. Written out in this order for the reasons given in mul8_avx2.cpp.
template <int vectors>
ULP_INLINE void lookup_add(__m256i* acc, __m256i table, const __m256i* index) {
#if defined(__GNUC__)
  __m256i e0, e1, e2;
  if constexpr (vectors == 3) {
    __asm__ volatile(
        "vpshufb %7, %6, %3\n\tvpshufb %8, %6, %4\n\t"
        "vpaddb %3, %0, %0\n\tvpaddb %4, %1, %1\n\t"
        "vpshufb %9, %6, %5\n\tvpaddb %5, %2, %2"
        : "+x"(acc[0]), "+x"(acc[1]), "+x"(acc[2]), "=&x"(e0), "=&x"(e1), "=&x"(e2)
        : "x"(table), "x"(index[0]), "x"(index[1]), "x"(index[2]));
  } else if constexpr (vectors == 2) {
    __asm__ volatile("vpshufb %5, %4, %2\n\tvpshufb %6, %4, %3\n\tvpaddb %2, %0, %0\n\tvpaddb %3, %1, %1"
                     : "+x"(acc[0]), "+x"(acc[1]), "=&x"(e0), "=&x"(e1)
                     : "x"(table), "x"(index[0]), "x"(index[1]));
  } else {
    __asm__ volatile("vpshufb %3, %2, %1\n\tvpaddb %1, %0, %0" : "+x"(acc[0]), "=&x"(e0) : "x"(table), "x"(index[0]));
  }
#else
  for (int v = 0; v < vectors; ++v) acc[v] = _mm256_add_epi8(acc[v], _mm256_shuffle_epi8(table, index[v]));
#endif
}

template <bool is_indexed>
inline __m256i step_table(const uint8_t* table, const uint8_t* a, int64_t step) {
  const uint8_t* p = a + step * 16;
  if constexpr (is_indexed) {
    uint16_t offset;
    __builtin_memcpy(&offset, a + step * 2, 2);
    p = table + offset;
  }
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

// u16 sums of one row and 32 columns. Even bytes are spilled together with the odd ones above them, which costs no mask: `all` is their sum
// modulo 2^16, and even = all - (odd << 8).
struct Wide {
  __m256i all;
  __m256i odd;

  ULP_INLINE void clear() { all = odd = _mm256_setzero_si256(); }
  ULP_INLINE void set(__m256i bytes) {
    all = bytes;
    odd = _mm256_srli_epi16(bytes, 8);
  }
  ULP_INLINE void add(__m256i bytes) {
    all = _mm256_add_epi16(all, bytes);
    odd = _mm256_add_epi16(odd, _mm256_srli_epi16(bytes, 8));
  }
  ULP_INLINE void columns(__m256i (&sums)[kPanelUnits]) const {
    const __m256i even = _mm256_sub_epi16(all, _mm256_slli_epi16(odd, 8));
    const __m256i lo = _mm256_unpacklo_epi16(even, odd);  // columns 0-7, 16-23
    const __m256i hi = _mm256_unpackhi_epi16(even, odd);  // columns 8-15, 24-31
    sums[0] = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(lo));
    sums[1] = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(hi));
    sums[2] = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(lo, 1));
    sums[3] = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(hi, 1));
  }
};

#if defined(__GNUC__)
// The loop of a whole indexed tile, in the order that Zen 3 likes best of 1,200 tried: 203 multiply-accumulates per cycle from L1 at g = 4
// where gcc's own order makes 180 (bench/NOTES.md).
ULP_INLINE void hot_loop(const uint8_t* table, const uint8_t* const (&a)[3], const uint8_t*& b, const Piece* pieces, int64_t count,
                         __m256i (&c)[3][3]) {
  __m256i i0, i1, i2, entry, e0, e1, e2;
  int64_t offset, at, steps;
  __asm__ volatile(
      "vpxor %0, %0, %0\n\tvpxor %1, %1, %1\n\tvpxor %2, %2, %2\n\tvpxor %3, %3, %3\n\tvpxor %4, %4, %4\n\t"
      "vpxor %5, %5, %5\n\tvpxor %6, %6, %6\n\tvpxor %7, %7, %7\n\tvpxor %8, %8, %8\n\t"
      "2:\n\t"
      "mov (%20), %17\n\tmov 8(%20), %18\n\tadd $16, %20\n\t"
      ".p2align 5\n"
      "1:\n\t"
      "vmovdqu (%19), %9\n\tvmovdqu 32(%19), %10\n\tnop\n\tvmovdqu 64(%19), %11\n\t"
      "movzwl (%23,%17), %k16\n\tvbroadcasti128 (%22,%16), %12\n\t"
      "vpshufb %9, %12, %13\n\tvpaddb %13, %0, %0\n\t"
      "vpshufb %10, %12, %14\n\tvpaddb %14, %1, %1\n\t"
      "vpshufb %11, %12, %15\n\tvpaddb %15, %2, %2\n\t"
      "movzwl (%24,%17), %k16\n\tvbroadcasti128 (%22,%16), %12\n\t"
      "vpshufb %9, %12, %13\n\tvpshufb %10, %12, %14\n\tvpaddb %13, %3, %3\n\tvpaddb %14, %4, %4\n\t"
      "vpshufb %11, %12, %15\n\tvpaddb %15, %5, %5\n\t"
      "movzwl (%25,%17), %k16\n\tvbroadcasti128 (%22,%16), %12\n\t"
      "vpshufb %9, %12, %13\n\tvpshufb %10, %12, %14\n\tvpshufb %11, %12, %15\n\t"
      "vpaddb %13, %6, %6\n\tvpaddb %14, %7, %7\n\tvpaddb %15, %8, %8\n\tnop\n\t"
      "add $96, %19\n\tadd $2, %17\n\tsub $1, %18\n\tjnz 1b\n\t"
      "sub $1, %21\n\tjnz 2b"
      : "=&x"(c[0][0]), "=&x"(c[0][1]), "=&x"(c[0][2]), "=&x"(c[1][0]), "=&x"(c[1][1]), "=&x"(c[1][2]), "=&x"(c[2][0]), "=&x"(c[2][1]),
        "=&x"(c[2][2]), "=&x"(i0), "=&x"(i1), "=&x"(i2), "=&x"(entry), "=&x"(e0), "=&x"(e1), "=&x"(e2), "=&r"(offset), "=&r"(at),
        "=&r"(steps), "+r"(b), "+r"(pieces), "+r"(count)
      : "r"(table), "r"(a[0]), "r"(a[1]), "r"(a[2])
      : "memory", "cc");
}
#endif

// acc = the steps of the pieces; b moves on. `a`: the rows' starts.
template <bool is_indexed, int rows, int vectors>
ULP_INLINE void look_up(const uint8_t* table, const uint8_t* const (&a)[rows], const uint8_t*& b, const Piece* pieces, int64_t count,
                        __m256i (&acc)[rows][vectors]) {
#if defined(__GNUC__)
  if constexpr (is_indexed && rows == 3 && vectors == 3) return hot_loop(table, a, b, pieces, count, acc);
#endif
  ULP_UNROLL for (int r = 0; r < rows; ++r) { ULP_UNROLL for (int v = 0; v < vectors; ++v) acc[r][v] = _mm256_setzero_si256(); }
  for (const Piece* piece = pieces; piece != pieces + count; ++piece) {
    for (int64_t i = 0; i < piece->steps; ++i) {
      __m256i index[vectors];
      ULP_UNROLL for (int v = 0; v < vectors; ++v) index[v] = load(b + v * kVector);
      ULP_UNROLL for (int r = 0; r < rows; ++r) lookup_add<vectors>(acc[r], step_table<is_indexed>(table, a[r] + piece->a, i), index);
      b += vectors * kVector;
    }
  }
}

}  // namespace
}  // namespace ulp

#include "tile_lut.h"

namespace ulp::lut_avx2 {

extern constexpr BitPairs pairs = pairs_where(supports_pair);

KernelAtBits bind(int a_bits, int b_bits) { return bind_lut(a_bits, b_bits); }

}  // namespace ulp::lut_avx2
