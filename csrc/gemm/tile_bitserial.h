// bitserial: bit planes, AND and population count, any bit pair, tiles of `rows` x 32. For any instruction set.
//
//     sum_k u_a u_b = sum_{p, q} 2^(p + q) popcount(plane p of a AND plane q of b)        (Umuroglu and Jahre, "Streamlined deployment",
//     2017)
//
//   A: for each 32 k, the planes of a row, one 32-bit word each: bit j of byte i is k = 4 j + i.
//   Panel: for each 32 k and unit, the planes of 8 columns, one such word per column:  | k-block 0: unit 0: plane 0, 1 .. | unit 1: ...
//   One vector is 8 columns x 32 k = 256 bit-products. The order of k is that of the bitpacked data of 1-bit weights (pack/layout.h), which
//   are their own panel; of others each plane is gathered from the eight vectors byte by byte.
//
// KernelAtBits. A byte of the count grows by at most 8 per step, so 31 K-blocks of 32 fit a u8: 248.
//
// An instruction set has defined, besides bitpacked_<isa>.h:
//   plane_word(codes, plane)   uint32_t: plane `plane` of 32 codes, in the order above
//   count_both(acc, y, p)      u8 counts, plus the bits of (y AND the 32-bit word at p in all lanes)
//   column_counts(acc, shift)  8 int32: four bytes of counts each, summed and shifted left
#pragma once

#include "kernel.h"
#include "kernel_util.h"

namespace ulp {
namespace {

constexpr int kBlocksPerSpill = 31;
static_assert(kBlocksPerSpill * 8 <= 255, "u8 counts");

template <int bits>
void pack_planes(const uint8_t* codes, int64_t stride, int rows, int64_t k32, uint8_t* out, int64_t out_stride) {
  for (int r = 0; r < rows; ++r, codes += stride, out += out_stride) {
    for (int64_t k = 0; k < k32; k += kUnitK) {
      for (int p = 0; p < bits; ++p) {
        const uint32_t plane = plane_word(load(codes + k), p);
        __builtin_memcpy(out + (k / kUnitK * bits + p) * 4, &plane, 4);
      }
    }
  }
}

template <int bits>
void expand(const BitpackedSlice& s, uint8_t* panel) {
  for (int64_t kb = 0; kb < s.k_blocks; ++kb) {
    for (int u = 0; u < s.units; ++u, panel += bits * kVector) {
      Vec v[8];
      decode<bits>(bitpacked_unit(s, kb, u), v);
      unrolled<bits>([&](auto q) {
        Vec plane = moved<-q.value>(v[0], 1);
        unrolled<7>([&](auto i) {
          constexpr int j = i.value + 1;
          plane = either(plane, moved<j - q.value>(v[j], 1 << j));
        });
        store(panel + q.value * kVector, plane);
      });
    }
  }
}

// Units first .. first + units - 1 of the panel.
template <int a_bits, int b_bits, int rows, int units>
void tile(const Tile& args, int first) {
  const Tile t = args;  // a copy that no store to C can alias
  const int64_t blocks = ceil_div(t.k, kUnitK);
  const int64_t b_step = int64_t{t.units} * b_bits * kVector;
  Vec total[rows][units];
  ULP_UNROLL for (int r = 0; r < rows; ++r) { ULP_UNROLL for (int u = 0; u < units; ++u) total[r][u] = zero(); }
  for (int64_t done = 0; done < blocks; done += kBlocksPerSpill) {
    const int64_t count = blocks - done < kBlocksPerSpill ? blocks - done : kBlocksPerSpill;
    for (int p = 0; p < a_bits; ++p) {
      for (int q = 0; q < b_bits; ++q) {
        const uint8_t* b = t.b + done * b_step + (first * b_bits + q) * kVector;
        const uint8_t* a = t.a + (done * a_bits + p) * 4;
        Vec acc[rows][units];
        ULP_UNROLL for (int r = 0; r < rows; ++r) { ULP_UNROLL for (int u = 0; u < units; ++u) acc[r][u] = zero(); }
        for (int64_t i = 0; i < count; ++i, b += b_step, a += a_bits * 4) {
          ULP_UNROLL for (int u = 0; u < units; ++u) {
            const Vec y = load(b + u * b_bits * kVector);
            ULP_UNROLL for (int r = 0; r < rows; ++r) acc[r][u] = count_both(acc[r][u], y, a + r * t.a_stride);
          }
        }
        ULP_UNROLL for (int r = 0; r < rows; ++r) {
          ULP_UNROLL for (int u = 0; u < units; ++u) total[r][u] = add_sums(total[r][u], column_counts(acc[r][u], p + q));
        }
      }
    }
  }
  ULP_UNROLL for (int r = 0; r < rows; ++r) {
    ULP_UNROLL for (int u = 0; u < units; ++u) store_result(t, r, first + u, row_term(t, r), total[r][u]);
  }
}

template <int a_bits, int b_bits, int rows, int max_units>
void tile_of_rows(const Tile& t) {
  int first = 0;
  for (; first + max_units <= t.units; first += max_units) tile<a_bits, b_bits, rows, max_units>(t, first);
  if constexpr (max_units > 1) {
    for (; first < t.units; ++first) tile<a_bits, b_bits, rows, 1>(t, first);
  }
}

template <int a_bits, int b_bits, int rows, int units>
void run(const Tile& t) {
  if constexpr (rows > 1) {
    if (t.rows < rows) return run<a_bits, b_bits, rows - 1, units>(t);
  }
  tile_of_rows<a_bits, b_bits, rows, units>(t);
}

// rows x units of 8 columns are what registers hold counts of.
template <int rows, int units>
KernelAtBits bind_planes(int a_bits, int b_bits) {
  KernelAtBits b;
  b.spill_every = kBlocksPerSpill;
  b.a_bytes = 4 * a_bits;
  b.panel_bytes = b_bits == 1 ? 0 : kVector * b_bits;
  for_bits(a_bits, [&](auto a) {
    constexpr int kA = decltype(a)::value;
    b.pack_a = pack_planes<kA>;
    for_bits(b_bits, [&](auto w) {
      constexpr int kB = decltype(w)::value;
      if constexpr (kB > 1) b.expand = expand<kB>;
      b.run = run<kA, kB, rows, units>;
      return 0;
    });
    return 0;
  });
  return b;
}

}  // namespace
}  // namespace ulp
