// Pixels of an image in another order:
//
//     target[y][x][c] = source[rows[y]][columns[x]][c], or the code of zero where an index is -1
//
// source: `channels` channels of an image from source_channel on; rows: H' indices, columns: W' indices; target: H' x W' x channels from
// its channel on, of the same quantizer.
#include <algorithm>
#include <cstring>

#include "../step.h"

namespace ulp {
namespace {

struct GatherStep final : Step {
  int source = -1, source_channel = 0, channels = 0;
  Slice target{-1, 0};
  Ints rows, columns;

  FieldList fields() override {
    return {{"source", &source},  {"source_channel", &source_channel}, {"channels", &channels}, {"target", &target}, {"rows", &rows},
            {"columns", &columns}};
  }

  std::string method() const override { return "copy"; }

  Effects check(const Checks& plan) override {
    const Tensor& t = plan.codes(source);
    plan.readable({source, source_channel}, channels);
    const auto inside = [](const Ints& indices, int64_t size) {
      const auto& v = indices.values;
      return !v.empty() && std::all_of(v.begin(), v.end(), [size](int32_t i) { return i >= -1 && i < size; });
    };
    if (!inside(rows, t.height) || !inside(columns, t.width)) plan.refuse(": an index is outside the image");
    plan.copyable(source, target, channels, rows.size(), columns.size());
    Effects e;
    e.reads = {source};
    e.writes = {target};
    e.channels = channels;
    e.a_bits = t.bits;
    return e;
  }

  void run(const Context& c) const override {
    const Tensor& t = c.tensor(target.tensor);
    const ImageView<uint8_t> from = c.codes({source, source_channel});
    const ImageView<uint8_t> to = c.codes(target);
    const size_t bytes = static_cast<size_t>(channels);
    for_rows(c, rows.size(), t.elements(), [&](int64_t i, int64_t begin, int64_t end) {
      for (int64_t y = begin; y < end; ++y) {
        for (int64_t x = 0; x < columns.size(); ++x) {
          if (rows[y] < 0 || columns[x] < 0) {
            std::memset(to.pixel(i, y, x), t.zero, bytes);
          } else {
            std::memcpy(to.pixel(i, y, x), from.pixel(i, rows[y], columns[x]), bytes);
          }
        }
      }
    });
  }
};

}  // namespace

std::unique_ptr<Step> make_gather() { return std::make_unique<GatherStep>(); }

}  // namespace ulp
