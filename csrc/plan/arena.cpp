#include "arena.h"

#include <algorithm>
#include <cstring>

#include "place.h"

namespace ulp {
namespace {

// Buffers beyond this (64 TiB) are a mistake; sums of sizes stay far below 2^63.
constexpr int64_t kMaxBytes = int64_t{1} << 46;

// Kernels may read this many bytes of an image's codes behind the last pixel, with weights of 0 (conv.h). They must be codes all the same,
// for the bounds of narrow sums rest on that.
constexpr int64_t kTail = 4;

void check_bytes(int64_t bytes, int64_t group) {
  if (bytes <= kMaxBytes / group) return;
  refuse("the buffers of the plan take more than " + std::to_string(kMaxBytes >> 40) + " TiB with group = " + std::to_string(group) +
         "; the images are too large");
}

// From which step to which each tensor is in use.
void find_lifetimes(std::vector<Tensor>& tensors, std::vector<PlannedStep>& steps) {
  for (Tensor& t : tensors) {
    t.first_step = t.last_step = t.port = -1;
    t.begin = t.first = 0;
  }
  for (size_t i = 0; i < steps.size(); ++i) {
    const int step = static_cast<int>(i);
    steps[i].fresh.clear();
    for (const Slice& s : steps[i].effects.writes) {
      Tensor& t = tensors[static_cast<size_t>(s.tensor)];
      if (t.first_step < 0) {
        t.first_step = step;
        steps[i].fresh.push_back(s.tensor);
      }
      t.last_step = step;
    }
    for (const int id : steps[i].effects.reads) tensors[static_cast<size_t>(id)].last_step = step;
  }
}

void find_strides(std::vector<Tensor>& tensors) {
  for (Tensor& t : tensors) {
    const bool padded = t.is_codes && t.layout != PixelLayout::tight;
    t.strides.pixel = (padded ? round_up(t.channels, 4) : t.channels) * t.element_bytes();
    t.strides.row = t.strides.pixel * (t.width + t.border.left + t.border.right);
    t.strides.image = t.strides.row * (t.height + t.border.top + t.border.bottom);
  }
}

// Tensors that are an output as they lie, and are written there at once.
void find_ports(std::vector<Tensor>& tensors, const std::vector<PlannedStep>& steps) {
  std::vector<int> readers(tensors.size());
  for (const PlannedStep& s : steps) {
    for (const int id : s.effects.reads) ++readers[static_cast<size_t>(id)];
  }
  for (const PlannedStep& s : steps) {
    if (s.port < 0) continue;
    const size_t source = static_cast<size_t>(s.effects.reads[0]);
    // Nobody else may read it: what kernels read behind a tensor's end is there in the arena only.
    if (readers[source] == 1 && s.step->output_is_source(tensors[source])) tensors[source].port = s.port;
  }
}

}  // namespace

int64_t lay_out(std::vector<Tensor>& tensors, std::vector<PlannedStep>& steps, int64_t group) {
  find_lifetimes(tensors, steps);
  find_strides(tensors);
  find_ports(tensors, steps);

  struct Wanted {
    int64_t bytes;
    int first_step, last_step;
    int64_t* at;
  };
  std::vector<Wanted> wanted;
  for (Tensor& t : tensors) {
    if (t.first_step < 0 || t.port >= 0) continue;
    check_bytes(t.strides.image, group);
    wanted.push_back({group * t.strides.image + (t.is_codes ? kTail : 0), t.first_step, t.last_step, &t.begin});
  }
  for (size_t i = 0; i < steps.size(); ++i) {
    const int64_t bytes = steps[i].step->bind(tensors, group);
    if (bytes <= 0) continue;
    check_bytes(bytes, group);
    wanted.push_back({group * bytes, static_cast<int>(i), static_cast<int>(i), &steps[i].scratch});
  }
  // Large ones are placed first, which leaves few gaps.
  std::stable_sort(wanted.begin(), wanted.end(), [](const Wanted& a, const Wanted& b) { return a.bytes > b.bytes; });
  std::vector<Block> taken;
  int64_t arena_bytes = 0;
  for (const Wanted& w : wanted) {
    const Block placed = place(taken, round_up(w.bytes, 64), w.first_step, w.last_step);
    *w.at = placed.begin;
    check_bytes(placed.end, 1);
    arena_bytes = std::max(arena_bytes, placed.end);
  }
  for (Tensor& t : tensors) t.first = t.begin + t.strides.offset(0, t.border.top, t.border.left);
  return arena_bytes;
}

void fill_border(const Tensor& t, uint8_t* arena, int64_t images) {
  const ImageStrides& s = t.strides;
  const ImageView<uint8_t> all{arena + t.begin, s};  // with the border
  const ImageView<uint8_t> inner{arena + t.first, s};
  const auto fill = [&t](uint8_t* begin, const uint8_t* end) { std::memset(begin, t.zero, static_cast<size_t>(end - begin)); };
  fill(all.row(images, 0), all.row(images, 0) + kTail);
  for (int64_t i = 0; i < images; ++i) {
    if (s.pixel != t.channels) {
      fill(all.row(i, 0), all.row(i + 1, 0));
    } else if (!t.border.empty()) {
      fill(all.row(i, 0), inner.row(i, 0));
      for (int64_t y = 0; y + 1 < t.height; ++y) fill(inner.pixel(i, y, t.width), inner.row(i, y + 1));
      fill(inner.pixel(i, t.height - 1, t.width), all.row(i + 1, 0));
    }
  }
}

}  // namespace ulp
