// bitserial on AVX-512's population count, tile 8 x 32, one or two planes (tile_bitserial.h). With more, vpdpbusd does as much.
//
// KernelAtBits. A 32-bit lane counts at most 32 per K-block: 2^26 of them, the most that a K of 2^31 has, wrap modulo 2^32 like the sums.
//
// Ceiling on Sapphire Rapids: AND, count and add are three operations for 512 bit-products, and two start in a cycle: 341 per cycle divided
// by the planes. From L1, with A's words broadcast from memory, 328. Carry-save adders in front of the count (Harley and Seal) take three
// operations per vector at any depth.
#include "bitpacked_avx512.h"

namespace ulp {
namespace {

uint32_t plane_word(const uint8_t* codes, int plane) {
  // Bit 8 i + j is k = 4 j + i.
  const __m256i order = _mm256_setr_epi8(0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29, 2, 6, 10, 14, 18, 22, 26, 30, 3, 7, 11,
                                         15, 19, 23, 27, 31);
  const __m256i x = _mm256_permutexvar_epi8(order, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)));
  return _mm256_test_epi8_mask(x, _mm256_set1_epi8(static_cast<char>(1 << plane)));
}

struct Count {
  static constexpr bool kWeighted = false;
  static constexpr int kBlocksPerSpill = 1 << 26;

  static ULP_INLINE Vec add(Vec acc, Vec y, const uint8_t* p) {
    return _mm512_add_epi32(acc, _mm512_popcnt_epi32(_mm512_and_si512(y, broadcast4(p))));
  }

  static ULP_INLINE Vec columns(Vec acc) { return acc; }
};

}  // namespace
}  // namespace ulp

#include "tile_bitserial.h"

namespace ulp::bitserial_avx512vbmi {
namespace {

constexpr int kMaxPlanes = 2;

}  // namespace

extern constexpr BitPairs pairs = pairs_where([](int a_bits, int b_bits) { return a_bits * b_bits <= kMaxPlanes; });

KernelAtBits bind(int a_bits, int b_bits) { return bind_planes<Count, 8, 2, kMaxPlanes>(a_bits, b_bits); }

}  // namespace ulp::bitserial_avx512vbmi
