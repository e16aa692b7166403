// An LSTM or a GRU, one direction of one layer, over the pixels of a row: sums of integers, gates in float32 (ops/rows.h: GateWork).
//
//     x[t] = sums over the codes of pixel t times input_weights, for all t at once, h[t - 1] likewise times `weights`; then the gates
//
// source: 1 x T x C, codes, or floats that become codes of input_bits in the call: by one scale for the sequence, or with per_row one for
// each pixel. h becomes codes of hidden_bits: by a scale of each step, or, where hidden_scale is not 0, by that and hidden_zero.
//
//     scale = (high - low) / (2^bits - 1), zero = rint(-low / scale)        low, high: least and largest of the values and 0
//
// kind: "lstm", gates i, f, g, o, or "gru", gates r, z, n; H columns each. input_weights: K = C padded to a multiple of 4, N = gates * H;
// weights: K = H padded likewise, N likewise; with `candidate`, the third gate of a GRU that resets h before the product, the other two.
// input_scale, scale, bias: gates * H; hidden_bias: H, of the GRU's n. reverse: from the last pixel to the first.
//
// hidden, cell: where the first h and c lie in a tensor of floats, in elements from its first; left out: zeros. lengths: a float, pixels
// that count, 0..T; behind them results are 0. targets: 0 to 4, 1 x T x H; final_hidden, final_cell: 1 x 1 x H floats, behind the last
// pixel.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "../../gemm/scratch.h"
#include "../code_product.h"
#include "../finish_spec.h"
#include "../quantizer.h"
#include "../row_work.h"

namespace ulp {
namespace {

// Pixels whose products with input_weights are made at a time.
constexpr int64_t kChunk = 128;
constexpr float kInt32 = 2147483648.0f;

struct RecurrentStep final : Step {
  int source = -1;
  std::string kind;
  Weights input_weights, weights, candidate;
  std::array<int, 2> weight_zeros{};
  Floats input_scale, scale, bias, hidden_bias;
  int input_bits = 0, hidden_bits = 8;
  float hidden_scale = 0;
  int hidden_zero = 0;
  bool per_row = false, reverse = false;
  std::optional<Slice> hidden, cell, lengths;
  std::vector<Slice> targets;
  bool divide = false;
  std::optional<Slice> final_hidden, final_cell;

  bool is_lstm = false, codes_in = false;
  int64_t units = 0, columns = 0, time = 0;
  CodeProduct of_input, of_hidden, of_candidate;
  float largest_input = 0, largest_hidden = 0, largest_bias = 0;

  FieldList fields() override {
    constexpr bool optional = true;
    return {{"source", &source},
            {"kind", &kind},
            {"input_weights", &input_weights},
            {"weights", &weights},
            {"weight_zeros", &weight_zeros},
            {"input_scale", &input_scale},
            {"scale", &scale},
            {"bias", &bias},
            {"input_bits", &input_bits},
            {"hidden_bits", &hidden_bits},
            {"per_row", &per_row},
            {"reverse", &reverse},
            {"targets", &targets},
            {"divide", &divide},
            {"candidate", &candidate, optional},
            {"hidden_bias", &hidden_bias, optional},
            {"hidden_scale", &hidden_scale, optional},
            {"hidden_zero", &hidden_zero, optional},
            {"hidden", &hidden, optional},
            {"cell", &cell, optional},
            {"lengths", &lengths, optional},
            {"final_hidden", &final_hidden, optional},
            {"final_cell", &final_cell, optional}};
  }

  std::string method() const override { return of_hidden.rows->kernel().name; }

