// struct Kernel: what a micro-kernel is to the driver. One struct for all of them; the table is in kernels.cpp.
//
// The driver (panel_loop.cpp) cuts C into tiles of at most mr rows x nr columns and K into blocks. Three functions work for it:
//
//     pack_a   codes of the rows                -> the kernel's own A        (once per block of rows)
//     expand   bitpacked units of the columns   -> the kernel's own panel    (once per panel and K-block; stays in cache)
//     run      A rows x panel                   -> int32 tile
//
// A convolution (conv/direct.cpp) can use the kernels that set KernelAtBits::step_k: it packs the image's pixels instead of rows, and run
// gets a Gather, since the rows of A overlap in the image and are never written out.
//
// A kernel computes  acc = sum_k (u_a - centre_a) * (u_b - centre_b)  over codes u (pack/bits.h), modulo 2^32, and stores
//
//     c[r][n] = (accumulate ? c[r][n] : row[r] + col[n]) + (acc << shift)
//
// row, col and shift carry zero points and signs (zero_points.h). Kernels own nothing: no allocation, no threads, no state.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../pack/bits.h"
#include "../pack/layout.h"
#include "isa.h"
#include "kernel_util.h"

namespace ulp {

// Implicit GEMM: the rows of A lie anywhere, and every row's K-block is cut into pieces at the same offsets from its start (the taps of a
// convolution). The panel is read without gaps. Pieces come in runs, each of at most KernelAtBits::spill_every steps; they are spilled in
// between.
struct Piece {
  int64_t a;      // bytes of packed A from the row's start
  int64_t steps;  // at least 1, each of KernelAtBits::step_k
};

struct Run {
  const Piece* pieces;
  int64_t count;
};

struct Gather {
  const uint8_t* const* rows;
  const Run* runs;
  int64_t run_count;
};

struct Tile {
  const uint8_t* a;      // first row, at this K-block
  int64_t a_stride;      // bytes from row to row
  const Gather* gather;  // where not nullptr instead of a, a_stride and k; only for kernels with KernelAtBits::step_k
  int rows;              // 1 .. mr; with a Gather any number
  const uint8_t* b;      // panel at this K-block
  int units;             // 8-column units in the panel, 1 .. nr / 8
  int64_t k;             // k in this block; A and the panel are readable up to the next multiple of 32
  int spill_every;       // of the KernelAtBits, as are table and step_bias
  const uint8_t* table;
  int step_bias;
  int32_t* c;          // 8 * units columns are written
  int64_t ldc;         // elements
  const int32_t* row;  // rows values, ignored when accumulating; nullptr: zeros (with a Gather only)
  const int32_t* col;  // 8 * units values, ignored when accumulating
  int shift;
  bool accumulate;
  // Lines of 64 bytes that the kernel may bring into the second-level cache meanwhile: weights of the next panel.
  const uint8_t* ahead;
  int64_t ahead_lines;
};

// A tile that no store to C can alias, in registers as far as it is used. Field by field: x86 cannot forward several stores to one load of
// a vector, so that load would wait until they, and the stores to the C of the tile before, are in the cache.
static ULP_INLINE Tile own_copy(const Tile& tile) {
#if defined(ULP_X86)
  const volatile Tile& t = tile;  // or compilers join the loads
#else
  const Tile& t = tile;
#endif
  return {t.a,         t.a_stride, t.gather, t.rows, t.b,   t.units, t.k,          t.spill_every, t.table,
          t.step_bias, t.c,        t.ldc,    t.row,  t.col, t.shift, t.accumulate, t.ahead,       t.ahead_lines};
}

// The columns and K-blocks that `expand` reads: `units` units of 8 columns, `k_blocks` times 32 k.
struct BitpackedSlice {
  const uint8_t* data;   // PackedMatrix::data at the first bitpacked panel
  int64_t panel_stride;  // bytes from one bitpacked panel to the next
  int64_t unit_bytes;
  int64_t units_left;  // units of the matrix from the first bitpacked panel on: the last panel may be narrow
  int units;
  int64_t k_block;
  int64_t k_blocks;
};

// Unit u of K-block kb of the slice. Static, like all code that kernel files share (see pack/bits.h).
static inline const uint8_t* bitpacked_unit(const BitpackedSlice& s, int64_t kb, int u) {
  const int64_t q = u / kPanelUnits;
  const int64_t left = s.units_left - q * kPanelUnits;
  const int64_t width = left < kPanelUnits ? left : kPanelUnits;
  return s.data + q * s.panel_stride + ((s.k_block + kb) * width + u % kPanelUnits) * s.unit_bytes;
}

// Rows of A whose codes for one k lie side by side in its transpose:  | rows 0 .. 63: k0 k1 .. | rows 64 .. 127: k0 k1 .. | ..
inline constexpr int kExcessRows = 64;

// What a kernel's `expand` takes off the weights of one panel because its narrow sums could not hold them: few entries per column, over all
// of K. They are multiplied beside, from A's transpose.
struct Excess {
  int32_t* entries;  // of column c from c * capacity on, in the kernel's order; with a value of 0 where it leaves gaps
  int64_t capacity;  // of a column: capacity_of(K)
  int count[kPanelCols];

