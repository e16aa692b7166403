// The epilogue of a step as it is described: what becomes of its sums (ops.h: Finish), and into which tensors the results go.
#pragma once

#include <limits>

#include "../ops/output.h"
#include "fields.h"

namespace ulp {

class Checks;
struct Context;

// Of one target: code = number of values[c] that are <= (flip[c] ? ~acc : acc).
struct Thresholds {
  Windows values;  // channels x max_code, ascending
  Flags flip;
  std::vector<int32_t> flip_masks{};  // set by FinishSpec::check: -1 where `flip` is set, else 0
};

// Of one target: the epilogue makes codes u of another quantizer than the tensor's, of which the tensor holds table[u]; or, with a second
// operand, table[u | w << bits], w being its codes, which are not of more than 8 bits together with u.
struct AfterSpec {
  int bits = 0, zero = 0;
  float scale = 0;
  std::optional<Slice> other;
  Bytes table;  // an entry per u, and w

  int index_bits = 0;          // set by FinishSpec::check: of u and w
  std::vector<uint8_t> all{};  // likewise: the table, and zeros up to 256

  FieldList fields() { return {{"bits", &bits}, {"zero", &zero}, {"scale", &scale}, {"other", &other}, {"table", &table}}; }
};

struct FinishSpec {
  Floats scale, bias;  // per channel; empty in steps that have a scale of their own
  Ints start;          // per channel, added to the sums; empty: nothing
  // What the values of the epilogue count in: scales of what is read are divided by it, the inverses of the targets' scales multiplied.
  float unit = 1.0f;
  float low = -std::numeric_limits<float>::infinity();
  float high = std::numeric_limits<float>::infinity();
  std::optional<Slice> residual;
  std::vector<Slice> targets;
  std::vector<std::optional<Thresholds>> thresholds;  // per target; none: the tensor's quantizer decides
  std::vector<std::optional<AfterSpec>> after;        // per target; empty: nothing comes after any

  std::vector<bool> fits_int32{};  // per target, set by check: Target::fits_int32
  // Likewise, per channel: Finish::step and step_offset, or empty.
  std::vector<float> step{}, step_offset{};

  FieldList fields() {
    constexpr bool optional = true;
    return {{"scale", &scale, optional},
            {"bias", &bias, optional},
            {"start", &start, optional},
            {"unit", &unit, optional},
            {"residual", &residual},
            {"low", &low},
            {"high", &high},
            {"targets", &targets},
            {"thresholds", &thresholds},
            {"after", &after, optional}};
  }

  // The image of `channels` channels that the step gives, and the tensor that it reads. has_scale: whether scale and bias are wanted.
  struct Shape {
    int64_t height, width, channels;
    int source;
    bool has_scale = true;
    int64_t largest_sum = int64_t{1} << 31;                    // |sum| is at most this, `start` included
    float own_scale = std::numeric_limits<float>::infinity();  // of a step without has_scale: at most this in magnitude
  };
  // Throws std::invalid_argument.
  void check(const Checks& plan, const Shape& shape);
  // The tensors that the step reads: its source, the residual, and what tables combine the results with.
  std::vector<int> reads(int source) const;

  // The epilogue of a group of images that runs.
  Output output(const Context& c) const;

 private:
  void find_fits(const Checks& plan, const Shape& shape);
  void find_step(const Checks& plan, const Shape& shape);
  Target quantizer(const Tensor& tensor, size_t target) const;
  void check_after(const Checks& plan, const Shape& shape, const Tensor& target, AfterSpec& a) const;
};

}  // namespace ulp