  Effects check(const Checks& plan) override {
    const Tensor& t = plan.readable({source, 0}, plan.tensor(source).channels);
    if (t.height != 1) plan.refuse(": the source must be one row, got " + shape_text(t.height, t.width, t.channels));
    if (kind != "lstm" && kind != "gru") plan.refuse(": kind is 'lstm' or 'gru', got '" + kind + "'");
    is_lstm = kind == "lstm";
    codes_in = t.is_codes;
    time = t.width;
    check_numbers(plan);
    check_weights(plan, t);
    Effects e;
    e.reads = {source};
    check_states(plan, e);
    check_targets(plan, e);
    e.channels = units;
    if (codes_in) {
      plan.layout(source, PixelLayout::padded);
      e.layout = PixelLayout::padded;
    }
    const int64_t k = input_weights->layout.k + weights->layout.k;
    e.macs = time * columns * k;
    e.a_bits = hidden_bits;
    e.w_bits = std::max(input_weights->layout.bits, weights->layout.bits);
    for (const Weights& w : {input_weights, weights, candidate}) e.weight_bytes += w ? static_cast<int64_t>(w->data.size()) : 0;
    prepare_products(1);
    return e;
  }

  void check_numbers(const Checks& plan) const {
    check_range("hidden_bits", hidden_bits, kMinBits, kMaxBits);
    check_range("input_bits", input_bits, codes_in ? 0 : kMinBits, codes_in ? 0 : kMaxBits);
    if (codes_in && per_row) plan.refuse(": per_row goes with a source of floats");
    if (hidden_scale != 0 && !(positive_normal(hidden_scale) && std::isnormal(1.0f / hidden_scale)))
      plan.refuse(": hidden_scale must be 0, or a positive normal float32 with a normal inverse");
    if (hidden_scale == 0 && hidden_zero != 0) plan.refuse(": hidden_zero goes with hidden_scale");
    check_range("hidden_zero", hidden_zero, 0, (1 << hidden_bits) - 1);
  }

  void check_weights(const Checks& plan, const Tensor& t) {
    const int64_t gates = is_lstm ? 4 : 3;
    columns = input_weights->layout.n;
    if (columns < 1 || columns % gates != 0)
      plan.refuse(": input_weights have " + std::to_string(columns) + " columns, which are not " + std::to_string(gates) + " gates");
    units = columns / gates;
    if (is_lstm && (candidate || !hidden_bias.empty())) plan.refuse(": candidate and hidden_bias go with 'gru'");
    if (!is_lstm && (cell || final_cell)) plan.refuse(": cell and final_cell go with 'lstm'");
    if (candidate && !hidden_bias.empty()) plan.refuse(": hidden_bias goes without candidate");
    of_input.take(plan, *input_weights, t.channels, columns, weight_zeros[0], codes_in ? t.bits : input_bits);
    of_hidden.take(plan, *weights, units, candidate ? 2 * units : columns, weight_zeros[1], hidden_bits);
    if (candidate) of_candidate.take(plan, *candidate, units, units, weight_zeros[1], hidden_bits);
    check_floats(plan, "input_scale", input_scale, columns);
    check_floats(plan, "scale", scale, columns);
    check_floats(plan, "bias", bias, columns);
    if (!hidden_bias.empty()) check_floats(plan, "hidden_bias", hidden_bias, units);
    const auto largest = [](const Floats& f) { return largest_magnitude(f.values.data(), f.size()); };
    largest_input = largest(input_scale);
    largest_hidden = largest(scale);
    largest_bias = largest(bias) + (hidden_bias.empty() ? 0.0f : largest(hidden_bias));
    if (!std::isfinite(largest_bias)) plan.refuse(": biases leave float32");
    if (codes_in && !fits(t.scale * largest_input)) plan.refuse(": 2^31 * input_scale must be finite");
    if (hidden_scale != 0 && !fits(hidden_scale * largest_hidden)) plan.refuse(": 2^31 * scale must be finite");
  }

  static void check_floats(const Checks& plan, const char* name, const Floats& values, int64_t size) {
    if (values.size() != size)
      plan.refuse(std::string(": ") + name + " has " + std::to_string(values.size()) + " values, expected " + std::to_string(size));
    const auto finite = [](float v) { return std::isfinite(v); };
    if (!std::all_of(values.values.begin(), values.values.end(), finite)) plan.refuse(std::string(": ") + name + " must be finite");
  }

  // Whether values of sums, with their biases, stay in float32.
  bool fits(float largest_scale) const { return std::isfinite(largest_scale * kInt32 + largest_bias); }

