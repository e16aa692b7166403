// What runs in the emulator besides products: elementwise operations and convolutions on AVX-512 beside those of a lower level, on random
// operands, in the same call. Each function returns 0, or which comparison failed. Linked as guest.cpp is.
#include "guest_case.h"

#include "conv/depthwise.h"
#include "conv/winograd_kernels.h"

namespace ulp::depthwise_scalar {
void run(const Depthwise& args);
}
namespace ulp::depthwise_avx512vnni {
void run(const Depthwise& args);
}
namespace ulp::winograd_avx2 {
const WinogradKernels& kernels();
}
namespace ulp::winograd_avx512vnni {
const WinogradKernels& kernels();
}

namespace {

void set_thresholds(Case& c, Pair& p, int64_t channels) {
  const int64_t count = channels * p.first.max_code;
  const int64_t reach = c.flip() ? 3000 : 50000;  // of 16 bits, or more
  auto* values = c.numbers<int32_t>(count, -reach, reach);
  for (int64_t i = 0; i < channels; ++i) {  // ascending
    for (int64_t k = 1; k < p.first.max_code; ++k) {
      const int64_t at = i * p.first.max_code + k;
      if (values[at] < values[at - 1]) values[at] = values[at - 1] + static_cast<int32_t>(c.number(0, 9));
    }
  }
  p.first.thresholds = p.second.thresholds = values;
  p.first.flip = p.second.flip = c.numbers<int32_t>(channels, -1, 0);
  p.first.offset = p.second.offset = 0;
}

bool check_finish(Case& c) {
  const int64_t pixels = c.number(1, 6), channels = c.number(1, 150);
  Finish f{};
  f.ld = channels + c.number(0, 5);
  f.pixels = pixels;
  f.channels = channels;
  f.acc = c.numbers<int32_t>(pixels * f.ld, -4000, 4000);
  f.one_scale = c.flip();
  f.scale = c.reals(channels, 50000);
  f.bias = c.flip() ? c.reals(channels, 1000) : nullptr;
  if (c.flip()) {
    f.residual_pixel = channels + c.number(0, 3);
    f.residual = c.numbers<uint8_t>(pixels * f.residual_pixel, 0, 255);
    f.residual_scale = 0.37f;
    f.residual_zero = static_cast<int>(c.number(0, 200));
  }
  f.low = c.flip() ? 0 : -kInfinity;
  f.high = c.flip() ? 6.0f : kInfinity;
  f.target_count = static_cast<int>(c.number(1, 3));
  Pair pairs[3];
  Target first[3], second[3];
  for (int i = 0; i < f.target_count; ++i) {
    const bool has_thresholds = !f.residual && c.number(0, 2) == 0;
    pairs[i] = target(c, pixels, channels, has_thresholds || c.number(0, 3) > 0);
    if (has_thresholds) set_thresholds(c, pairs[i], channels);
    pairs[i].first.fits_int32 = pairs[i].second.fits_int32 = c.flip();
    first[i] = pairs[i].first;
    second[i] = pairs[i].second;
  }
  const bool one_step = f.target_count == 1 && first[0].codes && !first[0].thresholds && !f.bias && !f.residual;
  if (one_step) {  // where nothing is added and nothing multiplied behind, the scale is the step
    first[0].inverse = second[0].inverse = 1;
    first[0].fits_int32 = second[0].fits_int32 = true;
  }
  f.targets = first;
  scalar_ops().finish(f);
  if (one_step) {
    f.step = f.scale;
    f.step_zero = first[0].zero;
  }
  f.targets = second;
  ops_avx512::finish(f);
  for (int i = 0; i < f.target_count; ++i) {
    if (!pairs[i].agrees()) return false;
  }
  return true;
}

bool check_combine(Case& c) {
  const int64_t pixels = c.number(1, 5), channels = c.number(1, 150);
  Combination f{};
  f.operand_count = static_cast<int>(c.number(1, 3));
  for (int i = 0; i < f.operand_count; ++i) {
    Operand& o = f.operands[i];
    o.pixel = i && c.number(0, 4) == 0 ? 0 : channels + c.number(0, 3);
    o.scale = 0.013f * static_cast<float>(c.number(1, 50));
    o.zero = static_cast<int>(c.number(0, 200));
    if (c.number(0, 3)) {
      o.codes = c.numbers<uint8_t>(pixels * (channels + 3), 0, 255);
    } else {
      o.floats = c.reals(pixels * (channels + 3), 3000);
    }
  }
  f.multiply = c.flip();
  f.pixels = pixels;
  f.channels = channels;
  f.low = c.flip() ? 0 : -kInfinity;
  f.high = c.flip() ? 6.0f : kInfinity;
  f.target_count = static_cast<int>(c.number(1, 2));
  const float divisors[2] = {0.7f, 0.03f};
  f.divisors = c.flip() ? divisors : nullptr;
  Pair pairs[2];
  Target first[2], second[2];
  for (int i = 0; i < f.target_count; ++i) {
    pairs[i] = target(c, pixels, channels, c.number(0, 3) > 0);
    pairs[i].first.offset = pairs[i].second.offset = 0;
    first[i] = pairs[i].first;
    second[i] = pairs[i].second;
  }
  f.targets = first;
  scalar_ops().combine(f);
  f.targets = second;
  ops_avx512::combine(f);
  for (int i = 0; i < f.target_count; ++i) {
    if (!pairs[i].agrees()) return false;
  }
  return true;
}

bool check_windows(Case& c) {
  const bool many = c.number(0, 5) == 0;  // more pixels than 16-bit sums hold
  Window w{};
  w.channels = c.number(1, many ? 40 : 200);
  w.pixel = w.channels + c.number(0, 2);
  const int side = many ? 23 : 5;
  w.row = side * w.pixel;
  w.a = c.numbers<uint8_t>(side * w.row + 64, many ? 250 : 0, 255);
  w.y0 = static_cast<int>(c.number(0, 1));
  w.y1 = side;
  w.y_step = many ? 1 : static_cast<int>(c.number(1, 3));
  w.x0 = static_cast<int>(c.number(0, 2));
  w.x1 = side;
  w.x_step = many ? 1 : static_cast<int>(c.number(1, 2));
  auto* largest = c.take<uint8_t>(w.channels);
  auto* largest512 = c.take<uint8_t>(w.channels);
  auto* sums = c.take<int32_t>(w.channels);
  auto* sums512 = c.take<int32_t>(w.channels);
  scalar_ops().window_max(w, largest);
  ops_avx512::window_max(w, largest512);
  scalar_ops().window_sum(w, sums);
  ops_avx512::window_sum(w, sums512);
  if (!same(largest, largest512, w.channels) || !same(sums, sums512, w.channels)) return false;
  scalar_ops().channel_sum(w.a, w.pixel, side, w.channels, sums);
  ops_avx512::channel_sum(w.a, w.pixel, side, w.channels, sums512);
  return same(sums, sums512, side < w.channels ? side : w.channels);
}

bool check_quantize(Case& c) {
  const int64_t pixels = c.number(1, 50), channels = c.number(1, 4), plane = pixels + c.number(0, 3);
  float* x = c.reals(channels * plane, 5000);
  if (c.number(0, 4) == 0) x[c.number(0, pixels - 1)] = c.flip() ? kInfinity : __builtin_nanf("");
  Pair p = target(c, pixels, channels, true);
  p.first.pixel = p.second.pixel = c.flip() ? channels : 4;
  p.first.offset = p.second.offset = 0;
  auto* out = p.first.codes = c.take<uint8_t>(pixels * 4);
  auto* out512 = p.second.codes = c.take<uint8_t>(pixels * 4);
  const bool finite = scalar_ops().quantize(x, plane, pixels, channels, &p.first, 1);
  if (finite != ops_avx512::quantize(x, plane, pixels, channels, &p.second, 1)) return false;
  return !finite || same(out, out512, pixels * 4);
}

bool check_lookup(Case& c) {
  const int64_t count = c.number(1, 300);
  const int bits = static_cast<int>(c.number(1, 8)), a_bits = static_cast<int>(c.number(1, bits));
  const auto* table = c.numbers<uint8_t>(256, 0, 255);
  const auto* a = c.numbers<uint8_t>(count, 0, (1 << a_bits) - 1);
  const auto* b = c.numbers<uint8_t>(count, 0, (1 << (bits - a_bits)) - 1);
  const auto* both = c.numbers<uint8_t>(count, 0, (1 << bits) - 1);
  auto* out = c.take<uint8_t>(count);
  auto* out512 = c.take<uint8_t>(count);
  for (int64_t i = 0; i < count; ++i) out[i] = table[both[i]];
  ops_avx512vbmi::lookup(both, count, table, bits, out512);
  if (!same(out, out512, count)) return false;
  for (int64_t i = 0; i < count; ++i) out[i] = table[a[i] | b[i] << a_bits];
  ops_avx512vbmi::lookup_pairs(a, b, count, table, a_bits, bits, out512);
  return same(out, out512, count);
}

bool check_depthwise(Case& c) {
  const int kernel = static_cast<int>(c.number(1, 5)), step = static_cast<int>(c.number(1, 2));
  Depthwise d{};
  d.channels = c.number(1, 150);
  d.pixels = c.number(1, 9);
  d.rows = c.number(1, 3);
  const int64_t width = (d.pixels - 1) * step + kernel, height = (d.rows - 1) * step + kernel;
  d.step = step * d.channels;
  d.row_step = step * width * d.channels;
  d.a = c.numbers<uint8_t>(width * height * d.channels + 64, 0, 255);
  auto* taps = c.take<int64_t>(kernel * kernel);
  for (int t = 0; t < kernel * kernel; ++t) taps[t] = (t / kernel * width + t % kernel) * d.channels;
  d.taps = taps;
  d.tap_count = kernel * kernel;
  d.weight_stride = d.channels + c.number(0, 3);
  d.weights = c.numbers<int8_t>(d.tap_count * d.weight_stride + 64, -128, 127);
  d.max_product = 128 * 255;
  d.start = c.numbers<int32_t>(d.channels, -100000, 100000);
  d.ld = d.channels + c.number(0, 3);
  const int64_t elements = d.rows * d.pixels * d.ld;
  auto* acc = d.acc = c.take<int32_t>(elements);
  depthwise_scalar::run(d);
  auto* acc512 = d.acc = c.take<int32_t>(elements);
  depthwise_avx512vnni::run(d);
  for (int64_t p = 0; p < d.rows * d.pixels; ++p) {
    for (int64_t i = 0; i < d.channels; ++i) {
      if (acc[p * d.ld + i] != acc512[p * d.ld + i]) return false;
    }
  }
  return true;
}

// Transforms and products of 2-bit operands, which AVX2 makes with a spill every 16 steps.
bool check_winograd(Case& c) {
  const WinogradKernels& two = winograd_avx2::kernels();
  const WinogradKernels& one = winograd_avx512vnni::kernels();
  const int64_t tiles = c.number(1, 9), channels = c.number(1, 70), padded = (channels + 31) / 32 * 32;
  const int64_t columns = 8 * c.number(1, 4), steps = padded / 4;
  const int64_t width = 2 * tiles + 2, row = width * channels;
  const auto* a = c.numbers<uint8_t>(4 * row + 64, 0, 3);
  const int64_t v_part = tiles * padded, vectors = steps * columns / 8;
  auto* v2 = c.take<uint8_t>(16 * v_part);
  auto* v5 = c.take<uint8_t>(16 * v_part);
  two.transform_input(a, row, channels, tiles, channels, 6, v2, v_part, padded);
  one.transform_input(a, row, channels, tiles, channels, 6, v5, v_part, padded);
  for (int64_t part = 0; part < 16; ++part) {
    for (int64_t tile = 0; tile < tiles; ++tile) {
      for (int64_t i = 0; i < channels; ++i) {
        const int64_t at = part * v_part + tile * padded + i;
        if (v2[at] != v5[at]) return false;
      }
    }
  }
  const auto* raw = c.numbers<uint8_t>(9 * vectors * 32, 0, 3);
  const int64_t u_part = vectors * 32;
  auto* u2 = c.take<uint8_t>(16 * u_part + 64);
  auto* u5 = c.take<uint8_t>(16 * u_part + 64);
  two.transform_weights(raw, vectors * 32, vectors, false, u2, u_part);
  one.transform_weights(raw, vectors * 32, vectors, false, u5, u_part);
  if (!same(u2, u5, 16 * u_part - 32)) return false;
  const int64_t m_part = tiles * columns;
  auto* m2 = c.take<int32_t>(16 * m_part);
  auto* m5 = c.take<int32_t>(16 * m_part);
  for (int64_t part = 0; part < 16; ++part) {
    const int units = static_cast<int>(columns / 8);
    two.multiply(v2 + part * v_part, padded, tiles, u2 + part * u_part, units, steps, 8, m2 + part * m_part, columns);
    one.multiply(v2 + part * v_part, padded, tiles, u2 + part * u_part, units, steps, 8, m5 + part * m_part, columns);
  }
  if (!same(m2, m5, 16 * m_part - 8)) return false;
  const auto* constants = c.numbers<int32_t>(4 * columns, -9999, 9999);
  auto* out2 = c.take<int32_t>(4 * columns);
  auto* out5 = c.take<int32_t>(4 * columns);
  two.transform_output(m2, m_part, columns, constants, columns, out2, 2 * columns, columns);
  one.transform_output(m2, m_part, columns, constants, columns, out5, 2 * columns, columns);
  return same(out2, out5, 4 * columns - 8);
}

}  // namespace

extern "C" {

int64_t guest_ops_avx512(int64_t seed, uint8_t* memory) {
  Check* const checks[] = {check_finish, check_combine, check_windows, check_quantize};
  return first_failure(seed, memory, checks, 4);
}

int64_t guest_ops_avx512vnni(int64_t seed, uint8_t* memory) {
  Check* const checks[] = {check_depthwise, check_winograd};
  return first_failure(seed, memory, checks, 2);
}

int64_t guest_ops_avx512vbmi(int64_t seed, uint8_t* memory) {
  Check* const checks[] = {check_lookup};
  return first_failure(seed, memory, checks, 1);
}
}
