// Implicit GEMM.
#include <algorithm>
#include <cstring>
#include <vector>

#include "../gemm/scratch.h"
#include "../gemm/threads.h"
#include "../gemm/zero_points.h"
#include "conv.h"

namespace ulp {
namespace {

// Source rows that are kept in the second-level cache while all panels of the weights pass by.
constexpr int64_t kSourceBytes = 160 * 1024;

// Sums of a block of pixels on their way to the epilogue; stays in the first-level cache beside a panel.
constexpr int64_t kSumBytes = 12 * 1024;

// Pixels of a task below which splitting rows further only repeats the expansion of weights.
constexpr int64_t kTaskPixels = 48;

// Cuts a K-block's taps into pieces, and these into runs of at most `spill_every` steps.
void cut_pieces(std::vector<Piece> taps, int64_t spill_every, int64_t step_bytes, std::vector<Piece>& pieces,
                std::vector<int64_t>& run_sizes) {
  int64_t room = spill_every;
  int64_t size = 0;
  for (Piece& p : taps) {
    while (p.steps > 0) {
      if (room == 0) {
        run_sizes.push_back(size);
        size = 0;
        room = spill_every;
      }
      const int64_t steps = std::min(p.steps, room);
      pieces.push_back({p.a, steps});
      ++size;
      room -= steps;
      p.a += steps * step_bytes;
      p.steps -= steps;
    }
  }
  run_sizes.push_back(size);
}

class Direct final : public Conv {
 public:
  Direct(const ConvProblem& problem, const Kernel& kernel);
  const char* method() const override { return kernel_.name; }
  int64_t scratch_bytes(const Source& source) const override;
  void bind(const Source& source) override;
  void run(const Source& source, int64_t images, uint8_t* scratch, const Output& output, const Tasks& tasks) const override;

 private:
  struct KBlock {
    int64_t first;  // in blocks of 32
    int64_t count;
    int64_t panel;  // bytes from the panel's start
    std::vector<Piece> pieces;
    std::vector<Run> runs;
  };

  struct Task {
    Source source;        // as the kernel reads it
    const uint8_t* sums;  // of the first image, or nullptr
    int64_t sums_image;   // bytes
    const Output& output;
    int64_t row_parts;
    int64_t panel_parts;
  };

  int64_t sums_bytes() const { return terms_.needs_row_sums ? round_up(window_rows_ * window_columns_ * 4, 64) : 0; }
  Source packed_source(const Source& source, uint8_t* scratch) const;
  void pack(const Source& source, int64_t images, uint8_t* scratch, const Tasks& tasks) const;
  void take_sums(const Source& source, int64_t images, uint8_t* scratch, const Tasks& tasks, const Ops& ops) const;
  void run_task(const Task& task, int64_t index) const;
  int32_t row_term(const int32_t* sums, int64_t y, int64_t x) const;
  void run_panel(const Task& task, int64_t image, Range out_rows, int64_t panel) const;

