// The gates of LSTM and GRU by the Vector16 that the including file defines (rows.h: GateWork).
#pragma once

#include <cstring>

#include "row_functions.h"
#include "rows.h"

namespace ulp {
namespace {

constexpr int kLanes = 16;

ULP_INLINE Vector16 load_some(const float* p, int64_t n) { return n >= kLanes ? Vector16::load(p) : Vector16::load_first(p, n); }

ULP_INLINE void store_some(float* p, int64_t n, Vector16 v) { n >= kLanes ? v.store(p) : v.store_first(p, n); }

// The values of n sums from column `at` on; behind the last one zeros.
ULP_INLINE Vector16 gate_values(const GateSums& g, int64_t at, int64_t n) {
  const Vector16 scale = load_some(g.scale + at, n) * Vector16::all(g.unit);
  if (n >= kLanes) return Vector16::load_sums(g.sums + at, g.columns + at, g.zero) * scale;
  int32_t sums[kLanes] = {}, columns[kLanes] = {};
  std::memcpy(sums, g.sums + at, static_cast<size_t>(n) * sizeof(int32_t));
  std::memcpy(columns, g.columns + at, static_cast<size_t>(n) * sizeof(int32_t));
  return Vector16::load_sums(sums, columns, g.zero) * scale;
}

ULP_INLINE Vector16 input_values(const GateWork& w, int64_t at, int64_t n) {
  return gate_values(w.input, at, n) + load_some(w.bias + at, n);
}

ULP_INLINE Vector16 gate_sum(const GateWork& w, int64_t at, int64_t n) { return input_values(w, at, n) + gate_values(w.hidden, at, n); }

// f(first column, columns) of each vector; of the whole ones, `columns` is a number that the compiler knows.
template <class F>
ULP_INLINE void each_vector(int64_t units, F f) {
  int64_t at = 0;
  for (; at + kLanes <= units; at += kLanes) f(at, int64_t{kLanes});
  if (at < units) f(at, units - at);
}

void lstm(const GateWork& work) {
  const GateWork w = work;  // a copy that no store can alias
  each_vector(w.units, [&w](int64_t at, int64_t n) {
    const LstmState s = lstm_step(gate_sum(w, at, n), gate_sum(w, w.units + at, n), gate_sum(w, 2 * w.units + at, n),
                                  gate_sum(w, 3 * w.units + at, n), load_some(w.cell + at, n));
    store_some(w.cell + at, n, s.cell);
    store_some(w.state + at, n, s.hidden);
  });
}

ULP_INLINE void put_between(const GateWork& w, int64_t at, int64_t n, Vector16 update, Vector16 candidate) {
  store_some(w.state + at, n, between(update, candidate, load_some(w.state + at, n)));
}

void gru(const GateWork& work) {
  const GateWork w = work;
  each_vector(w.units, [&w](int64_t at, int64_t n) {
    const Vector16 r = sigmoid16(gate_sum(w, at, n));
    const Vector16 z = sigmoid16(gate_sum(w, w.units + at, n));
    Vector16 h = gate_values(w.hidden, 2 * w.units + at, n);
    if (w.hidden_bias) h = h + load_some(w.hidden_bias + at, n);
    put_between(w, at, n, z, tanh16(r.fma(h, input_values(w, 2 * w.units + at, n))));
  });
}

void gru_reset(const GateWork& work) {
  const GateWork w = work;
  each_vector(w.units, [&w](int64_t at, int64_t n) {
    store_some(w.reset + at, n, sigmoid16(gate_sum(w, at, n)) * load_some(w.state + at, n));
    store_some(w.update + at, n, sigmoid16(gate_sum(w, w.units + at, n)));
  });
}

void gru_update(const GateWork& work) {
  const GateWork w = work;
  each_vector(w.units, [&w](int64_t at, int64_t n) {
    const Vector16 candidate = tanh16(input_values(w, 2 * w.units + at, n) + gate_values(w.hidden, at, n));
    put_between(w, at, n, load_some(w.update + at, n), candidate);
  });
}

}  // namespace
}  // namespace ulp
