#include "gemm.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "scratch.h"
#include "threads.h"
#include "zero_points.h"

namespace ulp {
namespace {

// The rows of packed A that are kept in the second-level cache while all panels of B pass by.
constexpr int64_t kABlockBytes = 192 * 1024;

// Rows that are turned into codes at a time, on their way to the kernel's own layout.
constexpr int kEncodeRows = 8;

struct Plan {
  const Problem& problem;
  const Kernel& kernel;
  const Epilogue& epilogue;
  const Destination& c;
  KernelAtBits bound;
  Terms terms;
  BitpackedLayout layout;
  int64_t m, n, k;
  int64_t k_blocks;     // of 32
  int64_t kc_blocks;    // K-block of the loops, in blocks of 32
  int64_t a_row_bytes;  // packed
  int64_t mc;           // rows of a block of A
  bool a_in_place;      // the kernel reads the caller's array
  int64_t panel_group;  // bitpacked panels in a panel of the loops
  int64_t loop_panels;
  int64_t row_parts, panel_parts;  // the grid of tasks

  Range bitpacked_panels(int64_t loop_panel) const { return part(layout.panels(), loop_panels, loop_panel); }
};

Plan make_plan(const Problem& problem, const Kernel& kernel, const Epilogue& epilogue, const Destination& c) {
  Plan p{problem, kernel, epilogue, c, {}, {}, problem.b->layout, problem.a.rows, problem.b->layout.n, problem.a.cols, 0, 0, 0,
         0,       false,  0,        0, 1,  1};
  p.bound = kernel.bind(problem.a_encoding.bits, problem.b->encoding.bits);
  p.terms = make_terms(problem.a_encoding, problem.a_zero, *problem.b, problem.b_zero, problem.b_zero_per_column, p.bound);
  p.k_blocks = p.layout.k_blocks();
  const int64_t max_kc = p.bound.max_kc ? p.bound.max_kc / kUnitK : p.k_blocks;
  p.kc_blocks = p.k_blocks ? ceil_div(p.k_blocks, ceil_div(p.k_blocks, max_kc)) : 0;
  p.a_row_bytes = p.k_blocks * p.bound.a_bytes;
  p.a_in_place =
      !p.bound.pack_a && !problem.a_encoding.is_signed && p.bound.centre_a == 0 && problem.a.col_stride == 1 && p.k % kUnitK == 0;

  p.panel_group = std::max(1, kernel.nr / kPanelCols);
  p.loop_panels = ceil_div(p.layout.panels(), p.panel_group);

  const int64_t threads = p.m * p.n * p.k < kParallelMacs ? 1 : num_threads();
  if (threads > 1) {
    // Splitting M repeats the expansion of B, splitting N the packing of A. Two tasks a thread even out a slow core.
    const int64_t wanted = 2 * threads;
    p.row_parts = std::clamp<int64_t>(p.m / 48, 1, wanted);
    p.panel_parts = std::clamp<int64_t>(ceil_div(wanted, p.row_parts), 1, p.loop_panels);
  }
  const int64_t task_rows = ceil_div(p.m, p.row_parts);
  const int64_t fit = std::max<int64_t>(kABlockBytes / std::max<int64_t>(p.a_row_bytes, 1), 4 * kernel.mr);
  p.mc = round_up(ceil_div(task_rows, ceil_div(task_rows, std::min(fit, task_rows))), p.bound.row_group);
  return p;
}

// A block of rows as the kernel reads it, with its row terms.
struct ABlock {
  const uint8_t* data;
  int64_t stride;
  const int32_t* row;       // s_a * t_b0 * X_a[m], or zeros
  const uint32_t* row_sum;  // s_a * X_a[m], where t_b varies
};

ABlock prepare_a(const Plan& p, Range rows, uint8_t* packed, uint8_t* codes, int32_t* row, uint32_t* row_sum) {
  const MatrixView& a = p.problem.a;
  const int64_t k32 = p.k_blocks * kUnitK;
  const uint8_t pad = static_cast<uint8_t>(p.bound.centre_a);  // x = 0: adds nothing, whatever the panel holds there
  auto take_sum = [&](const uint8_t* row_codes, int64_t i) {
    if (!p.terms.needs_row_sums) {
      row[i] = 0;
      return;
    }
    const uint32_t x = static_cast<uint32_t>(sum_bytes(row_codes, p.k) - p.k * p.bound.centre_a);
    row_sum[i] = p.terms.s_a * x;
    row[i] = p.terms.t_b_varies ? 0 : static_cast<int32_t>(p.terms.t_b0 * row_sum[i]);
  };
  if (p.a_in_place) {
    for (int64_t i = 0; i < rows.size(); ++i) take_sum(a.data + (rows.begin + i) * a.row_stride, i);
    return {a.data + rows.begin * a.row_stride, a.row_stride, row, row_sum};
  }
  for (int64_t i = 0; i < rows.size(); i += kEncodeRows) {
    const int64_t count = std::min<int64_t>(kEncodeRows, rows.size() - i);
    uint8_t* to = p.bound.pack_a ? codes : packed + i * p.a_row_bytes;
    encode_rows(a, p.problem.a_encoding, rows.begin + i, count, to, k32, pad);
    for (int64_t r = 0; r < count; ++r) take_sum(to + r * k32, i + r);
    if (p.bound.pack_a) p.bound.pack_a(codes, k32, static_cast<int>(count), k32, packed + i * p.a_row_bytes, p.a_row_bytes);
  }
  return {packed, p.a_row_bytes, row, row_sum};
}

// Results of one tile's rows from the scratch tile to C: the per-column part of the row term, then the epilogue, N clipped.
void store_tile(const Plan& p, int32_t* acc, int64_t ld, int64_t m0, int64_t rows, int64_t n0, int64_t cols, const uint32_t* row_sum) {
  for (int64_t r = 0; r < rows; ++r, acc += ld) {
    if (p.terms.t_b_varies) {
      for (int64_t j = 0; j < cols; ++j) {
        acc[j] = static_cast<int32_t>(static_cast<uint32_t>(acc[j]) + row_sum[r] * p.terms.t_b(n0 + j));
      }
    }
    const int64_t at = (m0 + r) * p.c.row_stride + n0;
    switch (p.epilogue.kind) {
      case OutputKind::int32:
        std::memcpy(static_cast<int32_t*>(p.c.data) + at, acc, static_cast<size_t>(cols) * sizeof(int32_t));
        break;
      case OutputKind::float32:
        apply_epilogue(p.epilogue, acc, n0, cols, static_cast<float*>(p.c.data) + at);
        break;
      case OutputKind::quantized:
        apply_epilogue(p.epilogue, acc, n0, cols, static_cast<uint8_t*>(p.c.data) + at);
        break;
    }
  }
}

struct PanelScratch {
  uint8_t* panel;
  int32_t* tile;
  int32_t* col;
};

// All rows of an A block against one panel of B.
void run_panel(const Plan& p, const ABlock& a, Range rows, int64_t loop_panel, const PanelScratch& scratch) {
  const Range bitpacked = p.bitpacked_panels(loop_panel);
  const int64_t n0 = bitpacked.begin * kPanelCols;
  const int64_t cols = std::min(p.n, bitpacked.end * kPanelCols) - n0;
  const int units = static_cast<int>(ceil_div(cols, kUnitCols));
  const int64_t width = int64_t{units} * kUnitCols;

  make_col_terms(p.terms, p.bound, *p.problem.b, n0, cols, width, scratch.col);

  // Whole tiles of plain int32 go straight to C; the rest through a scratch tile.
  const bool direct = !p.epilogue.fused() && !p.terms.t_b_varies && cols == width;
  const int64_t tiles = ceil_div(rows.size(), p.kernel.mr);
  const int64_t groups = ceil_div(rows.size(), p.bound.row_group);
  const int64_t short_tile = groups / tiles;
  const int64_t taller = groups % tiles;
  const bool one_pass = p.kc_blocks >= p.k_blocks;

  BitpackedSlice slice{p.problem.b->data.data() + p.layout.unit_offset(bitpacked.begin, 0, 0),
                       kPanelUnits * p.k_blocks * p.layout.unit_bytes(),
                       p.layout.unit_bytes(),
                       p.layout.units() - bitpacked.begin * kPanelUnits,
                       units,
                       0,
                       0};
  for (int64_t kb = 0; kb < p.k_blocks; kb += p.kc_blocks) {
    slice.k_block = kb;
    slice.k_blocks = std::min(p.kc_blocks, p.k_blocks - kb);
    const bool last = kb + slice.k_blocks == p.k_blocks;
    const uint8_t* panel = scratch.panel;
    if (p.bound.expand) {
      p.bound.expand(slice, scratch.panel);
    } else {
      panel = bitpacked_unit(slice, 0, 0);
    }
    Tile t{};
    t.a_stride = a.stride;
    t.b = panel;
    t.units = units;
    t.k = std::min(p.k - kb * kUnitK, slice.k_blocks * kUnitK);
    t.spill_every = p.bound.spill_every;
    t.table = p.bound.table;
    t.step_bias = p.bound.step_bias;
    t.col = scratch.col;
    t.shift = p.terms.shift;
    t.accumulate = kb > 0;
    // Tiles of nearly equal height, the taller ones first; no division inside, which would cost as much as a tile's epilogue.
    Range tile{0, 0};
    for (int64_t i = 0; i < tiles; ++i) {
      tile = {tile.end, std::min(tile.end + (short_tile + (i < taller ? 1 : 0)) * p.bound.row_group, rows.size())};
      t.a = a.data + tile.begin * a.stride + kb * p.bound.a_bytes;
      t.rows = static_cast<int>(tile.size());
      t.row = a.row + tile.begin;
      if (direct) {
        t.c = static_cast<int32_t*>(p.c.data) + (rows.begin + tile.begin) * p.c.row_stride + n0;
        t.ldc = p.c.row_stride;
      } else {
        t.c = scratch.tile + (one_pass ? 0 : tile.begin * width);
        t.ldc = width;
      }
      p.bound.run(t);
      if (last && !direct) store_tile(p, t.c, width, rows.begin + tile.begin, tile.size(), n0, cols, a.row_sum + tile.begin);
    }
  }
}

void run_task(const Plan& p, int64_t index) {
  const Range rows = part_in_groups(p.m, p.bound.row_group, p.row_parts, index / p.panel_parts);
  const Range panels = part(p.loop_panels, p.panel_parts, index % p.panel_parts);
  const int64_t max_units = p.panel_group * kPanelUnits;
  const int64_t width = max_units * kUnitCols;

  thread_local Scratch scratch;
  uint8_t* at[7];
  scratch.reserve({p.a_in_place ? 0 : p.mc * p.a_row_bytes, p.bound.pack_a ? kEncodeRows * p.k_blocks * kUnitK : 0,
                   p.kc_blocks * p.bound.panel_bytes * max_units, (p.kc_blocks >= p.k_blocks ? p.kernel.mr : p.mc) * width * 4, width * 4,
                   p.mc * 4, p.mc * 4},
                  at);
  const PanelScratch panel_scratch{at[2], reinterpret_cast<int32_t*>(at[3]), reinterpret_cast<int32_t*>(at[4])};

  for (int64_t m0 = rows.begin; m0 < rows.end; m0 += p.mc) {
    const Range block{m0, std::min(m0 + p.mc, rows.end)};
    const ABlock a = prepare_a(p, block, at[0], at[1], reinterpret_cast<int32_t*>(at[5]), reinterpret_cast<uint32_t*>(at[6]));
    for (int64_t panel = panels.begin; panel < panels.end; ++panel) run_panel(p, a, block, panel, panel_scratch);
  }
}

// K = 0: every sum is empty.
void store_zeros(const Plan& p) {
  std::vector<int32_t> zeros(static_cast<size_t>(p.n), 0);
  Plan q = p;
  q.terms.t_b_varies = false;
  for (int64_t m = 0; m < p.m; ++m) store_tile(q, zeros.data(), p.n, m, 1, 0, p.n, nullptr);
}

int64_t magnitude(int lo, int hi, int64_t zero) {
  const int64_t below = lo - zero;
  const int64_t above = hi - zero;
  return std::max(below < 0 ? -below : below, above < 0 ? -above : above);
}

}  // namespace

void validate(const Problem& p) {
  const BitpackedLayout& b = p.b->layout;
  if (p.a.cols != b.k) {
    throw std::invalid_argument("a has " + std::to_string(p.a.cols) + " columns but b has " + std::to_string(b.k) +
                                " rows; a (..., M, K) needs b (K, N)");
  }
  const int64_t a_max = magnitude(p.a_encoding.min(), p.a_encoding.max(), p.a_zero);
  int64_t b_max = magnitude(p.b->encoding.min(), p.b->encoding.max(), p.b_zero && !p.b_zero_per_column ? p.b_zero[0] : 0);
  if (p.b_zero_per_column) {
    b_max = 0;
    for (int64_t n = 0; n < b.n; ++n) b_max = std::max(b_max, magnitude(p.b->encoding.min(), p.b->encoding.max(), p.b_zero[n]));
  }
  const int64_t limit = max_k_int32(a_max, b_max);
  if (p.a.cols > limit) {
    throw std::invalid_argument("K = " + std::to_string(p.a.cols) + " could overflow int32: |a - a_zero| reaches " + std::to_string(a_max) +
                                " and |b - b_zero| reaches " + std::to_string(b_max) + ", so K may be at most " + std::to_string(limit) +
                                "; split K and add the parts in int64");
  }
}

void gemm(const Problem& problem, const Kernel& kernel, const Epilogue& epilogue, const Destination& c) {
  if (problem.a.rows == 0 || problem.b->layout.n == 0) return;
  Plan plan = make_plan(problem, kernel, epilogue, c);
  if (plan.k == 0) return store_zeros(plan);
  const auto task = [](void* context, int64_t i) { run_task(*static_cast<const Plan*>(context), i); };
  parallel_for(plan.row_parts * plan.panel_parts, task, &plan);
}

}  // namespace ulp
