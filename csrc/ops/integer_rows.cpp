#include "integer_rows.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "../gemm/scratch.h"

namespace ulp {

namespace {

constexpr int kFraction = 16;
constexpr int32_t kOne = 1 << kFraction;
constexpr int32_t kLargest = 16384 * kOne;
// log2 e, of 2^-30.
constexpr int64_t kLog2E = 1549082005;

int32_t bounded(int64_t v) { return static_cast<int32_t>(std::clamp<int64_t>(v, -kLargest, kLargest)); }

// v / 2^shift, ties upwards.
int64_t rounded_shift(int64_t v, int shift) { return shift == 0 ? v : (v + (int64_t{1} << (shift - 1))) >> shift; }

// A positive factor as an integer below 2^31, divided by a power of 2.
struct Factor {
  int64_t value;
  int shift;

  explicit Factor(float factor) {
    int exponent;
    const double part = std::frexp(static_cast<double>(factor), &exponent);  // 0.5 <= part < 1
    value = std::llrint(std::ldexp(part, 31));
    shift = 31 - exponent;
  }
  // v times the factor, v of 32 bits.
  int64_t times(int64_t v) const {
    const int64_t product = v * value;  // below 2^62
    if (shift > 62) return 0;
    if (shift >= 0) return rounded_shift(product, shift);
    const int64_t limit = int64_t{1} << 40;
    return -shift > 20 ? (product > 0 ? limit : product < 0 ? -limit : 0) : std::clamp(product, -limit, limit) * (int64_t{1} << -shift);
  }
};

constexpr int kExpBits = 8;
constexpr int kTableEntries = 4096;
constexpr int kTableShift = 9;  // 16 / 4096 * 2 = 2^-7, of 2^-16: entries for -16 .. 16

struct Tables {
  int32_t exp[(1 << kExpBits) + 1];  // 2^(-i / 256), of 2^-30
  int32_t functions[5][kTableEntries + 1];

  Tables() {
    for (int i = 0; i <= 1 << kExpBits; ++i) exp[i] = static_cast<int32_t>(std::lrint(std::ldexp(std::exp2(-i / 256.0), 30)));
    for (int i = 0; i <= kTableEntries; ++i) {
      const double x = (i - kTableEntries / 2) / 128.0, sigmoid = 1 / (1 + std::exp(-x));
      const double inner = 0.7978845608028654 * (x + 0.044715 * x * x * x);
      const double values[] = {x * 0.5 * std::erfc(-x * 0.7071067811865476), x * 0.5 * (1 + std::tanh(inner)), x * sigmoid, sigmoid,
                               std::tanh(x)};
      for (int f = 0; f < 5; ++f) functions[f][i] = static_cast<int32_t>(std::lrint(values[f] * kOne));
    }
  }
};

const Tables& tables() {
  static const Tables made;
  return made;
}

// exp(-d) of 2^-30, d >= 0.
int64_t exp_of(const Tables& t, int64_t d) {
  const int64_t power = (d * kLog2E) >> 30;  // of 2^-16
  const int64_t whole = power >> kFraction;
  if (whole > 30) return 0;
  const int64_t part = power & (kOne - 1);
  const int64_t at = part >> (kFraction - kExpBits), rest = part & ((1 << (kFraction - kExpBits)) - 1);
  const int64_t from = t.exp[at], step = t.exp[at + 1] - from;
  return rounded_shift(from + ((step * rest) >> (kFraction - kExpBits)), static_cast<int>(whole));
}

// A table's value at v; beyond +-16 its limit there.
int32_t looked_up(const int32_t* table, RowFunction function, int32_t v) {
  const bool grows = function == RowFunction::gelu || function == RowFunction::gelu_tanh || function == RowFunction::silu;
  if (v >= 16 * kOne) return grows ? v : kOne;
  if (v <= -16 * kOne) return function == RowFunction::tanh ? -kOne : 0;
  const int32_t at = v + 16 * kOne, i = at >> kTableShift, rest = at & ((1 << kTableShift) - 1);
  return table[i] + static_cast<int32_t>(rounded_shift(int64_t{table[i + 1] - table[i]} * rest, kTableShift));
}

int table_of(RowFunction function) {
  switch (function) {
    case RowFunction::gelu:
      return 0;
    case RowFunction::gelu_tanh:
      return 1;
    case RowFunction::silu:
      return 2;
    case RowFunction::sigmoid:
      return 3;
    default:
      return 4;
  }
}

int64_t square_root(uint64_t v) {
  uint64_t root = 0, bit = uint64_t{1} << 62;
  while (bit > v) bit >>= 2;
  for (; bit; bit >>= 2) {
    if (v >= root + bit) {
      v -= root + bit;
      root = (root >> 1) + bit;
    } else {
      root >>= 1;
    }
  }
  return static_cast<int64_t>(root);
}

// Operands of codes as factors, what normalizations multiply by and add, and targets' inverses.
class Row {
 public:
  // values: `channels` of them.
  Row(const RowWork& w, int32_t* values) : w_(w), values_(values) {
    for (int i = 0; i < w.operand_count; ++i) {
      scales_[i] = std::llrint(std::ldexp(std::min(static_cast<double>(w.operands[i].scale), 16384.0), 24));
    }
  }

