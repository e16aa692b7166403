#include "panel_loop.h"

#include <cstring>

#include "scratch.h"

namespace ulp {
namespace {

// Sums of rows that wait to be handed over; they stay in the first-level cache beside a panel.
constexpr int64_t kGatheredSumBytes = 12 * 1024;
constexpr int64_t kStridedSumBytes = 4 * 1024;
constexpr int64_t kPanelAndSumBytes = 16 * 1024;  // beside a small panel there is room for more of them

// Whether the weights of the next panel are fetched while a panel is multiplied. Not on ARM: 1 to 4 % more instructions for a small
// product, and no core at hand to show that they pay.
#if defined(ULP_X86)
constexpr bool kFetchesAhead = true;
#else
constexpr bool kFetchesAhead = false;
#endif

// Asks for a cache line in the second level.
inline void prefetch(const uint8_t* p) {
#if defined(__GNUC__)
  __builtin_prefetch(p, 0, 2);
#else
  static_cast<void>(p);
#endif
}

}  // namespace

Tiles::Tiles(int64_t rows, int64_t mr, int64_t group) : rows_(rows), group_(group) {
  const int64_t tiles = ceil_div(rows, mr);
  const int64_t groups = ceil_div(rows, group);
  shorter_ = groups / tiles;
  taller_ = groups % tiles;
}

PanelLoop::PanelLoop(const Operands& operands, const Kernel& kernel)
    : operands_(operands),
      kernel_(kernel.bind(operands.a_encoding.bits, operands.b->encoding.bits)),
      zero_points_(make_zero_points(operands, kernel_)),
      mr_(kernel.mr),
      panel_group_(std::max(1, kernel.nr / kPanelCols)),
      panels_(ceil_div(weights().panels(), panel_group_)) {
  if (!operands_.b_zero_per_column) operands_.b_zero = nullptr;  // it is in the zero points, and the caller's may go
  const int64_t units = weights().k_blocks();
  const int64_t max_kc = kernel_.max_kc ? kernel_.max_kc / kUnitK : units;
  k_blocks_ = units ? ceil_div(units, max_kc) : 0;
  kc_ = units ? ceil_div(units, k_blocks_) : 0;
  if (k_blocks_ > 1) {  // of whole pairs of units, which kernels may take together
    kc_ = round_up(kc_, 2);
    k_blocks_ = ceil_div(units, kc_);
  }
}

Range PanelLoop::k_block(int64_t i) const { return {i * kc_, std::min((i + 1) * kc_, weights().k_blocks())}; }

bool PanelLoop::skip_padding(int64_t segment_k, int64_t used_k) {
  // Padding of whole steps is only there where a step has less than 4 k, and such kernels have their panels in the order of the steps. Row
  // sums would count what is left out, and a second K-block would start elsewhere.
  if (zero_points_.needs_row_sums || k_blocks_ > 1 || round_up(used_k, kernel_.step_k) >= segment_k) return false;
  const int64_t step_bytes = int64_t{kernel_.panel_bytes} * kernel_.step_k / kUnitK;
  segments_ = weights().k / segment_k;
  segment_bytes_ = segment_k / kernel_.step_k * step_bytes;
  used_bytes_ = ceil_div(used_k, kernel_.step_k) * step_bytes;
  return true;
}

Columns PanelLoop::columns(int64_t panel) const {
  const Range bitpacked = panel_group_ == 1 ? Range{panel, panel + 1} : part(weights().panels(), panels_, panel);
  const int64_t n0 = bitpacked.begin * kPanelCols;
  const int64_t cols = std::min(weights().n, bitpacked.end * kPanelCols) - n0;
  return {n0, cols, static_cast<int>(ceil_div(cols, kUnitCols))};
}

BitpackedSlice PanelLoop::slice(const Columns& columns, Range k_block) const {
  const BitpackedLayout& layout = weights();
  const int64_t first = columns.n0 / kPanelCols;
  BitpackedSlice slice;
  slice.data = operands_.b->data.data() + layout.unit_offset(first, 0, 0);
  slice.panel_stride = kPanelUnits * layout.k_blocks() * layout.unit_bytes();
  slice.unit_bytes = layout.unit_bytes();
  slice.units_left = layout.units() - first * kPanelUnits;
  slice.units = columns.units;
  slice.k_block = k_block.begin;
  slice.k_blocks = k_block.size();
  return slice;
}

// Those of the panel behind these columns, where there are tiles enough to bring them meanwhile.
PanelLoop::Ahead PanelLoop::next_weights(const Columns& columns, int64_t rows) const {
  if (!kFetchesAhead || !kernel_.expand || rows < 4 * mr_) return {};
  const BitpackedLayout& layout = weights();
  const int64_t bytes = columns.units * layout.k_blocks() * layout.unit_bytes();
  const int64_t begin = layout.unit_offset(columns.n0 / kPanelCols, 0, 0) + bytes, end = std::min(begin + bytes, layout.nbytes());
  const uint8_t* data = operands_.b->data.data();
  return {data + begin, data + end, round_up(ceil_div(bytes * mr_, rows), 64)};
}

void PanelLoop::Ahead::fetch() {
  for (const uint8_t* stop = at + std::min(share, end - at); at < stop; at += 64) prefetch(at);
}

void PanelLoop::Ahead::hand_to(Tile& t, int64_t tiles) {
  t.ahead = at;
  t.ahead_lines = std::min(share, end - at) / 64;
  at += std::min(share * tiles, end - at);
}

// One K-block of some columns as the kernel reads it: expanded into `memory`, or where it lies.
const uint8_t* PanelLoop::expand(const Columns& columns, Range k_block, uint8_t* memory) const {
  const BitpackedSlice slice = this->slice(columns, k_block);
  if (!kernel_.expand) return bitpacked_unit(slice, 0, 0);
  kernel_.expand(slice, memory);
  if (used_bytes_ > 0) {
    const int64_t used = used_bytes_ * columns.units;
    const int64_t segment = segment_bytes_ * columns.units;
    for (int64_t i = 1; i < segments_; ++i) std::memmove(memory + i * used, memory + i * segment, static_cast<size_t>(used));
  }
  return memory;
}

void PanelLoop::run(const RowSource& source, Range panels, const Sink& sink) const {
  const bool gathers = source.blocks != nullptr;
  const int64_t bitpacked_panels = ceil_div(weights().panels(), panels_);  // at most, in one of ours
  const int64_t max_width = std::min(bitpacked_panels * kPanelCols, round_up(weights().n, kUnitCols));
  // A few rows wait for the sums of several panels, or handing them over would cost as much as a panel.
  Work work{source, sink, Tiles(source.count, mr_, kernel_.row_group)};
  work.unit_bytes = panel_group_ * kPanelUnits * kernel_.panel_bytes;  // also where N is narrower: a kernel may expand whole vectors
  const int64_t strided = std::max(kStridedSumBytes, kPanelAndSumBytes - kc_ * work.unit_bytes);
  const int64_t sums = (gathers ? kGatheredSumBytes : strided) / static_cast<int64_t>(sizeof(int32_t));
  const int64_t together = gathers || sink.plain ? 1 : std::clamp<int64_t>(sums / (max_width * source.count), 1, panels.size());
  work.put_rows = together > 1 ? source.count + mr_ : std::max<int64_t>(sums / max_width / mr_, 1) * mr_;
  work.keeps_sums = !gathers && (k_blocks_ > 1 || kernel_.find_excess);
  work.ld = together * max_width;
  thread_local Scratch scratch;
  scratch.lay_out(scratch_array(work.panel, (gathers ? weights().k_blocks() : kc_) * work.unit_bytes),
                  scratch_array(work.sums, (work.keeps_sums || together > 1 ? source.count : work.put_rows) * work.ld),
                  scratch_array(work.col, max_width),
                  scratch_array(work.excess, kernel_.find_excess ? kPanelCols * Excess::capacity_of(weights().k_blocks() * kUnitK) : 0));
  for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
    const int64_t i = (panel - panels.begin) % together;
    const Columns columns = this->columns(panel);
    if (i == 0) work.n0 = columns.n0;
    work.hands_over = i + 1 == together || panel + 1 == panels.end;
    run_panel(columns, work);
  }
}

