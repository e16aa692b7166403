#include "winograd.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "../gemm/range.h"
#include "../gemm/scratch.h"
#include "../pack/pack.h"

namespace ulp {

namespace {

// Transformed inputs that stay in the second-level cache while all panels of weights pass by.
constexpr int64_t kInputBytes = 300 * 1024;

// Sums of a block of tiles on their way to the finish.
constexpr int64_t kSumBytes = 32 * 1024;

constexpr int kGrowth[4] = {2, 3, 3, 2};  // of a weight by 2G

int64_t part_steps(int a_bits, Encoding w, int part) {
  const int largest = std::max(-w.min(), w.max()) * kGrowth[part / 4] * kGrowth[part % 4];
  return accumulation_length(32767, 2, 4 * ((1 << a_bits) - 1) * largest);
}

class Winograd final : public Conv {
 public:
  Winograd(const ConvProblem& p, const WinogradKernels& kernels, const char* name)
      : shape_(p.shape), weights_(p.weights), kernels_(kernels), name_(name) {
    const Encoding w = p.weights.encoding;
    bipolar_ = w.bipolar();
    added_ = 2 * ((1 << p.a_bits) - 1);
    for (int i = 0; i < kWinogradParts; ++i) min_steps_[i] = part_steps(p.a_bits, w, i);
    tiles_y_ = (shape_.out_height + 1) / 2;
    tiles_x_ = (shape_.out_width + 1) / 2;
    v_tile_ = round_up(shape_.channels, 32);
    make_constants(p.a_zero);
  }

  const char* method() const override { return name_; }

  // Runs as long as these weights allow. Shorter ones begin at other steps than the longer ones that were exact for the panels before, so
  // every panel is looked at once more after the last that made runs shorter.
  int64_t bind(const ImageStrides&) override {
    std::fill_n(steps_, kWinogradParts, shape_.channels / 4);
    if (!kernels_.largest_sum) return 0;
    AlignedBytes u(static_cast<size_t>(kWinogradParts * u_part()));
    AlignedBytes raw(static_cast<size_t>(raw_bytes()));
    const int64_t panels = weights_.layout.panels();
    int64_t exact = 0;  // panels in a row
    for (int64_t panel = 0; exact < panels; panel = (panel + 1) % panels) {
      expand(panel, weights_.layout.panel_units(panel), raw.data(), u.data(), u_part());
      exact = shorten_runs(u.data(), weights_.layout.panel_units(panel)) ? 1 : exact + 1;
    }
    return 0;
  }

  void run(const CodeImages& source, int64_t images, uint8_t*, const Output& output, const Tasks& tasks) const override {
    const int64_t rows = std::max<int64_t>(1, kInputBytes / (kWinogradParts * v_tile_ * tiles_x_));
    int64_t row_parts = ceil_div(tiles_y_, rows);
    int64_t panel_parts = 1;
    if (tasks.parallel) {
      const int64_t wanted = 2 * tasks.threads;
      row_parts = std::max(row_parts, std::clamp<int64_t>(tiles_y_ * tiles_x_ / 24, 1, std::min<int64_t>(wanted, tiles_y_)));
      panel_parts = std::clamp<int64_t>(ceil_div(tasks.threads, row_parts * images), 1, weights_.layout.panels());
    }
    const CodeImages windows = source.from(-shape_.pad_top, -shape_.pad_left);
    tasks.run(images * row_parts * panel_parts, [&](int64_t index) {
      const Range panels = part(weights_.layout.panels(), panel_parts, index % panel_parts);
      const int64_t image = index / panel_parts / row_parts;
      run_task(windows, image, part(tiles_y_, row_parts, index / panel_parts % row_parts), panels, output);
    });
  }

 private:
  // Has runs be exact for one panel. True if they became shorter.
  bool shorten_runs(const uint8_t* u, int units) {
    const int64_t steps = shape_.channels / 4;
    bool shorter = false;
    for (int i = 0; i < kWinogradParts; ++i) {
      const uint8_t* part = u + i * u_part();
      const int64_t before = steps_[i];
      // Ever more runs; those of the shortest length are exact whatever the weights.
      for (int64_t runs = ceil_div(steps, steps_[i]); steps_[i] > min_steps_[i]; runs += 1 + runs / 16) {
        steps_[i] = std::max(ceil_div(steps, runs), min_steps_[i]);
        if (2 * added_ * kernels_.largest_sum(part, units, steps, steps_[i]) <= 32767) break;
      }
      shorter |= steps_[i] < before;
    }
    return shorter;
  }

  // sums[j] += weight j of a row
  void add_row(const uint8_t* row, int64_t n, int32_t* sums) const {
    if (weights_.encoding.is_signed) {
      for (int64_t j = 0; j < n; ++j) sums[j] += static_cast<int8_t>(row[j]);
    } else {
      for (int64_t j = 0; j < n; ++j) sums[j] += row[j];
    }
  }