  void check_states(const Checks& plan, Effects& e) const {
    const auto check_floats_at = [&](const char* name, const std::optional<Slice>& s, int64_t count) {
      if (!s) return;
      const Tensor& t = plan.readable({s->tensor, 0}, plan.tensor(s->tensor).channels);
      if (t.is_codes) plan.refuse(std::string(": ") + name + " must be floats");
      if (s->channel < 0 || s->channel > t.elements() - count)
        plan.refuse(std::string(": ") + name + " has " + std::to_string(count) + " values from " + std::to_string(s->channel) +
                    " on, which are not within tensor " + std::to_string(s->tensor));
      e.reads.push_back(s->tensor);
    };
    check_floats_at("hidden", hidden, units);
    check_floats_at("cell", cell, units);
    check_floats_at("lengths", lengths, 1);
  }

  void check_targets(const Checks& plan, Effects& e) const {
    if (targets.size() > kMaxTargets)
      plan.refuse(": expected 0.." + std::to_string(kMaxTargets) + " targets, got " + std::to_string(targets.size()));
    std::vector<Slice> finals;
    for (const auto& s : {final_hidden, final_cell}) {
      if (!s) continue;
      if (plan.tensor(s->tensor).is_codes) plan.refuse(": final_hidden and final_cell must be floats");
      finals.push_back(*s);
    }
    e.writes = targets;
    e.writes.insert(e.writes.end(), finals.begin(), finals.end());
    if (e.writes.empty()) plan.refuse(": there is no target");
    for (const Slice& s : e.writes) {
      if (std::find(e.reads.begin(), e.reads.end(), s.tensor) != e.reads.end()) plan.refuse(": a tensor that is read cannot be a target");
    }
    if (time == 1) return plan.writable(e.writes, units, 1, 1);
    plan.writable(targets, units, 1, time);
    plan.writable(finals, units, 1, 1);
  }

  void prepare_products(int64_t images) {
    of_input.prepare(std::min(time, kChunk));
    of_hidden.prepare(images);
    if (candidate) of_candidate.prepare(images);
  }

  int64_t bind(const std::vector<Tensor>&, int64_t group) override {
    prepare_products(group);
    return 0;
  }

  // What a run works with; of each image a part.
  struct Memory {
    uint8_t* input_codes;  // of a chunk of one image
    uint8_t* hidden_codes;
    int32_t* input_sums;
    int32_t* hidden_sums;
    Quantizer* input_quantizers;
    Quantizer* hidden_quantizers;
    Quantizer* sequences;  // where one is for a sequence
    float* state;
    float* cell;
    float* update;
    float* reset;
    int64_t* lengths;
  };

  void run(const Context& c) const override {
    thread_local Scratch scratch;
    Memory m{};
    const int64_t chunk = std::min(time, kChunk), images = c.images;
    const int64_t of_units = images * round_up(units, 16);
    scratch.lay_out(scratch_array(m.input_codes, codes_in ? 0 : chunk * input_weights->layout.k + 64),
                    scratch_array(m.hidden_codes, images * weights->layout.k + 64),
                    scratch_array(m.input_sums, images * chunk * of_input.rows->stride()),
                    scratch_array(m.hidden_sums, images * of_hidden.rows->stride()), scratch_array(m.input_quantizers, images * chunk),
                    scratch_array(m.hidden_quantizers, images), scratch_array(m.sequences, images), scratch_array(m.state, of_units),
                    scratch_array(m.cell, of_units), scratch_array(m.update, of_units), scratch_array(m.reset, of_units),
                    scratch_array(m.lengths, images));
    int64_t longest = 0;
    for (int64_t i = 0; i < images; ++i) {
      start(c, i, m);
      longest = std::max(longest, m.lengths[i]);
    }
    for (int64_t first = 0; first < longest; first += chunk) {
      const int64_t end = std::min(first + chunk, longest);
      for (int64_t i = 0; i < images; ++i) multiply_input(c, i, first, end, m);
      for (int64_t step = first; step < end; ++step) take_step(c, step, step - first, m);
    }
    for (int64_t i = 0; i < images; ++i) {
      if (final_hidden) put_floats(c, *final_hidden, i, m.state + i * units);
      if (final_cell) put_floats(c, *final_cell, i, m.cell + i * units);
    }
  }