void PanelLoop::run_panel(const Columns& columns, const Work& work) const {
  const RowSource& source = work.source;
  const bool gathers = source.blocks != nullptr;
  make_col_terms(operands_, zero_points_, kernel_, columns, work.col);
  Tile t{};
  t.units = columns.units;
  t.spill_every = kernel_.spill_every;
  t.table = kernel_.table;
  t.step_bias = kernel_.step_bias;
  t.col = work.col;
  t.shift = zero_points_.shift;
  Ahead ahead = next_weights(columns, source.count * k_blocks_);
  const int64_t block_rows = gathers ? work.put_rows : source.count;
  for (Range block{0, 0}; block.end < source.count;) {
    block = {block.end, std::min(block.end + block_rows, source.count)};
    const Rows rows = source.rows(block);
    const bool started = kernel_.find_excess && start_with_excess(columns, rows, work, t);
    for (int64_t i = 0; i < k_blocks_; ++i) {
      const Range k = k_block(i);
      uint8_t* place = work.panel + (gathers ? k.begin * work.unit_bytes : 0);
      t.b = gathers && block.begin > 0 ? place : expand(columns, k, place);
      t.k = std::min(weights().k - k.begin * kUnitK, k.size() * kUnitK);
      t.accumulate = i > 0 || started;
      Gather gather{};
      if (gathers) {
        const std::vector<Run>& runs = (*source.blocks)[static_cast<size_t>(i)].runs;
        gather = {rows.gathered, runs.data(), static_cast<int64_t>(runs.size())};
        t.gather = &gather;
        t.row = rows.terms;
      } else {
        t.a = rows.data + k.begin * kernel_.a_bytes;
        t.a_stride = rows.stride;
      }
      run_tiles(columns, block, rows, i + 1 == k_blocks_, work, gathers ? Tiles(block.size()) : work.tiles, ahead, t);
    }
  }
}

