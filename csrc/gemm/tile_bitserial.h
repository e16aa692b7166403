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
// An instruction set has defined, besides bitpacked_<isa>.h, plane_word(codes, plane), a uint32_t: plane `plane` of 32 codes, in the order
// above; and gives a Count, which either counts one pair of planes at a time:
//
//   kBlocksPerSpill    K-blocks whose counts fit what `add` adds to
//   kWeighted          false
//   add(acc, y, p)     acc plus the bits of (y AND the 32-bit word at p in all lanes)
//   columns(acc)       int32 per column: its counts summed
//
// or adds bits with their weight to the int32 sums of the columns at once:
//
//   kBlocksPerSpill    1 << 26, as many as a K of 2^31 has: sums wrap modulo 2^32
//   kWeighted          true
//   weight(shift)      what a bit of planes p and q counts, 2^shift, as `add` takes it; shift = p + q
//   add(sum, y, p, weight)
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

// acc = counts of `blocks` K-blocks from words a and vectors b on.
template <class Count, int a_bits, int rows, int vecs>
ULP_INLINE void count(const uint8_t* a, int64_t a_stride, const uint8_t* b, int64_t b_step, int64_t blocks, Vec (&acc)[rows][vecs]) {
  ULP_UNROLL for (int r = 0; r < rows; ++r) { ULP_UNROLL for (int v = 0; v < vecs; ++v) acc[r][v] = zero(); }
  for (int64_t i = 0; i < blocks; ++i, b += b_step, a += a_bits * 4) {
    ULP_UNROLL for (int v = 0; v < vecs; ++v) {
      const Vec y = load(b + v * kVecBytes);
      ULP_UNROLL for (int r = 0; r < rows; ++r) acc[r][v] = Count::add(acc[r][v], y, a + r * a_stride);
    }
  }
}

// The vecs from unit `first` on.
template <class Count, int a_bits, int b_bits, int rows, int vecs>
void tile_of_counts(const Tile& args, int first) {
  const Tile t = own_copy(args);
  const int64_t blocks = ceil_div(t.k, kUnitK);
  const int64_t b_step = int64_t{t.units} * b_bits * kVector;
  Vec total[rows][vecs];
  if (a_bits * b_bits == 1 && blocks <= Count::kBlocksPerSpill) {
    count<Count, a_bits>(t.a, t.a_stride, t.b + first * kVector, b_step, blocks, total);
    ULP_UNROLL for (int r = 0; r < rows; ++r) { ULP_UNROLL for (int v = 0; v < vecs; ++v) total[r][v] = Count::columns(total[r][v]); }
    return store_results(t, first, total);
  }
  ULP_UNROLL for (int r = 0; r < rows; ++r) { ULP_UNROLL for (int v = 0; v < vecs; ++v) total[r][v] = zero(); }
  for (int64_t done = 0; done < blocks; done += Count::kBlocksPerSpill) {
    const int64_t some = blocks - done < Count::kBlocksPerSpill ? blocks - done : Count::kBlocksPerSpill;
    for (int p = 0; p < a_bits; ++p) {
      for (int q = 0; q < b_bits; ++q) {
        Vec acc[rows][vecs];
        count<Count, a_bits>(t.a + (done * a_bits + p) * 4, t.a_stride, t.b + done * b_step + (q * t.units + first) * kVector, b_step, some,
                             acc);
        ULP_UNROLL for (int r = 0; r < rows; ++r) {
          ULP_UNROLL for (int v = 0; v < vecs; ++v) total[r][v] = add_sums(total[r][v], shift_sums(Count::columns(acc[r][v]), p + q));
        }
      }
    }
  }
  store_results(t, first, total);
}

template <class Count, int a_bits, int b_bits, int rows, int vecs>
void tile_of_weights(const Tile& args, int first) {
  const Tile t = own_copy(args);
  const int64_t blocks = ceil_div(t.k, kUnitK);
  const int64_t b_step = int64_t{t.units} * b_bits * kVector;
  Vec sum[rows][vecs];
  ULP_UNROLL for (int r = 0; r < rows; ++r) { ULP_UNROLL for (int v = 0; v < vecs; ++v) sum[r][v] = zero(); }
  unrolled<a_bits * b_bits>([&](auto plane) {
    constexpr int p = plane.value / b_bits, q = plane.value % b_bits;
    const uint8_t* a = t.a + p * 4;
    const uint8_t* b = t.b + (q * t.units + first) * kVector;
    const auto weight = Count::weight(p + q);
    int64_t left = blocks;
    do {
      ULP_UNROLL for (int v = 0; v < vecs; ++v) {
        const Vec y = load(b + v * kVecBytes);
        ULP_UNROLL for (int r = 0; r < rows; ++r) sum[r][v] = Count::add(sum[r][v], y, a + r * t.a_stride, weight);
      }
      b += b_step;
      a += a_bits * 4;
    } while (--left > 0);
  });
  store_results(t, first, sum);
}

template <class Count, int a_bits, int b_bits, int rows, int vecs>
void tile(const Tile& args, int first) {
  if constexpr (Count::kWeighted) {
    tile_of_weights<Count, a_bits, b_bits, rows, vecs>(args, first);
  } else {
    tile_of_counts<Count, a_bits, b_bits, rows, vecs>(args, first);
  }
}

template <class Count, int a_bits, int b_bits, int rows, int max_vecs>
void tile_of_rows(const Tile& t) {
  int first = 0;
  for (; first + max_vecs * kVecUnits <= t.units; first += max_vecs * kVecUnits) tile<Count, a_bits, b_bits, rows, max_vecs>(t, first);
  if constexpr (max_vecs * kVecUnits > 1) {
    for (; first < t.units; first += kVecUnits) tile<Count, a_bits, b_bits, rows, 1>(t, first);
  }
}

template <class Count, int a_bits, int b_bits, int rows, int vecs>
void run(const Tile& t) {
  if constexpr (rows > 1) {
    if (t.rows < rows) return run<Count, a_bits, b_bits, rows - 1, vecs>(t);
  }
  tile_of_rows<Count, a_bits, b_bits, rows, vecs>(t);
}

// rows x vecs are what registers hold counts of; a_bits * b_bits at most max_planes.
template <class Count, int rows, int vecs, int max_planes = kMaxBits * kMaxBits>
KernelAtBits bind_planes(int a_bits, int b_bits) {
  KernelAtBits b;
  b.spill_every = Count::kBlocksPerSpill;
  b.a_bytes = 4 * a_bits;
  b.panel_bytes = b_bits == 1 ? 0 : kVector * b_bits;
  for_bits(a_bits, [&](auto a) {
    constexpr int kA = decltype(a)::value;
    b.pack_a = pack_planes<kA>;
    for_bits(b_bits, [&](auto w) {
      constexpr int kB = decltype(w)::value;
      if constexpr (kA * kB <= max_planes) {
        if constexpr (kB > 1) b.expand = expand<kB>;
        b.run = run<Count, kA, kB, rows, vecs>;
      }
      return 0;
    });
    return 0;
  });
  return b;
}

}  // namespace
}  // namespace ulp
