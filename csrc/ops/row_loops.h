// RowOps by the Vector16 that the including file defines: one template for all ISAs, so that all give the same bits.
#pragma once

#include <cstring>

#include "call_loops.h"
#include "gate_loops.h"
#include "row_functions.h"
#include "rows.h"

namespace ulp {
namespace {

// The sum of the operands at n channels of a row and group; zeros behind the last channel, which add nothing to sums.
ULP_INLINE Vector16 operands_at(const RowWork& w, int64_t row, int64_t group, int64_t c, int64_t n) {
  Vector16 v = Vector16::all(0.0f);
  for (int i = 0; i < w.operand_count; ++i) {
    const Operand& o = w.operands[i];
    const int64_t at = row * o.pixel + group * w.group_step[i] + c;
    Vector16 x;
    if (o.codes) {
      x = n >= kLanes ? Vector16::load_codes(o.codes + at, o.zero) : Vector16::load_first_codes(o.codes + at, n, o.zero).first(n);
    } else {
      x = load_some(o.floats + at, n);
    }
    x = x * Vector16::all(o.scale);
    v = i == 0 ? x : v + x;
  }
  return v;
}

// f(vector) of every element.
template <class F>
ULP_INLINE bool each_element(const RowWork& w, F f) {
  Vector16 nans = Vector16::all(0.0f);
  for (int64_t row = 0; row < w.rows; ++row) {
    for (int64_t g = 0; g < w.groups; ++g) {
      for (int64_t c = 0; c < w.channels; c += kLanes) {
        const int64_t n = w.channels - c;
        put(w, row, g * w.channels + c, n, f(operands_at(w, row, g, c, n)), nans);
      }
    }
  }
  return nans.sum() == 0;
}

template <bool centered>
bool normalized_rows(const RowWork& w) {
  Vector16 nans = Vector16::all(0.0f);
  const int64_t channels = w.channels;
  const float count = static_cast<float>(channels);
  float* x = w.buffer;
  for (int64_t row = 0; row < w.rows; ++row) {
    for (int64_t g = 0; g < w.groups; ++g) {
      Vector16 sum = Vector16::all(0.0f);
      for (int64_t c = 0; c < channels; c += kLanes) {
        const Vector16 v = operands_at(w, row, g, c, channels - c);
        v.store(x + c);
        sum = sum + v;
      }
      const Vector16 mean = Vector16::all(centered ? sum.sum() / count : 0.0f);
      Vector16 squares = Vector16::all(0.0f);
      for (int64_t c = 0; c < channels; c += kLanes) {
        Vector16 d = Vector16::load(x + c);
        if (centered) {
          d = d - mean;
          if (channels - c < kLanes) d = d.first(channels - c);
          d.store(x + c);
        }
        squares = d.fma(d, squares);
      }
      const float deviation = ::sqrtf(squares.sum() / count + w.epsilon);
      const Vector16 factor = Vector16::all(1.0f / deviation);
      for (int64_t c = 0; c < channels; c += kLanes) {
        const int64_t n = channels - c;
        Vector16 y = Vector16::load(x + c) * factor;
        if (w.gamma && w.beta) {
          y = y.fma(load_some(w.gamma + c, n), load_some(w.beta + c, n));
        } else if (w.gamma) {
          y = y * load_some(w.gamma + c, n);
        } else if (w.beta) {
          y = y + load_some(w.beta + c, n);
        }
        put(w, row, g * channels + c, n, y, nans);
      }
    }
  }
  return nans.sum() == 0;
}

bool softmax_rows(const RowWork& w) {
  Vector16 nans = Vector16::all(0.0f);
  const int64_t channels = w.channels;
  const float least = -3.4028235e38f;
  float* x = w.buffer;
  for (int64_t row = 0; row < w.rows; ++row) {
    for (int64_t g = 0; g < w.groups; ++g) {
      Vector16 top = Vector16::all(least);
      for (int64_t c = 0; c < channels; c += kLanes) {
        const int64_t n = channels - c;
        const Vector16 v = operands_at(w, row, g, c, n);
        v.store(x + c);
        if (n >= kLanes) {
          top = v.max(top);
        } else {
          for (int64_t i = 0; i < n; ++i) top = Vector16::all(x[c + i]).max(top);
        }
      }
      const Vector16 largest = Vector16::all(top.largest());
      Vector16 sum = Vector16::all(0.0f);
      for (int64_t c = 0; c < channels; c += kLanes) {
        Vector16 e = exp16(Vector16::load(x + c) - largest);
        if (channels - c < kLanes) e = e.first(channels - c);
        e.store(x + c);
        sum = sum + e;
      }
      const Vector16 factor = Vector16::all(1.0f / sum.sum());
      for (int64_t c = 0; c < channels; c += kLanes) put(w, row, g * channels + c, channels - c, Vector16::load(x + c) * factor, nans);
    }
  }
  return nans.sum() == 0;
}

bool rows(const RowWork& work) {
  const RowWork w = work;  // a copy that no store can alias
  switch (w.function) {
    case RowFunction::layer_norm:
      return normalized_rows<true>(w);
    case RowFunction::rms_norm:
      return normalized_rows<false>(w);
    case RowFunction::softmax:
      return softmax_rows(w);
    default:
      return with_function(w.function, [&](auto f) { return each_element(w, f); });
  }
}

template <int tile_rows>
ULP_INLINE void product_tile(const FloatProduct& p, int64_t m) {
  Vector16 sums[tile_rows];
  ULP_UNROLL for (int r = 0; r < tile_rows; ++r) sums[r] = Vector16::all(0.0f);
  const float* a = p.a + m * p.a_row;
  const float* b = p.b;
  const int64_t row = p.a_row, step = p.a_step, depth = p.depth;
  for (int64_t k = 0; k < depth; ++k, a += step, b += kProductColumns) {
    const Vector16 w = Vector16::load(b);
    ULP_UNROLL for (int r = 0; r < tile_rows; ++r) sums[r] = Vector16::all(a[r * row]).fma(w, sums[r]);
  }
  ULP_UNROLL for (int r = 0; r < tile_rows; ++r) sums[r].store(p.out + (m + r) * p.out_row);
}

void product(const FloatProduct& problem) {
  const FloatProduct p = problem;
  int64_t m = 0;
  for (; m + Vector16::tile_rows <= p.rows; m += Vector16::tile_rows) product_tile<Vector16::tile_rows>(p, m);
  for (; m + 2 <= p.rows; m += 2) product_tile<2>(p, m);
  if (m < p.rows) product_tile<1>(p, m);
}

constexpr RowOps kRowOps{rows, quantize, product, sums, range, lstm, gru, gru_reset, gru_update};

}  // namespace
}  // namespace ulp