// The excess of the panel times all rows, before the first K-block, which then adds to it. False where there is none.
bool PanelLoop::start_with_excess(const Columns& columns, const Rows& rows, const Work& work, Tile t) const {
  Excess excess;
  excess.entries = work.excess;
  excess.capacity = Excess::capacity_of(weights().k_blocks() * kUnitK);
  if (!kernel_.find_excess(slice(columns, {0, weights().k_blocks()}), excess)) return false;
  const bool plain = work.plain(columns, zero_points_);
  t.rows = static_cast<int>(work.source.count);
  t.k = weights().k_blocks() * kUnitK;
  t.row = rows.terms;
  t.ldc = plain ? work.sink.plain_stride : work.ld;
  t.c = plain ? work.sink.plain + work.source.first * t.ldc + columns.n0 : work.sums + columns.n0 - work.n0;
  kernel_.start_with(excess, rows.transposed, t);
  return true;
}

// All tiles of a block of rows along one K-block; after the last one, their sums go to the sink. `t` has what they share.
void PanelLoop::run_tiles(const Columns& columns, Range block, const Rows& rows, bool finished, const Work& work, Tiles tiles, Ahead& ahead,
                          Tile& t) const {
  const Sink& sink = work.sink;
  const int64_t m0 = work.source.first + block.begin;
  // Whole tiles of plain sums go straight to their place, the others to the sink, some rows at a time.
  const bool plain = work.plain(columns, zero_points_);
  t.ldc = plain ? sink.plain_stride : work.ld;
  const uint8_t* a = t.a;
  int64_t waiting = 0;  // from which row on finished sums wait
  for (Range tile{0, 0}; tile.end < block.size();) {
    tile = tiles.after(tile);
    t.rows = static_cast<int>(tile.size());
    if (!t.gather) {
      t.a = a + tile.begin * t.a_stride;
      t.row = rows.terms + tile.begin;
    }
    if (plain) {
      t.c = sink.plain + (m0 + tile.begin) * sink.plain_stride + columns.n0;
    } else {
      t.c = work.sums + (work.keeps_sums ? tile.begin : tile.begin - waiting) * work.ld + columns.n0 - work.n0;
    }
    if (kernel_.fetches_ahead) {
      ahead.hand_to(t, ceil_div(t.rows, mr_));
    } else if (kFetchesAhead && !t.gather) {
      ahead.fetch();
    }
    kernel_.run(t);
    const bool full = tile.end == block.size() || tile.end - waiting + mr_ > work.put_rows;
    if (plain || !finished || !full || !work.hands_over) continue;
    const int64_t cols = columns.n0 + columns.cols - work.n0;
    int32_t* sums = work.sums + (work.keeps_sums ? waiting * work.ld : 0);
    put({m0 + waiting, tile.end - waiting, work.n0, cols, sums, work.ld}, rows.sums + waiting, sink);
    waiting = tile.end;
  }
}

// Finished sums to the sink, with the part of the row term that differs by column.
void PanelLoop::put(const SumBlock& b, const uint32_t* row_sums, const Sink& sink) const {
  if (zero_points_.t_b_varies) {
    for (int64_t r = 0; r < b.rows; ++r) {
      int32_t* sums = b.sums + r * b.ld;
      for (int64_t j = 0; j < b.cols; ++j) {
        sums[j] = static_cast<int32_t>(static_cast<uint32_t>(sums[j]) + row_sums[r] * zero_points_.t_b(b.n + j));
      }
    }
  }
  sink.put(b);
}

}  // namespace ulp
