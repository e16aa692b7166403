// The largest code of each window, per channel:
//
//     target[y][x][c] = max of source[i][j][c]    i = rows[y].begin, + step_y, ... below rows[y].end; j likewise in columns[x]
//
// or the smallest in channels where takes_min is set. source: H x W x C; rows: H' windows, columns: W' windows, clipped to the image, not
// empty; target: H' x W' x C from its channel on, of the same quantizer.
#include <algorithm>
#include <cstring>

#include "../step.h"

namespace ulp {
namespace {

struct MaxPoolStep final : Step {
  int source = -1;
  Slice target{-1, 0};
  Windows rows, columns;
  std::array<int, 2> dilation{1, 1};
  Flags takes_min;  // empty: nowhere

  std::vector<uint8_t> masks{};  // of takes_min: 0xFF where the smallest code is wanted, else 0

  FieldList fields() override {
    constexpr bool optional = true;
    return {{"source", &source},   {"target", &target},     {"rows", &rows},
            {"columns", &columns}, {"dilation", &dilation}, {"takes_min", &takes_min, optional}};
  }

  std::string method() const override { return "window"; }

  Effects check(const Checks& plan) override {
    const Tensor& t = plan.readable_codes(source);
    plan.windows("rows", rows, t.height);
    plan.windows("columns", columns, t.width);
    for (const int d : dilation) check_range("dilation", d, 1, kMaxKernelSide);
    if (!takes_min.empty() && takes_min.size() != t.channels)
      plan.refuse(": takes_min must have " + std::to_string(t.channels) + " values");
    plan.copyable(source, target, t.channels, rows.shape[0], columns.shape[0]);
    masks.clear();
    for (const uint8_t min : takes_min.values) masks.push_back(min ? 0xFF : 0);
    Effects e;
    e.reads = {source};
    e.writes = {target};
    e.channels = t.channels;
    e.a_bits = t.bits;
    return e;
  }

  void run(const Context& c) const override {
    const Tensor& t = c.tensor(source);
    const ImageView<uint8_t> from = c.codes(source);
    const ImageView<uint8_t> to = c.codes(target);
    for_rows(c, rows.shape[0], t.elements(), [&](int64_t i, int64_t begin, int64_t end) {
      Window w{};
      w.a = from.row(i, 0);
      w.row = from.strides.row;
      w.pixel = from.strides.pixel;
      w.channels = t.channels;
      w.y_step = dilation[0];
      w.x_step = dilation[1];
      for (int64_t y = begin; y < end; ++y) {
        w.y0 = rows[2 * y];
        w.y1 = rows[2 * y + 1];
        for (int64_t x = 0; x < columns.shape[0]; ++x) {
          w.x0 = columns[2 * x];
          w.x1 = columns[2 * x + 1];
          masks.empty() ? c.ops.window_max(w, to.pixel(i, y, x)) : window_extreme(w, to.pixel(i, y, x));
        }
      }
    });
  }

  // Complementing codes turns their minimum into a maximum.
  void window_extreme(const Window& w, uint8_t* out) const {
    const uint8_t* mask = masks.data();
    std::memset(out, 0, static_cast<size_t>(w.channels));
    for (int y = w.y0; y < w.y1; y += w.y_step) {
      for (int x = w.x0; x < w.x1; x += w.x_step) {
        const uint8_t* a = w.a + y * w.row + x * w.pixel;
        for (int64_t n = 0; n < w.channels; ++n) {
          const uint8_t masked = a[n] ^ mask[n];
          out[n] = out[n] > masked ? out[n] : masked;
        }
      }
    }
    for (int64_t n = 0; n < w.channels; ++n) out[n] ^= mask[n];
  }
};

}  // namespace

std::unique_ptr<Step> make_max_pool() { return std::make_unique<MaxPoolStep>(); }

}  // namespace ulp