  // What each output pixel of a tile adds to its column, four times: - 4 zero * (sum of weights), and what `added_` brought in.
  void make_constants(int a_zero) {
    const BitpackedLayout& layout = weights_.layout;
    const int64_t n = layout.n;
    const int64_t width = round_up(n, kPanelCols);
    std::vector<uint8_t> values(static_cast<size_t>(layout.k * n));
    unpack(weights_, values.data());
    constants_.assign(static_cast<size_t>(4 * width), 0);
    constexpr int kAt[2][4] = {{1, 1, 1, 0}, {0, 1, -1, -1}};
    constexpr int kG2[4][3] = {{2, 0, 0}, {1, 1, 1}, {1, -1, 1}, {0, 0, 2}};
    std::vector<int32_t> sums(static_cast<size_t>(9 * n));  // of each tap: no more in magnitude than those of all, which fit (Checks::sums)
    for (int64_t k = 0; k < layout.k; ++k) add_row(values.data() + k * n, n, sums.data() + k / shape_.channels * n);
    for (int64_t j = 0; j < n; ++j) {
      int64_t taps[9];
      int64_t all = 0;
      for (int64_t tap = 0; tap < 9; ++tap) all += taps[tap] = sums[static_cast<size_t>(tap * n + j)];
      for (int p = 0; p < 4; ++p) {
        int64_t from_added = 0;
        for (int i = 0; i < 4; ++i) {
          for (int l = 0; l < 4; ++l) {
            if (i == 1 && l == 1) continue;
            int64_t u = 0;
            for (int y = 0; y < 3; ++y) {
              for (int x = 0; x < 3; ++x) u += kG2[i][y] * kG2[l][x] * taps[3 * y + x];
            }
            from_added += kAt[p / 2][i] * kAt[p % 2][l] * u;
          }
        }
        constants_[static_cast<size_t>(p * width + j)] =
            static_cast<int32_t>(static_cast<uint32_t>(-4 * a_zero * all - added_ * from_added));
      }
    }
  }

  int64_t u_part() const { return shape_.channels / 4 * kPanelUnits * kVector + 64; }
  int64_t raw_bytes() const { return shape_.channels % kUnitK ? weights_.layout.k_blocks() * kUnitK * kPanelCols : 0; }

  void expand(int64_t panel, int units, uint8_t* raw, uint8_t* u, int64_t u_part) const {
    const BitpackedLayout& layout = weights_.layout;
    BitpackedSlice slice{weights_.data.data() + layout.unit_offset(panel, 0, 0),
                         kPanelUnits * layout.k_blocks() * layout.unit_bytes(),
                         layout.unit_bytes(),
                         layout.units() - panel * kPanelUnits,
                         units,
                         0,
                         layout.k_blocks()};
    const int64_t step = int64_t{units} * kVector;
    if (shape_.channels % kUnitK) {
      kernels_.expand_raw(slice, raw);
      const int64_t steps = shape_.channels / 4;
      kernels_.transform_weights(raw, steps * step, steps * units, bipolar_, u, u_part);
      return;
    }
    kernels_.expand(slice, shape_.channels / kUnitK, bipolar_, u, u_part);
  }

