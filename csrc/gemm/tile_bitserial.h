// bitserial: bit planes, AND and population count, tiles of `rows` x 32. For any instruction set.
//
//     sum_k u_a u_b = sum_{p, q} 2^(p + q) popcount(plane p of a AND plane q of b)        (Umuroglu and Jahre, "Streamlined deployment",
//     2017)
//
//   A: for each 32 k, the planes of a row, one 32-bit word each: bit j of byte i is k = 4 j + i.
//   Panel: for each 32 k and plane, such a word per column:  | k-block 0: plane 0: unit 0, 1 .. | plane 1: .. | k-block 1: ...
//   One unit's vector is 8 columns x 32 k = 256 bit-products. The order of k is that of the bitpacked data of 1-bit weights
//   (pack/layout.h), which are their own panel; of others each plane is gathered from the eight vectors byte by byte.
//
// An instruction set has defined, besides bitpacked_<isa>.h:
//   plane_word(codes, plane)   uint32_t: plane `plane` of 32 codes, in the order above
//   kBlocksPerSpill            K-blocks whose counts fit what count_both adds to
//   count_both(acc, y, p)      counts, plus the bits of (y AND the 32-bit word at p in all lanes)
//   column_counts(acc, shift)  int32 per column: its counts summed and shifted left
#pragma once

#include "kernel.h"
#include "kernel_util.h"

namespace ulp {
namespace {

template <int bits>
void pack_planes(const uint8_t* codes, int64_t stride, int rows, int64_t k32, uint8_t* out, int64_t out_stride) {
  for (int r = 0; r < rows; ++r, codes += stride, out += out_stride) {
    for (int64_t k = 0; k < k32; k += kUnitK) {
      for (int p = 0; p < bits; ++p) {
        const uint32_t plane = plane_word(codes + k, p);
        __builtin_memcpy(out + (k / kUnitK * bits + p) * 4, &plane, 4);
      }
    }
  }
}

template <int bits>
void expand(const BitpackedSlice& s, uint8_t* panel) {
  for (int64_t kb = 0; kb < s.k_blocks; ++kb, panel += s.units * bits * kVector) {
    for (int u = 0; u < s.units; u += kVecUnits) {
      Vec v[8];
      decode<bits>(units_of(s, kb, u), v);
      unrolled<bits>([&](auto q) {
        Vec plane = moved<-q.value>(v[0], 1);
        unrolled<7>([&](auto i) {
          constexpr int j = i.value + 1;
          plane = either(plane, moved<j - q.value>(v[j], 1 << j));
        });
        store_units(panel + (q.value * s.units + u) * kVector, plane, s.units - u);
      });
    }
  }
}

// The vecs from unit `first` on.
template <int a_bits, int b_bits, int rows, int vecs>
void tile(const Tile& args, int first) {
  const Tile t = own_copy(args);
  const int64_t blocks = ceil_div(t.k, kUnitK);
  const int64_t b_step = int64_t{t.units} * b_bits * kVector;
  Vec total[rows][vecs];
  ULP_UNROLL for (int r = 0; r < rows; ++r) { ULP_UNROLL for (int v = 0; v < vecs; ++v) total[r][v] = zero(); }
  for (int64_t done = 0; done < blocks; done += kBlocksPerSpill) {
    const int64_t count = blocks - done < kBlocksPerSpill ? blocks - done : kBlocksPerSpill;
    for (int p = 0; p < a_bits; ++p) {
      for (int q = 0; q < b_bits; ++q) {
        const uint8_t* b = t.b + done * b_step + (q * t.units + first) * kVector;
        const uint8_t* a = t.a + (done * a_bits + p) * 4;
        Vec acc[rows][vecs];
        ULP_UNROLL for (int r = 0; r < rows; ++r) { ULP_UNROLL for (int v = 0; v < vecs; ++v) acc[r][v] = zero(); }
        for (int64_t i = 0; i < count; ++i, b += b_step, a += a_bits * 4) {
          ULP_UNROLL for (int v = 0; v < vecs; ++v) {
            const Vec y = load(b + v * kVecBytes);
            ULP_UNROLL for (int r = 0; r < rows; ++r) acc[r][v] = count_both(acc[r][v], y, a + r * t.a_stride);
          }
        }
        ULP_UNROLL for (int r = 0; r < rows; ++r) {
          ULP_UNROLL for (int v = 0; v < vecs; ++v) total[r][v] = add_sums(total[r][v], column_counts(acc[r][v], p + q));
        }
      }
    }
  }
  ULP_UNROLL for (int r = 0; r < rows; ++r) {
    ULP_UNROLL for (int v = 0; v < vecs; ++v) store_result(t, r, first + v * kVecUnits, row_term(t, r), total[r][v]);
  }
}

template <int a_bits, int b_bits, int rows, int max_vecs>
void tile_of_rows(const Tile& t) {
  int first = 0;
  for (; first + max_vecs * kVecUnits <= t.units; first += max_vecs * kVecUnits) tile<a_bits, b_bits, rows, max_vecs>(t, first);
  if constexpr (max_vecs * kVecUnits > 1) {
    for (; first < t.units; first += kVecUnits) tile<a_bits, b_bits, rows, 1>(t, first);
  }
}

template <int a_bits, int b_bits, int rows, int vecs>
void run(const Tile& t) {
  if constexpr (rows > 1) {
    if (t.rows < rows) return run<a_bits, b_bits, rows - 1, vecs>(t);
  }
  tile_of_rows<a_bits, b_bits, rows, vecs>(t);
}

// rows x vecs are what registers hold counts of; a_bits * b_bits at most max_planes.
template <int rows, int vecs, int max_planes = kMaxBits * kMaxBits>
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
      if constexpr (kA * kB <= max_planes) {
        if constexpr (kB > 1) b.expand = expand<kB>;
        b.run = run<kA, kB, rows, vecs>;
      }
      return 0;
    });
    return 0;
  });
  return b;
}

}  // namespace
}  // namespace ulp