  ConvShape shape_;
  const PackedMatrix& weights_;
  const Kernel& kernel_;
  KernelAtBits bound_;
  Terms terms_;
  std::vector<int32_t> col_;
  std::vector<KBlock> blocks_;
  int64_t panel_bytes_ = 0;
  int64_t used_steps_ = 0;  // of each segment in its panel; 0: all
  int64_t loop_panels_ = 0;
  int64_t panel_group_ = 1;
  // Rows and columns of the source, border included, that windows reach.
  int64_t window_rows_ = 0;
  int64_t window_columns_ = 0;
};

Direct::Direct(const ConvProblem& problem, const Kernel& kernel)
    : shape_(problem.shape), weights_(problem.weights), kernel_(kernel), bound_(kernel.bind(problem.a_bits, weights_.encoding.bits)) {
  const BitpackedLayout& layout = weights_.layout;
  terms_ = make_terms({problem.a_bits, false}, problem.a_zero, weights_, &problem.w_zero, false, bound_);
  terms_.b_zero = nullptr;
  const int64_t width = round_up(layout.n, kPanelCols);
  col_.resize(static_cast<size_t>(width));
  make_col_terms(terms_, bound_, weights_, 0, layout.n, width, col_.data());

  panel_group_ = std::max(1, kernel.nr / kPanelCols);
  loop_panels_ = ceil_div(layout.panels(), panel_group_);
  window_rows_ = int64_t{shape_.out_height - 1} * shape_.stride_y + int64_t{shape_.kernel_y - 1} * shape_.dilation_y + 1;
  window_columns_ = int64_t{shape_.out_width - 1} * shape_.stride_x + int64_t{shape_.kernel_x - 1} * shape_.dilation_x + 1;
}

// The source as the kernel reads it, its windows' first pixel at (0, 0); without data only the strides.
Source Direct::packed_source(const Source& source, uint8_t* scratch) const {
  if (!bound_.pack_a) {
    Source windows = source;
    if (source.data) windows.data -= shape_.pad_top * source.row + shape_.pad_left * source.pixel;
    return windows;
  }
  Source packed;
  packed.data = scratch;
  const bool whole_pixels = source.pixel == shape_.channels;
  packed.pixel = (whole_pixels ? source.pixel : round_up(shape_.channels, kUnitK)) * bound_.a_bytes / kUnitK;
  packed.row = whole_pixels ? round_up(window_columns_ * source.pixel, kUnitK) * bound_.a_bytes / kUnitK : window_columns_ * packed.pixel;
  packed.image = scratch_bytes(source);
  return packed;
}

int64_t Direct::scratch_bytes(const Source& source) const {
  int64_t bytes = 0;
  if (bound_.pack_a) {
    const bool whole_pixels = source.pixel == shape_.channels;
    const int64_t row =
        whole_pixels ? round_up(window_columns_ * source.pixel, kUnitK) : window_columns_ * round_up(shape_.channels, kUnitK);
    bytes += round_up(window_rows_ * row * bound_.a_bytes / kUnitK, 64);
  }
  return bytes + sums_bytes();
}

void Direct::bind(const Source& source) {
  const Source packed = packed_source(source, nullptr);
  const int64_t step_bytes = int64_t{bound_.a_bytes} * bound_.step_k / kUnitK;
  const int64_t k_blocks = weights_.layout.k_blocks();
  const int64_t max_kc = bound_.max_kc ? bound_.max_kc / kUnitK : k_blocks;
  const int64_t kc = ceil_div(k_blocks, ceil_div(k_blocks, max_kc));
  const int64_t units = panel_group_ * kPanelUnits;
  blocks_.clear();
  panel_bytes_ = 0;
  for (int64_t first = 0; first < k_blocks; first += kc) {
    KBlock block{first, std::min(kc, k_blocks - first), panel_bytes_, {}, {}};
    panel_bytes_ += block.count * bound_.panel_bytes * units;
    const int64_t end = std::min((first + block.count) * kUnitK, weights_.layout.k);
    // A lone block leaves out the steps that only pad its segments. There are some only where a step has less than 4 k, and such kernels
    // have their panels in the order of the steps. Row terms would count what is left out.
    const bool trims = !terms_.needs_row_sums && k_blocks == kc && round_up(shape_.used_k(), bound_.step_k) < shape_.segment_k();
    used_steps_ = trims ? ceil_div(shape_.used_k(), bound_.step_k) : 0;
    std::vector<Piece> taps;
    for (int64_t k = first * kUnitK; k < end;) {
      const int64_t segment = k / shape_.segment_k();
      const int64_t length = std::min((segment + 1) * shape_.segment_k(), end) - k;
      const int64_t at =
          shape_.segment_offset(segment, packed.row, packed.pixel) + (k - segment * shape_.segment_k()) / bound_.step_k * step_bytes;
      const int64_t steps = trims ? used_steps_ : length / bound_.step_k;
      if (!taps.empty() && taps.back().a + taps.back().steps * step_bytes == at) {
        taps.back().steps += steps;
      } else {
        taps.push_back({at, steps});
      }
      k += length;
    }
    std::vector<int64_t> run_sizes;
    cut_pieces(std::move(taps), bound_.spill_every ? bound_.spill_every : INT64_MAX, step_bytes, block.pieces, run_sizes);
    const Piece* at = block.pieces.data();
    for (const int64_t size : run_sizes) {
      block.runs.push_back({at, size});
      at += size;
    }
    blocks_.push_back(std::move(block));
  }
}

void Direct::pack(const Source& source, int64_t images, uint8_t* scratch, const Tasks& tasks) const {
  const Source packed = packed_source(source, scratch);
  const bool whole_pixels = source.pixel == shape_.channels;
  const uint8_t* data = source.data - shape_.pad_top * source.row - shape_.pad_left * source.pixel;
  // Some rows a task: one is too little to hand out.
  const int64_t parts = tasks.parallel ? std::min<int64_t>(window_rows_, 4 * tasks.threads) : 1;
  tasks.run(images * parts, [&](int64_t index) {
    const int64_t i = index / parts;
    const Range rows = part(window_rows_, parts, index % parts);
    for (int64_t y = rows.begin; y < rows.end; ++y) {
      const uint8_t* from = data + i * source.image + y * source.row;
      uint8_t* to = const_cast<uint8_t*>(packed.data) + i * packed.image + y * packed.row;
      if (whole_pixels) {
        bound_.pack_a(from, 0, 1, round_up(window_columns_ * source.pixel, kUnitK), to, 0);
      } else {
        bound_.pack_a(from, source.pixel, static_cast<int>(window_columns_), round_up(shape_.channels, kUnitK), to, packed.pixel);
      }
    }
  });
}

// The sums of the codes that each segment's rows are made of; behind the packed source. Of a pixel's channels, or where the shape is tight
// of the whole segment that starts at the pixel.
void Direct::take_sums(const Source& source, int64_t images, uint8_t* scratch, const Tasks& tasks, const Ops& ops) const {
  const int64_t bytes = scratch_bytes(source);
  const int64_t offset = bytes - sums_bytes();
  const uint8_t* data = source.data - shape_.pad_top * source.row - shape_.pad_left * source.pixel;
  const int64_t starts = shape_.tight ? window_columns_ - shape_.kernel_x + 1 : window_columns_;
  tasks.run(images, [&](int64_t i) {
    int32_t* sums = reinterpret_cast<int32_t*>(scratch + i * bytes + offset);
    for (int64_t y = 0; y < window_rows_; ++y) {
      ops.channel_sum(data + i * source.image + y * source.row, source.pixel, starts, shape_.segment_k(), sums + y * window_columns_);
    }
  });
}

void Direct::run(const Source& source, int64_t images, uint8_t* scratch, const Output& output, const Tasks& tasks) const {
  if (bound_.pack_a) pack(source, images, scratch, tasks);
  if (terms_.needs_row_sums) take_sums(source, images, scratch, tasks, *output.ops);
  const int64_t bytes = scratch_bytes(source);
  Task task{packed_source(source, scratch), nullptr, bytes, output, 1, 1};
  if (terms_.needs_row_sums) task.sums = scratch + bytes - sums_bytes();
  const int64_t source_rows = std::max<int64_t>(1, kSourceBytes / std::max<int64_t>(1, task.source.row));
  task.row_parts = std::clamp<int64_t>(ceil_div(window_rows_, source_rows), 1, shape_.out_height);
  if (tasks.parallel) {
    const int64_t wanted = 2 * tasks.threads;
    task.row_parts =
        std::max(task.row_parts, std::clamp<int64_t>(shape_.pixels() / kTaskPixels, 1, std::min<int64_t>(wanted, shape_.out_height)));
    task.panel_parts = std::clamp<int64_t>(ceil_div(wanted, task.row_parts * images), 1, loop_panels_);
  }
  tasks.run(images * task.row_parts * task.panel_parts, [&](int64_t index) { run_task(task, index); });
}

void Direct::run_task(const Task& task, int64_t index) const {
  const Range panels = part(loop_panels_, task.panel_parts, index % task.panel_parts);
  index /= task.panel_parts;
  const Range rows = part(shape_.out_height, task.row_parts, index % task.row_parts);
  for (int64_t panel = panels.begin; panel < panels.end; ++panel) run_panel(task, index / task.row_parts, rows, panel);
}

// s_a t_b X_a (gemm/epilogue.h) of an output pixel.
int32_t Direct::row_term(const int32_t* sums, int64_t y, int64_t x) const {
  const int32_t* window = sums + y * shape_.stride_y * window_columns_ + x * shape_.stride_x;
  uint32_t sum = 0;
  for (int64_t i = 0; i < shape_.segments(); ++i) sum += static_cast<uint32_t>(window[shape_.segment_offset(i, window_columns_, 1)]);
  sum -= static_cast<uint32_t>(weights_.layout.k) * static_cast<uint32_t>(bound_.centre_a);
  return static_cast<int32_t>(terms_.s_a * terms_.t_b0 * sum);
}

// Some output rows of an image against one panel of weights.
void Direct::run_panel(const Task& task, int64_t image, Range out_rows, int64_t panel) const {
  const BitpackedLayout& layout = weights_.layout;
  const Range bitpacked = part(layout.panels(), loop_panels_, panel);
  const int64_t n0 = bitpacked.begin * kPanelCols;
  const int64_t cols = std::min(layout.n, bitpacked.end * kPanelCols) - n0;
  const int units = static_cast<int>(ceil_div(cols, kUnitCols));
  const int64_t width = int64_t{units} * kUnitCols;
  const int64_t mr = kernel_.mr;
  const int64_t block = std::max<int64_t>(kSumBytes / (4 * width) / mr, 1) * mr;

  thread_local Scratch scratch;
  uint8_t* at[4];
  scratch.reserve({panel_bytes_, block * width * 4, block * static_cast<int64_t>(sizeof(uint8_t*)), block * 4}, at);
  int32_t* acc = reinterpret_cast<int32_t*>(at[1]);
  const uint8_t** rows = reinterpret_cast<const uint8_t**>(at[2]);
  int32_t* row_terms = reinterpret_cast<int32_t*>(at[3]);

  BitpackedSlice slice{weights_.data.data() + layout.unit_offset(bitpacked.begin, 0, 0),
                       kPanelUnits * layout.k_blocks() * layout.unit_bytes(),
                       layout.unit_bytes(),
                       layout.units() - bitpacked.begin * kPanelUnits,
                       units,
                       0,
                       0};
  for (const KBlock& b : blocks_) {
    slice.k_block = b.first;
    slice.k_blocks = b.count;
    bound_.expand(slice, at[0] + b.panel);
  }
  if (used_steps_ > 0) {
    const int64_t step = int64_t{bound_.panel_bytes} * units * bound_.step_k / kUnitK;
    const int64_t segment = shape_.segment_k() / bound_.step_k * step;
    for (int64_t i = 1; i < shape_.segments(); ++i) {
      std::memmove(at[0] + i * used_steps_ * step, at[0] + i * segment, static_cast<size_t>(used_steps_ * step));
    }
  }

  const uint8_t* source = task.source.data + image * task.source.image;
  const int32_t* sums = task.sums ? reinterpret_cast<const int32_t*>(task.sums + image * task.sums_image) : nullptr;
  const int64_t step_x = shape_.stride_x * task.source.pixel;
  const int64_t step_y = shape_.stride_y * task.source.row;
  Tile t{};
  t.units = units;
  t.spill_every = bound_.spill_every;
  t.table = bound_.table;
  t.step_bias = bound_.step_bias;
  t.ldc = width;
  t.col = col_.data() + n0;
  t.shift = terms_.shift;

  int64_t y = out_rows.begin;
  int64_t x = 0;
  for (int64_t left = out_rows.size() * shape_.out_width; left > 0;) {
    const int64_t count = std::min(left, block);
    left -= count;
    const int64_t first_y = y;
    const int64_t first_x = x;
    for (int64_t p = 0; p < count;) {  // run by run of one row
      const int64_t run = std::min(count - p, shape_.out_width - x);
      const uint8_t* at_pixel = source + y * step_y + x * step_x;
      for (int64_t i = 0; i < run; ++i, at_pixel += step_x) rows[p + i] = at_pixel;
      if (sums) {
        for (int64_t i = 0; i < run; ++i) row_terms[p + i] = row_term(sums, y, x + i);
      }
      p += run;
      x += run;
      if (x == shape_.out_width) {
        x = 0;
        ++y;
      }
    }
    for (const KBlock& b : blocks_) {
      Gather gather{rows, b.runs.data(), static_cast<int64_t>(b.runs.size())};
      t.gather = &gather;
      t.b = at[0] + b.panel;
      t.accumulate = b.first > 0;
      t.rows = static_cast<int>(count);
      t.row = sums ? row_terms : nullptr;
      t.c = acc;
      bound_.run(t);
    }
    int64_t from_x = first_x;
    int64_t at_y = first_y;
    for (int64_t p = 0; p < count;) {
      const int64_t run = std::min(count - p, shape_.out_width - from_x);
      task.output.store(image, at_y, from_x, run, n0, cols, acc + p * width, width);
      p += run;
      from_x = 0;
      ++at_y;
    }
  }
}

}  // namespace

void Tasks::run_all(int64_t count, void (*task)(void*, int64_t), void* context) const {
  if (parallel) return parallel_for(count, task, context);
  for (int64_t i = 0; i < count; ++i) task(context, i);
}

std::unique_ptr<Conv> make_direct(const ConvProblem& problem, const Kernel& kernel) { return std::make_unique<Direct>(problem, kernel); }

}  // namespace ulp
