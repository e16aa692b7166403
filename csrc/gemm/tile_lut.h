// lut: byte shuffles as tables of partial sums, tiles of 3 x 96, for 1- and 2-bit weights. For any instruction set.
//
//   Sixteen entries hold what g activations contribute for every pattern of g weights: g = 4 weights of 1 bit or 2 of 2 bits, so that one
//   shuffle and one addition of 32 bytes do 32 columns x g products.
//
//   Panel: one byte per column and step, the pattern of its g weights:  | step 0: columns 0 .. 31 | 32 .. 63 | 64 .. 95 | step 1: ...
//   A, indexed: which table a step uses. g activations of a bits have 2^(g a) values, so up to 8 bits all tables there can be are constants
//      (16 to 4096 bytes, in L1) and A holds a u16 offset per step: no table is ever built at run time.
//   A, in memory (W1A3, W1A4): 2^(g a) tables are too many, A holds the 16 bytes themselves.
//
// KernelAtBits. Entries are sum (u_a - centre_a)(u_b - centre_b) - step_bias, in [0, g * range], where range is the largest product minus
// the smallest, and gather in u8 for spill_every = floor(255 / (g range)) steps: 63 for W1A1, 21 for W1A2 and W2A2, 9 for W1A3 and W2A3, 4
// for W1A4 and W2A4. Centring both operands of W2A2 narrows the range of a product from 9 to 6. The u8 sums go to u16: a K-block of 512 is
// at most 256 steps of 60, 15360 <= 65535.
//
// An instruction set has defined, besides bitpacked_<isa>.h:
//   pack_offsets<a_bits, g>, pack_tables   pack the two kinds of A: 32 codes -> 32 / g u16, 16 times the number whose a-bit digits g codes
//                                          are; 8 codes -> two tables of 16 bytes
//   expand_vector<b_bits>(slice, kb, first_unit, panel, step_stride)   a K-block of 32 columns
//   look_up<indexed>(table, a, b, pieces, count, acc)                  acc[rows][vectors] = the steps of the pieces; b moves on
//   Wide             u16 sums of 32 columns: clear(), set(u8 sums), add(u8 sums), columns(sums): four Vecs of 8 int32
#pragma once

#include "kernel.h"
#include "kernel_util.h"

namespace ulp {
namespace {

constexpr int kMaxVectors = 3;  // of 32 columns
constexpr int kMaxKc = 512;

constexpr int group(int b_bits) { return b_bits == 1 ? 4 : 2; }
// Centring narrows the range of a product only where both operands have two signs.
constexpr int centre(int bits, int other_bits) { return bits == 1 || other_bits == 1 ? 0 : 1 << (bits - 1); }

struct Extent {
  int lo;
  int hi;
};

// Smallest and largest product of centred codes.
constexpr Extent product_extent(int a_bits, int b_bits) {
  Extent e{0, 0};
  for (int a = 0; a < 1 << a_bits; ++a) {
    for (int b = 0; b < 1 << b_bits; ++b) {
      const int product = (a - centre(a_bits, b_bits)) * (b - centre(b_bits, a_bits));
      e.lo = product < e.lo ? product : e.lo;
      e.hi = product > e.hi ? product : e.hi;
    }
  }
  return e;
}

constexpr int step_bias(int a_bits, int b_bits) { return group(b_bits) * product_extent(a_bits, b_bits).lo; }

constexpr int spill_every(int a_bits, int b_bits) {
  const Extent e = product_extent(a_bits, b_bits);
  return accumulation_length(255, group(b_bits), e.hi - e.lo);
}
static_assert(spill_every(1, 1) == 63 && spill_every(2, 1) == 21 && spill_every(3, 1) == 9 && spill_every(4, 1) == 4, "u8 sums");
static_assert(spill_every(1, 2) == 42 && spill_every(2, 2) == 21 && spill_every(3, 2) == 9 && spill_every(4, 2) == 4, "u8 sums");

constexpr bool indexed(int a_bits, int b_bits) { return a_bits * group(b_bits) <= 8; }

// Row r: the activations are the a-bit digits of r, first one lowest. Entry e: the weights are the b-bit digits of e.
template <int a_bits, int b_bits>
struct Tables {
  static constexpr int kTables = 1 << (a_bits * group(b_bits));
  alignas(64) uint8_t entries[kTables][16];

