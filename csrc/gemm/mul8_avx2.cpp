// mul8 and mul16 on AVX2: the machine's own multiplies, tile 3 x 32. One loop; what differs is the width of an element.
//
// mul8: vpmaddubsw with deferred widening.
//   A: the codes themselves, u8, read straight from their rows: one vpbroadcastd gives four k of a row.
//   Panel: code - 2^(b-1), s8, one 32-byte vector = 8 columns x 4 k:   | step 0: unit 0 .. 3 | step 1: unit 0 .. 3 | ...
//   vpmaddubsw gives 16 sums of two products; they gather in s16 for `spill_every` steps, then vpmaddwd with ones makes 8 columns of int32.
//
//   KernelAtBits. A step adds two products of at most m = (2^a - 1) 2^(b-1) to an s16 lane, so spill_every = floor(32767 / (2 m)) steps are
//   exact: 585 for W3A3, 136 for W4A4, 33, 8, 2 for W5A5, W6A6, W7A7, and none for W8A8.
//
//   Ceiling on Zen 3: 2 x 12 vector operations a step at 3.03 a cycle = 7.9 cycles for 384 multiply-accumulates, 48 a cycle. Twelve
//   accumulators leave four registers: rows 0 and 1 share each load of B, row 2 takes B from memory, 11 loads a step where two a cycle may
//   go.
//
// mul16: vpmaddwd, exact for every pair; meant for W8A8, where vpmaddubsw would saturate.
//   A and panel: 16-bit elements in the order of k, so the panel has two vectors where mul8 has one: | k0 k1 | of eight columns, | k2 k3 |.
//   KernelAtBits: two products of at most 255 * 128 a step go to int32, whose wrap-around is the modulo 2^32 that the driver expects.
//   Ceiling: half of mul8's, 24 multiply-accumulates a cycle.
#include "bitpacked_avx2.h"
#include "multiply_avx2.h"
#include "tile_multiply.h"

namespace ulp {
namespace {

constexpr int spill_every(int a_bits, int b_bits) {
  return accumulation_length(32767, 2, max_product(a_bits, 0, b_bits, 1 << (b_bits - 1)));
}
static_assert(spill_every(3, 3) == 585 && spill_every(4, 4) == 136 && spill_every(5, 5) == 33, "deferred widening");
static_assert(spill_every(6, 6) == 8 && spill_every(7, 7) == 2 && spill_every(8, 7) == 1 && spill_every(8, 8) == 0, "deferred widening");

template <int bits>
void expand16(const BitpackedSlice& s, uint8_t* panel) {
  const __m256i centre = _mm256_set1_epi16(1 << (bits - 1));
  // Bytes 0 and 1, or 2 and 3, of every four, each widened to 16 bits.
  const __m256i first =
      _mm256_setr_epi8(0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1, 0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1);
  const __m256i second = _mm256_add_epi8(first, _mm256_set1_epi16(2));
  for (int64_t kb = 0; kb < s.k_blocks; ++kb) {
    for (int u = 0; u < s.units; ++u) {
      __m256i v[8];
      decode<bits>(bitpacked_unit(s, kb, u), v);
      ULP_UNROLL for (int j = 0; j < 8; ++j) {
        uint8_t* to = panel + ((kb * 16 + 2 * j) * s.units + u) * kVector;
        store(to, _mm256_sub_epi16(_mm256_shuffle_epi8(v[j], first), centre));
        store(to + s.units * kVector, _mm256_sub_epi16(_mm256_shuffle_epi8(v[j], second), centre));
      }
    }
  }
}

void widen_a(const uint8_t* codes, int64_t stride, int rows, int64_t k32, uint8_t* out, int64_t out_stride) {
  for (int r = 0; r < rows; ++r, codes += stride, out += out_stride) {
    for (int64_t k = 0; k < k32; k += kUnitK) {
      const __m256i x = load(codes + k);
      store(out + 2 * k, _mm256_cvtepu8_epi16(_mm256_castsi256_si128(x)));
      store(out + 2 * k + kVector, _mm256_cvtepu8_epi16(_mm256_extracti128_si256(x, 1)));
    }
  }
}

// As tile_multiply.h wants it.
template <class M>
struct Op : M {
  using Acc = Vec;
  static constexpr int kRows = 3;
  static constexpr int kUnits = kPanelUnits;

  template <int rows, int units>
  static ULP_INLINE void multiply(const uint8_t* const (&a)[rows], const uint8_t*& b, int64_t, const Piece* pieces, int64_t count,
                                  Vec (&acc)[rows][units]) {
    ulp::multiply<M>(a, b, pieces, count, acc);
  }
};

}  // namespace

namespace mul8_avx2 {

bool supports(int a_bits, int b_bits) { return spill_every(a_bits, b_bits) > 0; }

KernelAtBits bind(int a_bits, int b_bits) {
  KernelAtBits b;
  b.centre_b = 1 << (b_bits - 1);
  b.spill_every = spill_every(a_bits, b_bits);
  b.max_kc =
      b.spill_every >= 64 ? 1024 : 512;  // frequent spills need their room in L1 beside the panel: W6A6 at K = 1024 runs at 120, not 89
  b.step_k = Mul8::kStepK;
  b.any_start = true;
  b.panel_bytes = kUnitCodes;
  b.expand = for_bits(b_bits, [](auto bits) { return &expand_centred<decltype(bits)::value>; });
  b.run = run<Op<Mul8>>;
  return b;
}

}  // namespace mul8_avx2

namespace mul16_avx2 {

bool supports(int, int) { return true; }

KernelAtBits bind(int, int b_bits) {
  KernelAtBits b;
  b.centre_b = 1 << (b_bits - 1);
  b.spill_every = 1 << 30;  // nothing to spill
  b.max_kc = 512;
  b.a_bytes = 2 * kUnitK;
  b.step_k = Mul16::kStepK;
  b.any_start = true;
  b.panel_bytes = 2 * kUnitCodes;
  b.pack_a = widen_a;
  b.expand = for_bits(b_bits, [](auto bits) { return &expand16<decltype(bits)::value>; });
  b.run = run<Op<Mul16>>;
  return b;
}

}  // namespace mul16_avx2

}  // namespace ulp
