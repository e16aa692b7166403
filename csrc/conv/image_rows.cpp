#include "image_rows.h"

#include <algorithm>

#include "../gemm/scratch.h"

namespace ulp {
namespace {

// The pieces of a K-block as runs of at most `spill_every` steps (0: any number); a piece that is longer than a run's rest is cut.
GatheredBlock cut(std::vector<Piece> pieces, int64_t spill_every, int64_t step_bytes) {
  if (spill_every == 0) spill_every = INT64_MAX;
  GatheredBlock block;
  std::vector<int64_t> sizes{0};
  int64_t room = spill_every;
  for (Piece& p : pieces) {
    while (p.steps > 0) {
      if (room == 0) {
        sizes.push_back(0);
        room = spill_every;
      }
      const int64_t steps = std::min(p.steps, room);
      block.pieces.push_back({p.a, steps});
      ++sizes.back();
      room -= steps;
      p.a += steps * step_bytes;
      p.steps -= steps;
    }
  }
  const Piece* at = block.pieces.data();
  for (const int64_t size : sizes) {
    block.runs.push_back({at, size});
    at += size;
  }
  return block;
}

}  // namespace

ImageRows::ImageRows(const ConvShape& shape, PanelLoop& loop)
    : shape_(shape),
      loop_(loop),
      window_rows_(int64_t{shape.out_height - 1} * shape.stride_y + int64_t{shape.kernel_y - 1} * shape.dilation_y + 1),
      window_columns_(int64_t{shape.out_width - 1} * shape.stride_x + int64_t{shape.kernel_x - 1} * shape.dilation_x + 1) {}

// Of whole pixels a row has all codes that segments read: the padding of a tight one reaches past the last pixel.
int64_t ImageRows::packed_row_codes() const {
  if (!whole_pixels()) return window_columns_ * round_up(shape_.channels, kUnitK);
  const int64_t pixels = window_columns_ * shape_.channels;
  const int64_t last_segment = shape_.tight ? (window_columns_ - shape_.kernel_x) * shape_.channels + shape_.segment_k() : 0;
  return round_up(std::max(pixels, last_segment), kUnitK);
}

int64_t ImageRows::sum_bytes() const {
  return loop_.zero_points().needs_row_sums ? round_up(window_rows_ * window_columns_ * static_cast<int64_t>(sizeof(int32_t)), 64) : 0;
}

int64_t ImageRows::bind(const ImageStrides& source) {
  source_ = codes_ = source;
  scratch_bytes_ = sum_bytes();
  if (packs()) {
    codes_.pixel = packed_bytes(whole_pixels() ? shape_.channels : round_up(shape_.channels, kUnitK));
    codes_.row = packed_bytes(packed_row_codes());
    scratch_bytes_ += round_up(window_rows_ * codes_.row, 64);
    codes_.image = scratch_bytes_;
  }
  sums_ = {1, window_columns_, scratch_bytes_ / static_cast<int64_t>(sizeof(int32_t))};

  const KernelAtBits& kernel = loop_.kernel();
  const bool skips_padding = loop_.skip_padding(shape_.segment_k(), shape_.used_k());
  blocks_.clear();
  for (int64_t i = 0; i < loop_.k_blocks(); ++i) {
    const Range block = loop_.k_block(i);
    const Range k{block.begin * kUnitK, std::min(block.end * kUnitK, loop_.weights().k)};
    blocks_.push_back(cut(pieces(k, skips_padding), kernel.spill_every, packed_bytes(kernel.step_k)));
  }
  return scratch_bytes_;
}

// Where the segments in a range of K lie, from a window's start; neighbours become one piece.
std::vector<Piece> ImageRows::pieces(Range k, bool skips_padding) const {
  const int64_t step_k = loop_.kernel().step_k;
  const int64_t step_bytes = packed_bytes(step_k);
  std::vector<Piece> pieces;
  for (int64_t at = k.begin; at < k.end;) {
    const int64_t segment = at / shape_.segment_k();
    const int64_t inside = at - segment * shape_.segment_k();
    const int64_t length = std::min(shape_.segment_k() - inside, k.end - at);
    const int64_t steps = skips_padding ? ceil_div(shape_.used_k(), step_k) : length / step_k;
    const int64_t offset = shape_.segment_offset(segment, codes_) + inside / step_k * step_bytes;
    if (!pieces.empty() && pieces.back().a + pieces.back().steps * step_bytes == offset) {
      pieces.back().steps += steps;
    } else {
      pieces.push_back({offset, steps});
    }
    at += length;
  }
  return pieces;
}

ImageRows::Prepared ImageRows::prepare(const CodeImages& source, int64_t images, uint8_t* scratch, const Tasks& tasks,
                                       const Ops& ops) const {
  const CodeImages windows = source.from(-shape_.pad_top, -shape_.pad_left);
  Prepared prepared{windows, {}};
  if (packs()) {
    pack(windows, images, {scratch, codes_}, tasks);
    prepared.codes = {scratch, codes_};
  }
  if (loop_.zero_points().needs_row_sums) {
    int32_t* sums = reinterpret_cast<int32_t*>(scratch + scratch_bytes_ - sum_bytes());  // behind the packed pixels
    take_sums(windows, images, {sums, sums_}, tasks, ops);
    prepared.sums = {sums, sums_};
  }
  return prepared;
}

void ImageRows::pack(const CodeImages& windows, int64_t images, const ImageView<uint8_t>& packed, const Tasks& tasks) const {
  const auto pack_a = loop_.kernel().pack_a;
  // Some rows per task: one is too little to hand out.
  const int64_t parts = tasks.parallel ? std::min<int64_t>(window_rows_, 4 * tasks.threads) : 1;
  tasks.run(images * parts, [&](int64_t index) {
    const int64_t image = index / parts;
    const Range rows = part(window_rows_, parts, index % parts);
    for (int64_t y = rows.begin; y < rows.end; ++y) {
      const uint8_t* from = windows.row(image, y);
      uint8_t* to = packed.row(image, y);
      if (whole_pixels()) {
        pack_a(from, 0, 1, packed_row_codes(), to, 0);
      } else {
        pack_a(from, source_.pixel, static_cast<int>(window_columns_), round_up(shape_.channels, kUnitK), to, codes_.pixel);
      }
    }
  });
}

// The sums of the codes that each segment is made of: of a pixel's channels, or where the shape is tight of the whole segment that starts
// at the pixel.
void ImageRows::take_sums(const CodeImages& windows, int64_t images, const ImageView<int32_t>& sums, const Tasks& tasks,
                          const Ops& ops) const {
  const int64_t starts = shape_.tight ? window_columns_ - shape_.kernel_x + 1 : window_columns_;
  tasks.run(images, [&](int64_t image) {
    for (int64_t y = 0; y < window_rows_; ++y) {
      ops.channel_sum(windows.row(image, y), source_.pixel, starts, shape_.segment_k(), sums.row(image, y));
    }
  });
}

// s_a t_b X_a (gemm/zero_points.h) of the output pixel whose window's sums start here.
int32_t ImageRows::row_term(const int32_t* window) const {
  const ZeroPoints& z = loop_.zero_points();
  uint32_t sum = 0;
  for (int64_t i = 0; i < shape_.segments(); ++i) sum += static_cast<uint32_t>(window[shape_.segment_offset(i, sums_)]);
  sum -= static_cast<uint32_t>(loop_.weights().k) * static_cast<uint32_t>(loop_.kernel().centre_a);
  return static_cast<int32_t>(z.s_a * z.t_b0 * sum);
}

ImageRows::Part::Part(const ImageRows& all, const Prepared& prepared, int64_t image, Range out_rows)
    : all_(all), prepared_(prepared), image_(image) {
  first = out_rows.begin * all.shape_.out_width;
  count = out_rows.size() * all.shape_.out_width;
  blocks = &all.blocks_;
}

Rows ImageRows::Part::rows(Range r) const {
  const ConvShape& s = all_.shape_;
  const bool sums = prepared_.sums.data;
  thread_local Scratch scratch;
  const uint8_t** starts;
  int32_t* terms;
  scratch.lay_out(scratch_array(starts, r.size()), scratch_array(terms, sums ? r.size() : 0));
  const int64_t step = s.stride_x * prepared_.codes.strides.pixel;
  int64_t y = (first + r.begin) / s.out_width;
  int64_t x = (first + r.begin) % s.out_width;
  for (int64_t i = 0; i < r.size(); ++y, x = 0) {  // run by run of one output row
    const int64_t end = i + std::min(r.size() - i, s.out_width - x);
    const uint8_t* at = prepared_.codes.pixel(image_, y * s.stride_y, x * s.stride_x);
    for (; i < end; ++i, ++x, at += step) {
      starts[i] = at;
      if (sums) terms[i] = all_.row_term(prepared_.sums.pixel(image_, y * s.stride_y, x * s.stride_x));
    }
  }
  Rows rows;
  rows.gathered = starts;
  rows.terms = sums ? terms : nullptr;
  return rows;
}

}  // namespace ulp
