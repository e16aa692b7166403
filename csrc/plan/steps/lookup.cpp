// A function of one code, as a table of its results: an activation, another quantizer.
//
//     target[y][x][c] = codes[r][source[y][x][c]]      or values[r][...]      r = c, or 0 where the table has one row
//
// source: H x W x C codes of `bits` bits; target: H x W x C from its channel on. `codes`, R x 2^bits, goes with a target of codes and holds
// codes of its quantizer; `values`, finite floats R x 2^bits, goes with a target of floats. R is 1 or C.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "../step.h"

namespace ulp {
namespace {

struct LookupStep final : Step {
  int source = -1;
  Slice target{-1, 0};
  Array<uint8_t, 2> codes;
  Array<float, 2> values;

  std::vector<uint8_t> tables{};  // `codes` with rows of 256
  int64_t rows = 0, levels = 0;

  FieldList fields() override {
    constexpr bool optional = true;
    return {{"source", &source}, {"target", &target}, {"codes", &codes, optional}, {"values", &values, optional}};
  }

  std::string method() const override { return rows == 1 ? "table" : "tables"; }

  Effects check(const Checks& plan) override {
    const Tensor& t = plan.readable_codes(source);
    const Tensor& to = plan.tensor(target.tensor);
    if (source == target.tensor) plan.refuse(": the source cannot be the target");
    plan.writable({target}, t.channels, t.height, t.width);
    levels = t.max_code() + 1;
    if (codes.empty() == values.empty()) plan.refuse(": expected one of codes and values");
    if (codes.empty() == to.is_codes) plan.refuse(": codes go with a target of codes, values with one of floats");
    to.is_codes ? check_table(plan, t, codes) : check_table(plan, t, values);
    const auto in_range = [&to](uint8_t code) { return code <= to.max_code(); };
    if (to.is_codes && !std::all_of(codes.values.begin(), codes.values.end(), in_range))
      plan.refuse(": a code is beyond the target's " + std::to_string(to.max_code()));
    const auto finite = [](float v) { return std::isfinite(v); };
    if (!std::all_of(values.values.begin(), values.values.end(), finite)) plan.refuse(": values must be finite");
    tables.assign(to.is_codes ? static_cast<size_t>(rows) * 256 : 0, 0);
    for (int64_t r = 0; to.is_codes && r < rows; ++r) {
      std::copy_n(codes.values.begin() + r * levels, levels, tables.begin() + r * 256);
    }
    Effects e;
    e.reads = {source};
    e.writes = {target};
    e.channels = t.channels;
    e.a_bits = t.bits;
    return e;
  }

  template <class T>
  void check_table(const Checks& plan, const Tensor& t, const Array<T, 2>& table) {
    rows = table.shape[0];
    if ((rows != 1 && rows != t.channels) || table.shape[1] != levels) {
      plan.refuse(": the table has shape (" + std::to_string(rows) + ", " + std::to_string(table.shape[1]) + "), expected (1 or " +
                  std::to_string(t.channels) + ", " + std::to_string(levels) + ")");
    }
  }

  void run(const Context& c) const override {
    const Tensor& t = c.tensor(source);
    const ImageView<uint8_t> from = c.codes(source);
    const bool to_codes = c.tensor(target.tensor).is_codes;
    for_rows(c, t.height, t.elements(), [&](int64_t i, int64_t begin, int64_t end) {
      for (int64_t y = begin; y < end; ++y) to_codes ? codes_of_row(c, t, from, i, y) : values_of_row(c, t, from, i, y);
    });
  }

  void codes_of_row(const Context& c, const Tensor& t, const ImageView<uint8_t>& from, int64_t i, int64_t y) const {
    const ImageView<uint8_t> to = c.codes(target);
    const uint8_t* table = tables.data();
    if (rows == 1 && from.strides.pixel == t.channels && to.strides.pixel == t.channels) {
      c.ops.lookup(from.row(i, y), int64_t{t.width} * t.channels, table, t.bits, to.row(i, y));
      return;
    }
    for (int64_t x = 0; x < t.width; ++x) {
      const uint8_t* a = from.pixel(i, y, x);
      uint8_t* out = to.pixel(i, y, x);
      if (rows == 1) {
        c.ops.lookup(a, t.channels, table, t.bits, out);
      } else {
        for (int64_t n = 0; n < t.channels; ++n) out[n] = table[n * 256 + a[n]];
      }
    }
  }

  void values_of_row(const Context& c, const Tensor& t, const ImageView<uint8_t>& from, int64_t i, int64_t y) const {
    const ImageView<float> to = c.floats(target);
    const float* table = values.values.data();
    const int64_t row = rows == 1 ? 0 : levels;
    for (int64_t x = 0; x < t.width; ++x) {
      const uint8_t* a = from.pixel(i, y, x);
      float* out = to.pixel(i, y, x);
      for (int64_t n = 0; n < t.channels; ++n) out[n] = table[n * row + a[n]];
    }
  }
};

}  // namespace

std::unique_ptr<Step> make_lookup() { return std::make_unique<LookupStep>(); }

}  // namespace ulp