  void run_task(const CodeImages& windows, int64_t image, Range tile_rows, Range panels, const Output& output) const {
    const int64_t block_tiles = tile_rows.size() * tiles_x_;
    // Parts not a power of two apart, or the sixteen streams that a transform writes would share the ways of a few cache sets.
    const int64_t v_part = round_up(block_tiles * v_tile_, 256) + 64;
    const int64_t steps = shape_.channels / 4;
    const int64_t u_part = this->u_part();
    const int64_t m_part = kernels_.group_tiles * kPanelCols;
    constexpr int64_t kRowSums = 2 * 2 * kPanelCols;  // of a tile, in elements
    const int64_t sub_rows = std::clamp<int64_t>(kSumBytes / (tiles_x_ * kRowSums * 4), 1, tile_rows.size());

    thread_local Scratch scratch;
    uint8_t* v;    // transformed inputs
    uint8_t* u;    // transformed weights
    uint8_t* raw;  // weights
    int32_t* m;    // products of u and v
    int32_t* sums;
    scratch.lay_out(scratch_array(v, kWinogradParts * v_part), scratch_array(u, kWinogradParts * u_part), scratch_array(raw, raw_bytes()),
                    scratch_array(m, kWinogradParts * m_part), scratch_array(sums, sub_rows * tiles_x_ * kRowSums));

    for (int64_t ty = tile_rows.begin; ty < tile_rows.end; ++ty) {
      kernels_.transform_input(windows.row(image, 2 * ty), windows.strides.row, windows.strides.pixel, tiles_x_, shape_.channels, added_,
                               v + (ty - tile_rows.begin) * tiles_x_ * v_tile_, v_part, v_tile_);
    }

    const int64_t constants_ld = round_up(weights_.layout.n, kPanelCols);
    const int64_t out_row = 2 * tiles_x_ * kPanelCols;
    for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
      const int units = weights_.layout.panel_units(panel);
      const int64_t n0 = panel * kPanelCols;
      const int64_t cols = std::min<int64_t>(weights_.layout.n - n0, kPanelCols);
      expand(panel, units, raw, u, u_part);
      for (int64_t ty = tile_rows.begin; ty < tile_rows.end; ty += sub_rows) {
        const int64_t rows = std::min(sub_rows, tile_rows.end - ty);
        const int64_t first = (ty - tile_rows.begin) * tiles_x_;
        const int64_t tiles = rows * tiles_x_;
        const int64_t groups = ceil_div(tiles, kernels_.group_tiles);
        for (int64_t i = 0; i < groups; ++i) {
          const int64_t t = part(tiles, groups, i).begin;
          const int64_t group = part(tiles, groups, i).size();
          for (int p = 0; p < kWinogradParts; ++p) {
            kernels_.multiply(v + p * v_part + (first + t) * v_tile_, v_tile_, group, u + p * u_part, units, steps, steps_[p],
                              m + p * m_part, kPanelCols);
          }
          for (int64_t g = 0; g < group; ++g) {
            const int64_t y = (t + g) / tiles_x_;
            const int64_t x = (t + g) % tiles_x_;
            kernels_.transform_output(m + g * kPanelCols, m_part, int64_t{units} * kUnitCols, constants_.data() + n0, constants_ld,
                                      sums + 2 * y * out_row + 2 * x * kPanelCols, out_row, kPanelCols);
          }
        }
        const int64_t end = std::min<int64_t>(2 * rows, shape_.out_height - 2 * ty);
        for (int64_t y = 0; y < end; ++y) output.store(image, 2 * ty + y, 0, shape_.out_width, n0, cols, sums + y * out_row, kPanelCols);
      }
    }
  }

  ConvShape shape_;
  const PackedMatrix& weights_;
  const WinogradKernels& kernels_;
  const char* name_;
  bool bipolar_;
  int added_;
  int64_t min_steps_[kWinogradParts];
  int64_t steps_[kWinogradParts] = {};
  int64_t tiles_y_, tiles_x_;
  int64_t v_tile_;
  std::vector<int32_t> constants_;
};

}  // namespace

std::string why_not_winograd(const ConvProblem& p) {
  const ConvShape& s = p.shape;
  if (s.kernel_y != 3 || s.kernel_x != 3) return "takes 3 x 3 kernels only";
  if (s.stride_y != 1 || s.stride_x != 1 || s.dilation_y != 1 || s.dilation_x != 1) return "takes stride 1 and dilation 1 only";
  if (s.tight) return "takes 4 channels or more";
  const Encoding w = p.weights.encoding;
  if (!w.is_signed || p.w_zero != 0) return "takes signed weights without a zero point only";
  if (w.bits > 4 || p.a_bits > 6 || part_steps(p.a_bits, w, 5) < 1) {
    return "would overflow at W" + std::to_string(w.bits) + "A" + std::to_string(p.a_bits);
  }
  // It sums four times the result.
  if (p.weights.layout.k > SumBound{4 * magnitude({p.a_bits, false}, p.a_zero), magnitude(w, 0)}.max_k()) {
    return "would overflow int32 with " + std::to_string(s.channels) + " channels";
  }
  return "";
}

// By the measurements in bench/NOTES.md, as all of these: with few channels the transforms weigh more than the multiplies they save,
// against lookups of 1-bit weights it always loses, against those of W2A2 with few channels or tiles. Against VNNI, whose products are
// three times as fast as the AVX2 ones that it makes, it loses everywhere.
Prospect prospect_of_winograd(const ConvProblem& p) {
  if (isa_runs(Isa::avxvnni) || isa_runs(Isa::avx512vnni)) return Prospect::loses;
  if (p.shape.channels < 24) return Prospect::unclear;
  const int w_bits = p.weights.encoding.bits;
  if (w_bits == 1 && p.a_bits <= 4) return Prospect::unclear;
  const bool few = p.shape.channels < 64 || p.shape.pixels() < 180;
  return w_bits == 2 && p.a_bits <= 2 && few ? Prospect::unclear : Prospect::wins;
}

Prospect prospect_of_dot_winograd(const ConvProblem& p) {
  if (p.shape.channels < 16) return Prospect::loses;
  return p.shape.channels < 32 ? Prospect::unclear : Prospect::wins;
}

std::unique_ptr<Conv> make_winograd(const ConvProblem& p, const WinogradKernels& kernels, const char* name) {
  return std::make_unique<Winograd>(p, kernels, name);
}

}  // namespace ulp