  void put_floats(const Context& c, const Slice& s, int64_t i, const float* values) const {
    std::memcpy(c.floats(s).row(i, 0), values, static_cast<size_t>(units) * sizeof(float));
  }

  // The first states of a sequence, its length, and zeros behind it.
  void start(const Context& c, int64_t i, const Memory& m) const {
    const auto take = [&](const std::optional<Slice>& s, float* to) {
      if (!s) return std::fill_n(to, units, 0.0f), void();
      const float* from = c.floats({s->tensor, 0}).row(i, 0) + s->channel;
      for (int64_t j = 0; j < units; ++j) {
        if (!std::isfinite(from[j])) throw NotFinite("the first state of a recurrent layer holds a NaN or an infinity");
      }
      std::memcpy(to, from, static_cast<size_t>(units) * sizeof(float));
    };
    take(hidden, m.state + i * units);
    take(cell, m.cell + i * units);
    m.lengths[i] = time;
    if (lengths) {
      const float length = c.floats({lengths->tensor, 0}).row(i, 0)[lengths->channel];
      if (!(length >= 0 && length <= static_cast<float>(time) && length == std::floor(length)))
        throw CodeOutOfRange("the length of a sequence is not an integer of 0.." + std::to_string(time));
      m.lengths[i] = static_cast<int64_t>(length);
    }
    for (int64_t t = m.lengths[i]; t < time; ++t) put(c, i, t, nullptr);
    if (!codes_in && !per_row && m.lengths[i] > 0)
      m.sequences[i] = Quantizer::of(c.row_ops, pixel(c, i, 0), m.lengths[i] * channels(c), input_bits);
  }

  int64_t channels(const Context& c) const { return c.tensor(source).channels; }
  const float* pixel(const Context& c, int64_t i, int64_t t) const { return c.floats({source, 0}).pixel(i, 0, t); }

  // Products of the pixels of steps first..end with input_weights, in the order of pixels.
  void multiply_input(const Context& c, int64_t i, int64_t first, int64_t end, const Memory& m) const {
    end = std::min(end, m.lengths[i]);
    if (first >= end) return;
    const int64_t from = reverse ? m.lengths[i] - end : first, count = end - first;
    const int64_t chunk = std::min(time, kChunk), k = input_weights->layout.k;
    int32_t* sums = m.input_sums + i * chunk * of_input.rows->stride();
    Quantizer* quantizers = m.input_quantizers + i * chunk;
    if (codes_in) {
      const Tensor& t = c.tensor(source);
      std::fill_n(quantizers, count, Quantizer{t.scale, t.zero});
      return of_input.rows->run(c.codes(source).pixel(i, 0, from), t.strides.pixel, count, sums);
    }
    for (int64_t r = 0; r < count; ++r) {
      const float* x = pixel(c, i, from + r);
      quantizers[r] = per_row ? Quantizer::of(c.row_ops, x, channels(c), input_bits) : m.sequences[i];
      encode(c, quantizers[r], largest_input, quantizers[r].scale, x, channels(c), k, input_bits, m.input_codes + r * k);
    }
    of_input.rows->run(m.input_codes, k, count, sums);
  }

  void encode_hidden(const Context& c, const float* h, int64_t i, const Memory& m) const {
    Quantizer& quantizer = m.hidden_quantizers[i];
    quantizer = hidden_scale != 0 ? Quantizer{hidden_scale, hidden_zero} : Quantizer::of(c.row_ops, h, units, hidden_bits);
    const int64_t k = of_hidden.k();
    encode(c, quantizer, largest_hidden, hidden_scale != 0 ? 0.0f : quantizer.scale, h, units, k, hidden_bits, m.hidden_codes + i * k);
  }

  void encode(const Context& c, const Quantizer& quantizer, float largest, float divisor, const float* x, int64_t count, int64_t k,
              int bits, uint8_t* to) const {
    if (!std::isfinite(quantizer.scale)) {
      const bool finite = std::all_of(x, x + count, [](float v) { return std::isfinite(v); });
      throw NotFinite(finite ? kTooLarge : kNotFinite);
    }
    if (!fits(quantizer.scale * largest)) throw NotFinite(kTooLarge);
    if (!quantizer.encode(c.row_ops, x, count, k, divisor, bits, to)) throw NotFinite(kNotFinite);
  }