  // False if an operand is a NaN.
  bool load(int64_t row, int64_t group) const {
    bool numbers = true;
    for (int64_t c = 0; c < w_.channels; ++c) {
      int64_t sum = 0;
      for (int i = 0; i < w_.operand_count; ++i) {
        const Operand& o = w_.operands[i];
        const int64_t at = row * o.pixel + group * w_.group_step[i] + c;
        if (o.codes) {
          sum += bounded(rounded_shift((o.codes[at] - o.zero) * scales_[i], 24 - kFraction));
          continue;
        }
        const float v = o.floats[at];
        numbers &= !std::isnan(v);
        const float limit = 16384.0f;
        sum += std::isnan(v) ? 0 : std::lrint(std::min(std::max(v, -limit), limit) * static_cast<float>(kOne));
      }
      values_[c] = bounded(sum);
    }
    return numbers;
  }

  void store(int64_t row, int64_t group) const {
    for (int i = 0; i < w_.target_count; ++i) {
      const Target& t = w_.targets[i];
      const int64_t at = row * t.pixel + group * w_.channels;
      if (!t.codes) {
        for (int64_t c = 0; c < w_.channels; ++c) t.floats[at + c] = static_cast<float>(values_[c]) / kOne;
        continue;
      }
      const Factor inverse((w_.divisors ? 1.0f / w_.divisors[i] : t.inverse) / kOne);
      for (int64_t c = 0; c < w_.channels; ++c) {
        const int64_t code = inverse.times(values_[c]) + t.zero;
        t.codes[at + c] = static_cast<uint8_t>(std::clamp<int64_t>(code, 0, t.max_code));
      }
    }
  }

  void softmax() const {
    const Tables& t = tables();
    const int64_t channels = w_.channels;
    int32_t* v = values_;
    const int32_t top = *std::max_element(v, v + channels);
    int64_t sum = 0;  // channels are at most 2^24: below 2^54
    for (int64_t c = 0; c < channels; ++c) sum += v[c] = static_cast<int32_t>(exp_of(t, int64_t{top} - v[c]));
    // 2^46 / sum in as many bits as fit beside 30: the sum is at least 2^30.
    int extra = 0;
    while (extra < 16 && (sum >> (30 + extra)) > 1) ++extra;
    const int64_t quotient = ((int64_t{1} << (46 + extra)) + sum / 2) / sum;  // at most 2^17
    for (int64_t c = 0; c < channels; ++c) v[c] = static_cast<int32_t>(rounded_shift(v[c] * quotient, 30 + extra));
  }

  void normalize(bool centered) const {
    const int64_t channels = w_.channels;
    int32_t* v = values_;
    int64_t sum = 0;
    for (int64_t c = 0; c < channels; ++c) sum += v[c];
    const int64_t mean = centered ? (2 * sum + (sum < 0 ? -channels : channels)) / (2 * channels) : 0;
    int64_t largest = 1;
    for (int64_t c = 0; c < channels; ++c) largest = std::max<int64_t>(largest, std::abs(v[c] - mean));
    // Differences of at most 18 bits: squares of 2^24 channels add up below 2^60.
    int shift = 0;
    while (largest >> (18 + shift) > 0) ++shift;
    const auto part = [&](int64_t c) { return rounded_shift(v[c] - mean, shift); };
    uint64_t squares = 0;
    for (int64_t c = 0; c < channels; ++c) squares += static_cast<uint64_t>(part(c) * part(c));
    // Of 2^(-32 + 2 shift), as epsilon then is; with 16 more bits for the root.
    const double epsilon = std::min(std::ldexp(static_cast<double>(w_.epsilon), 32 - 2 * shift), 68719476736.0);
    const uint64_t variance = squares / static_cast<uint64_t>(channels);
    const uint64_t rest = squares % static_cast<uint64_t>(channels);
    const uint64_t fine = (variance << 16) + (rest << 16) / static_cast<uint64_t>(channels) + static_cast<uint64_t>(epsilon * 65536.0);
    const int64_t root = std::max<int64_t>(square_root(fine), 1);  // of 2^-8 times the differences' unit
    const int64_t quotient = (int64_t{1} << 48) / root;            // 2^40 / deviation; part(c) is at most 2^12 deviations
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t y = rounded_shift(part(c) * quotient, 24);  // of 2^-16
      const int64_t gamma = w_.gamma ? fixed(w_.gamma[c]) : kOne, beta = w_.beta ? fixed(w_.beta[c]) : 0;
      v[c] = bounded(rounded_shift(std::clamp<int64_t>(y, -kLargest, kLargest) * gamma, kFraction) + beta);
    }
  }

  void look_up() const {
    const int32_t* table = tables().functions[table_of(w_.function)];
    for (int64_t c = 0; c < w_.channels; ++c) values_[c] = looked_up(table, w_.function, values_[c]);
  }

 private:
  static int32_t fixed(float v) { return bounded(std::llrint(std::min(std::max(v, -16384.0f), 16384.0f) * static_cast<float>(kOne))); }

  const RowWork& w_;
  int32_t* values_;
  int64_t scales_[kMaxOperands] = {};
};

}  // namespace

bool in_integers(RowFunction function) { return function != RowFunction::identity; }

bool integer_rows(const RowWork& w) {
  thread_local Scratch memory;
  int32_t* row_of_values;
  memory.lay_out(scratch_array(row_of_values, w.channels));
  const Row values(w, row_of_values);
  bool numbers = true;
  for (int64_t row = 0; row < w.rows; ++row) {
    for (int64_t g = 0; g < w.groups; ++g) {
      numbers &= values.load(row, g);
      if (w.function == RowFunction::softmax) {
        values.softmax();
      } else if (w.function == RowFunction::layer_norm || w.function == RowFunction::rms_norm) {
        values.normalize(w.function == RowFunction::layer_norm);
      } else {
        values.look_up();
      }
      values.store(row, g);
    }
  }
  return numbers;
}

}  // namespace ulp