  // At most three of the four weights in a lane have an entry, and a gap may follow each. Not a power of two apart, or columns would
  // share cache sets.
  static int64_t capacity_of(int64_t k32) { return 2 * k32 + 16; }
  static int32_t entry(int64_t k, int8_t value) { return static_cast<int32_t>(k * 256 + static_cast<uint8_t>(value)); }
  static int64_t k(int32_t entry) { return entry >> 8; }
  static int value(int32_t entry) { return static_cast<int8_t>(entry & 0xFF); }
};

// A kernel at one bit pair.
struct KernelAtBits {
  int centre_a = 0;
  int centre_b = 0;
  // Steps until the narrow accumulators are spilled; the bound stands in the kernel's file.
  int spill_every = 0;
  // Constants of a lookup-table kernel: its table, and what each step's entries were raised by to make them unsigned, negated.
  const uint8_t* table = nullptr;
  int step_bias = 0;
  // Largest K-block, a multiple of 32; 0: all of K at once.
  int64_t max_kc = 0;
  // Bytes of packed A per row, and of panel per 8-column unit, for 32 k. panel 0: the kernel reads the bitpacked data itself.
  int a_bytes = kUnitK;
  // k of a step of `run`, 1, 2, 4 or 8; a piece of a Gather is a whole number of steps. 0: the kernel takes no Gather.
  int step_k = 0;
  // A packed row has its k one by one, so that a row or a piece may start at any k; else at a multiple of 4.
  bool any_start = false;
  // Whether `run` fetches what lies ahead.
  bool fetches_ahead = false;
  // Rows of A that the kernel packs together: tiles and blocks start at a multiple of it.
  int row_group = 1;
  int panel_bytes = 0;
  // rows x k32 codes (k32 a multiple of 32), row-major, `stride` apart. nullptr: the kernel reads the codes themselves.
  void (*pack_a)(const uint8_t* codes, int64_t stride, int rows, int64_t k32, uint8_t* out, int64_t out_stride) = nullptr;
  void (*expand)(const BitpackedSlice& slice, uint8_t* panel) = nullptr;
  void (*run)(const Tile& tile) = nullptr;
  // For kernels whose panels leave parts of weights out (nr 32, strided rows, A as codes). find_excess: of all of K; false where there is
  // nothing. transpose: of `rows` rows of k32 codes, k32 a multiple of 32; written are rows up to
  // a multiple of kExcessRows. start_with: as `run`, with the excess times A for acc; of the tile, a and b do not count, k is that of the
  // transpose, and rows is any number.
  bool (*find_excess)(const BitpackedSlice& slice, Excess& excess) = nullptr;
  void (*transpose)(const uint8_t* codes, int64_t stride, int64_t rows, int64_t k32, uint8_t* out) = nullptr;
  void (*start_with)(const Excess& excess, const uint8_t* transposed, const Tile& tile) = nullptr;
};

// The pairs of widths that a kernel supports. Data and no function, which would be of instructions that this CPU may lack: the whole file
// is compiled for the kernel's ISA.
struct BitPairs {
  uint64_t bits;
  static constexpr int index(int a_bits, int b_bits) { return (a_bits - 1) * kMaxBits + b_bits - 1; }
};

template <class Predicate>
constexpr BitPairs pairs_where(Predicate supports) {
  BitPairs pairs{0};
  for (int a = 1; a <= kMaxBits; ++a) {
    for (int b = 1; b <= kMaxBits; ++b) pairs.bits |= uint64_t{supports(a, b)} << BitPairs::index(a, b);
  }
  return pairs;
}

inline constexpr BitPairs kEveryPair{~uint64_t{0}};

struct Kernel {
  const char* name;  // <technique>_<isa>_<mr>x<nr>
  const char* technique;
  Isa isa;
  int mr;
  int nr;  // a multiple of 8; of 32 if above 32
  const BitPairs* pairs;
  KernelAtBits (*bind)(int a_bits, int b_bits);  // precondition: this CPU has the ISA, and supports(a_bits, b_bits)

  bool supports(int a_bits, int b_bits) const { return pairs->bits >> BitPairs::index(a_bits, b_bits) & 1; }
};

struct KernelTable {
  const Kernel* rows;
  size_t size;
  const Kernel* begin() const { return rows; }
  const Kernel* end() const { return rows + size; }
};

KernelTable kernel_table();

}  // namespace ulp