  constexpr Tables() : entries() {
    constexpr int kGroup = group(b_bits);  // constants of their own: clang counts the steps of each evaluation
    constexpr int kBias = step_bias(a_bits, b_bits);
    constexpr int kCentreA = centre(a_bits, b_bits);
    constexpr int kCentreB = centre(b_bits, a_bits);
    for (int r = 0; r < kTables; ++r) {
      for (int e = 0; e < 16; ++e) {
        int sum = -kBias;
        for (int i = 0; i < kGroup; ++i) {
          const int a = r >> (i * a_bits) & ((1 << a_bits) - 1);
          const int b = e >> (i * b_bits) & ((1 << b_bits) - 1);
          sum += (a - kCentreA) * (b - kCentreB);
        }
        entries[r][e] = static_cast<uint8_t>(sum);
      }
    }
  }
};

template <int a_bits, int b_bits>
constexpr Tables<a_bits, b_bits> kTables{};

template <int b_bits>
void expand(const BitpackedSlice& s, uint8_t* panel) {
  const int vectors = static_cast<int>(ceil_div(s.units, kPanelUnits));
  const int64_t step_stride = int64_t{vectors} * kVector;
  for (int64_t kb = 0; kb < s.k_blocks; ++kb) {
    for (int q = 0; q < vectors; ++q) expand_vector<b_bits>(s, kb, q * kPanelUnits, panel + q * kVector, step_stride);
    panel += kUnitK / group(b_bits) * step_stride;
  }
}

template <int rows, int vectors>
ULP_INLINE void gather_sums(bool first, const Vec (&acc)[rows][vectors], Wide (&wide)[rows][vectors]) {
  if (first) {
    ULP_UNROLL for (int r = 0; r < rows; ++r) { ULP_UNROLL for (int v = 0; v < vectors; ++v) wide[r][v].set(acc[r][v]); }
    return;
  }
  ULP_UNROLL for (int r = 0; r < rows; ++r) { ULP_UNROLL for (int v = 0; v < vectors; ++v) wide[r][v].add(acc[r][v]); }
}

// 32 columns of a row; `base` is its row term and bias.
ULP_INLINE void store_columns(const Tile& t, int row, int vector, const Wide& wide, Vec base) {
  Vec sums[kPanelUnits];
  wide.columns(sums);
  ULP_UNROLL for (int u = 0; u < kPanelUnits; ++u) {
    const int unit = vector * kPanelUnits + u;
    if (unit >= t.units) return;
    store_result(t, row, unit, base, sums[u]);
  }
}

// Rows `first` .. of a Gather, or of a tile (then first is 0).
template <bool is_indexed, int g, int rows, int vectors>
void tile(const Tile& args, int first) {
  Tile t = own_copy(args);
  t.c += first * t.ldc;
  if (t.row) t.row += first;
  if (!t.gather) prefetch_c<rows, vectors * kPanelUnits>(t, 0);
  const uint8_t* a[rows];
  ULP_UNROLL for (int r = 0; r < rows; ++r) a[r] = t.gather ? t.gather->rows[first + r] : t.a + r * t.a_stride;
  const uint8_t* b = t.b;
  Wide wide[rows][vectors];
  ULP_UNROLL for (int r = 0; r < rows; ++r) { ULP_UNROLL for (int v = 0; v < vectors; ++v) wide[r][v].clear(); }
  int64_t done = 0;
  Vec acc[rows][vectors];
  if (t.gather) {
    for (const Run* run = t.gather->runs; run != t.gather->runs + t.gather->run_count; ++run) {
      look_up<is_indexed>(t.table, a, b, run->pieces, run->count, acc);
      gather_sums(done == 0, acc, wide);
      for (int64_t i = 0; i < run->count; ++i) done += run->pieces[i].steps;
    }
  } else {
    const int64_t all = ceil_div(t.k, g);
    Piece piece{0, 0};
    while (done < all) {
      piece.steps = all - done < t.spill_every ? all - done : t.spill_every;
      look_up<is_indexed>(t.table, a, b, &piece, 1, acc);
      gather_sums(done == 0, acc, wide);
      done += piece.steps;
      piece.a += piece.steps * (is_indexed ? 2 : 16);
    }
  }
  const uint32_t bias = static_cast<uint32_t>(done) * static_cast<uint32_t>(t.step_bias) << t.shift;
  Vec base[rows];
  ULP_UNROLL for (int r = 0; r < rows; ++r) base[r] = add_sums(row_term(t, r), same_sums(static_cast<int32_t>(bias)));
  ULP_UNROLL for (int r = 0; r < rows; ++r) { ULP_UNROLL for (int v = 0; v < vectors; ++v) store_columns(t, r, v, wide[r][v], base[r]); }
}

template <bool is_indexed, int g, int vectors>
void tile_of_vectors(const Tile& t) {
  int r = 0;
  for (; t.rows - r > 4 || t.rows - r == 3; r += 3) tile<is_indexed, g, 3, vectors>(t, r);
  for (; t.rows - r >= 2; r += 2) tile<is_indexed, g, 2, vectors>(t, r);  // two and two rather than three and one
  if (t.rows - r == 1) tile<is_indexed, g, 1, vectors>(t, r);
}

template <bool is_indexed, int g>
void run(const Tile& t) {
  switch (ceil_div(t.units, kPanelUnits)) {
    case 1:
      return tile_of_vectors<is_indexed, g, 1>(t);
    case 2:
      return tile_of_vectors<is_indexed, g, 2>(t);
    default:
      return tile_of_vectors<is_indexed, g, kMaxVectors>(t);
  }
}

template <int a_bits, int b_bits>
KernelAtBits bind_pair() {
  constexpr int g = group(b_bits);
  KernelAtBits b;
  b.centre_a = centre(a_bits, b_bits);
  b.centre_b = centre(b_bits, a_bits);
  b.spill_every = spill_every(a_bits, b_bits);
  b.step_bias = step_bias(a_bits, b_bits);
  b.max_kc = kMaxKc;
  b.step_k = g;
  b.panel_bytes = kUnitK / g * kUnitCols;
  b.expand = expand<b_bits>;
  if constexpr (indexed(a_bits, b_bits)) {
    b.table = kTables<a_bits, b_bits>.entries[0];
    b.a_bytes = kUnitK / g * 2;
    b.pack_a = pack_offsets<a_bits, g>;
    b.run = run<true, g>;
  } else {
    static_assert(step_bias(a_bits, b_bits) == 0 && centre(a_bits, b_bits) == 0, "pack_tables knows neither");
    b.a_bytes = kUnitK / g * 16;
    b.pack_a = pack_tables;
    b.run = run<false, g>;
  }
  return b;
}

constexpr bool supports_pair(int a_bits, int b_bits) { return a_bits <= 4 && b_bits <= 2; }

KernelAtBits bind_lut(int a_bits, int b_bits) {
  const bool one = b_bits == 1;
  switch (a_bits) {
    case 1:
      return one ? bind_pair<1, 1>() : bind_pair<1, 2>();
    case 2:
      return one ? bind_pair<2, 1>() : bind_pair<2, 2>();
    case 3:
      return one ? bind_pair<3, 1>() : bind_pair<3, 2>();
    default:
      return one ? bind_pair<4, 1>() : bind_pair<4, 2>();
  }
}

}  // namespace
}  // namespace ulp