  // All images at one step; those that have ended keep their states.
  void take_step(const Context& c, int64_t step, int64_t in_chunk, const Memory& m) const {
    const int64_t k = weights->layout.k;
    for (int64_t i = 0; i < c.images; ++i) encode_hidden(c, m.state + i * units, i, m);
    of_hidden.rows->run(m.hidden_codes, k, c.images, m.hidden_sums);
    for (int64_t i = 0; i < c.images; ++i) {
      if (step >= m.lengths[i]) continue;
      GateWork w = work(i, step, in_chunk, m);
      w.hidden.sums = m.hidden_sums + i * of_hidden.rows->stride();
      is_lstm ? c.row_ops.lstm(w) : candidate ? c.row_ops.gru_reset(w) : c.row_ops.gru(w);
    }
    if (candidate) {
      for (int64_t i = 0; i < c.images; ++i) encode_hidden(c, (step < m.lengths[i] ? m.reset : m.state) + i * units, i, m);
      of_candidate.rows->run(m.hidden_codes, k, c.images, m.hidden_sums);
      for (int64_t i = 0; i < c.images; ++i) {
        if (step >= m.lengths[i]) continue;
        GateWork w = work(i, step, in_chunk, m);
        w.hidden.sums = m.hidden_sums + i * of_candidate.rows->stride();
        w.hidden.columns = of_candidate.columns.data();
        w.hidden.scale = scale.values.data() + 2 * units;
        c.row_ops.gru_update(w);
      }
    }
    for (int64_t i = 0; i < c.images; ++i) {
      if (step < m.lengths[i]) put(c, i, reverse ? m.lengths[i] - 1 - step : step, m.state + i * units);
    }
  }

  GateWork work(int64_t i, int64_t step, int64_t in_chunk, const Memory& m) const {
    const int64_t chunk = std::min(time, kChunk), first = step - in_chunk;
    const int64_t row = i * chunk + (reverse ? std::min(first + chunk, m.lengths[i]) - 1 - step : in_chunk);
    const Quantizer& of_x = m.input_quantizers[row];
    const Quantizer& of_h = m.hidden_quantizers[i];
    GateWork w{};
    w.input = {m.input_sums + row * of_input.rows->stride(), of_input.columns.data(), input_scale.values.data(), of_x.zero, of_x.scale};
    w.hidden = {nullptr, of_hidden.columns.data(), scale.values.data(), of_h.zero, of_h.scale};
    w.bias = bias.values.data();
    w.hidden_bias = hidden_bias.empty() ? nullptr : hidden_bias.values.data();
    w.units = units;
    w.state = m.state + i * units;
    w.cell = m.cell + i * units;
    w.update = m.update + i * units;
    w.reset = m.reset + i * units;
    return w;
  }

  // Results of one pixel; nullptr: zeros.
  void put(const Context& c, int64_t i, int64_t t, const float* h) const {
    for (const Slice& s : targets) {
      const Target to = target_at(c, s, i, 0, t);
      if (to.floats) {
        h ? std::memcpy(to.floats, h, static_cast<size_t>(units) * sizeof(float))
          : std::memset(to.floats, 0, static_cast<size_t>(units) * sizeof(float));
      } else if (!h) {
        std::memset(to.codes, to.zero, static_cast<size_t>(units));
      } else {
        c.row_ops.quantize(h, units, to, divide ? c.tensor(s.tensor).scale : 0.0f, 0.0f);
      }
    }
  }

  static constexpr char kNotFinite[] = "a value that a recurrent layer quantizes is a NaN or an infinity";
  static constexpr char kTooLarge[] = "the scale of what a recurrent layer quantizes leaves float32";
};

}  // namespace

std::unique_ptr<Step> make_recurrent() { return std::make_unique<RecurrentStep>(); }

}  // namespace ulp
