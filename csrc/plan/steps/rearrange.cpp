// Elements of an image in another order: transposes, channel shuffles, pixel shuffles, slices.
//
//     target[y][x][c] = source[rows[y] + columns[x] + channels[c]]
//
// Each index is a place (y, x, c) of the source, and the three are added. source: codes or floats; rows: H' x 3, columns: W' x 3,
// channels: C' x 3, none negative and every sum inside the source; target: H' x W' x C' from its channel on, of the same quantizer, or of
// floats, too.
#include <algorithm>
#include <cstring>

#include "../step.h"

namespace ulp {
namespace {

struct RearrangeStep final : Step {
  int source = -1;
  Slice target{-1, 0};
  Windows rows, columns, channels;

  // Elements from pixel (0, 0), set by bind.
  std::vector<int64_t> row_at{}, column_at{}, channel_at{};
  int64_t run_length = 1;  // channels in a row that lie side by side in the source, too

  FieldList fields() override {
    return {{"source", &source}, {"target", &target}, {"rows", &rows}, {"columns", &columns}, {"channels", &channels}};
  }

  std::string method() const override { return "copy"; }

  Effects check(const Checks& plan) override {
    const Tensor& t = plan.readable({source, 0}, plan.tensor(source).channels);
    const int64_t sides[] = {t.height, t.width, t.channels};
    int64_t high[3] = {};
    for (const Windows* places : {&rows, &columns, &channels}) {
      if (places->empty() || places->shape[1] != 3) plan.refuse(": rows, columns and channels are places (y, x, c), at least one of each");
      for (int64_t axis = 0; axis < 3; ++axis) {
        int32_t largest = 0;
        for (int64_t i = axis; i < places->size(); i += 3) {
          if ((*places)[i] < 0) plan.refuse(": a place is negative");
          largest = std::max(largest, (*places)[i]);
        }
        high[axis] += largest;
      }
    }
    for (int64_t axis = 0; axis < 3; ++axis) {
      if (high[axis] >= sides[axis]) plan.refuse(": a place is outside the image");
    }
    plan.copyable(source, target, channels.shape[0], rows.shape[0], columns.shape[0]);
    Effects e;
    e.reads = {source};
    e.writes = {target};
    e.channels = channels.shape[0];
    e.a_bits = t.bits;
    return e;
  }

  int64_t bind(const std::vector<Tensor>& tensors, int64_t /*group*/) override {
    const Tensor& t = tensors[static_cast<size_t>(source)];
    const int64_t size = t.element_bytes();
    const auto elements = [&](const Windows& places) {
      std::vector<int64_t> at;
      for (int64_t i = 0; i < places.size(); i += 3)
        at.push_back(places[i] * t.strides.row / size + places[i + 1] * t.strides.pixel / size + places[i + 2]);
      return at;
    };
    row_at = elements(rows);
    column_at = elements(columns);
    channel_at = elements(channels);
    run_length = common_run(channel_at);
    return 0;
  }

  // The largest length of which the channels are runs, each of offsets that rise by 1.
  static int64_t common_run(const std::vector<int64_t>& at) {
    const int64_t count = static_cast<int64_t>(at.size());
    int64_t first = 1;
    while (first < count && at[static_cast<size_t>(first)] == at[static_cast<size_t>(first - 1)] + 1) ++first;
    if (count % first != 0) return 1;
    for (int64_t i = 0; i < count; ++i) {
      if (at[static_cast<size_t>(i)] != at[static_cast<size_t>(i - i % first)] + i % first) return 1;
    }
    return first;
  }

  void run(const Context& c) const override {
    c.tensor(source).is_codes ? move(c, c.codes(source), c.codes(target)) : move(c, c.floats({source, 0}), c.floats(target));
  }

  template <class T>
  void move(const Context& c, const ImageView<T>& from, const ImageView<T>& to) const {
    const int64_t width = columns.shape[0], count = channels.shape[0];
    for_rows(c, rows.shape[0], rows.shape[0] * width * count, [&](int64_t i, int64_t begin, int64_t end) {
      for (int64_t y = begin; y < end; ++y) {
        const T* row = from.row(i, 0) + row_at[static_cast<size_t>(y)];
        for (int64_t x = 0; x < width; ++x) copy_pixel(row + column_at[static_cast<size_t>(x)], count, to.pixel(i, y, x));
      }
    });
  }

  template <class T>
  void copy_pixel(const T* a, int64_t count, T* out) const {
    const int64_t* at = channel_at.data();
    if (run_length == 1) {
      for (int64_t n = 0; n < count; ++n) out[n] = a[at[n]];
      return;
    }
    for (int64_t n = 0; n < count; n += run_length) std::memcpy(out + n, a + at[n], static_cast<size_t>(run_length) * sizeof(T));
  }
};

}  // namespace

std::unique_ptr<Step> make_rearrange() { return std::make_unique<RearrangeStep>(); }

}  // namespace ulp
