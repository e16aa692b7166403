// stream on AVX-512 VNNI: vpdpbusd, tiles 4 x 32 and 8 x 32, every pair (tile_stream.h).
//
//   B: u_b as u8, no centre.   A: u_a - 2^(a-1) as s8 (u_a itself below 8 bits: it fits), four k by one vpbroadcastd.
//   KernelAtBits: four products go to int32, which wraps modulo 2^32 as the driver expects.
//
// Ceiling: a shift, an AND and a vpdpbusd for 64 products: 42 multiply-accumulates per cycle for one row, 85 for four and 102 for eight,
// which share the first two; one row of 2, 4 or 8 bits: see one_row_avx512vnni.h. Reading weights from memory limits one row long before.
#include "stream_avx512vnni.h"

#include "one_row_avx512vnni.h"

namespace ulp::stream_avx512vnni {
namespace {

void centre_a(const uint8_t* codes, int64_t stride, int rows, int64_t k32, uint8_t* out, int64_t out_stride) {
  const __m256i sign = _mm256_set1_epi8(static_cast<char>(0x80));
  for (int r = 0; r < rows; ++r, codes += stride, out += out_stride) {
    for (int64_t k = 0; k < k32; k += kUnitK) {
      const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + k));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + k), _mm256_xor_si256(x, sign));
    }
  }
}

template <int bits, int rows>
void run(const Tile& t) {
  if constexpr (bits == 2 || bits == 4 || bits == 8) {
    if (t.rows == 1 && t.k <= kOneRowK) return one_row<bits>(t);
  }
  run_stream<Dot, bits, rows>(t);
}

template <int rows>
KernelAtBits bind_rows(int a_bits, int b_bits) {
  KernelAtBits b;
  if (a_bits == 8) {
    b.centre_a = 128;
    b.pack_a = centre_a;
  }
  b.run = for_bits(b_bits, [](auto bits) { return &run<decltype(bits)::value, rows>; });
  return b;
}

}  // namespace

extern constexpr BitPairs pairs = kEveryPair;

KernelAtBits bind(int a_bits, int b_bits) { return bind_rows<4>(a_bits, b_bits); }
KernelAtBits bind_8(int a_bits, int b_bits) { return bind_rows<8>(a_bits, b_bits); }

}  // namespace ulp::stream_avx512vnni
