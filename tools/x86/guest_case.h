// What guest_ops.cpp and guest_sequences.cpp share: random operands, and comparing results.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/ops_parts.h"

namespace {

using namespace ulp;

constexpr float kInfinity = __builtin_inff();

// Random numbers (Steele, Lea, Flood 2014: splitmix64) and memory that starts as 0x5A.
class Case {
 public:
  Case(int64_t seed, uint8_t* memory) : state_(static_cast<uint64_t>(seed) * 0x9E3779B97F4A7C15u), memory_(memory) {}

  int64_t number(int64_t low, int64_t high) { return low + static_cast<int64_t>(next() % static_cast<uint64_t>(high - low + 1)); }
  bool flip() { return next() & 1; }
  float real(int scale) { return static_cast<float>(number(-30000, 30000)) / static_cast<float>(scale); }

  template <class T>
  T* take(int64_t count) {
    T* at = reinterpret_cast<T*>(memory_);
    const int64_t bytes = (count * static_cast<int64_t>(sizeof(T)) + 127) / 64 * 64 + 64;  // vectors may be read past the end
    for (int64_t i = 0; i < bytes; ++i) memory_[i] = 0x5A;
    memory_ += bytes;
    return at;
  }
  template <class T>
  T* numbers(int64_t count, int64_t low, int64_t high) {
    T* at = take<T>(count);
    for (int64_t i = 0; i < count; ++i) at[i] = static_cast<T>(number(low, high));
    return at;
  }
  float* reals(int64_t count, int scale) {
    float* at = take<float>(count);
    for (int64_t i = 0; i < count; ++i) at[i] = real(scale);
    return at;
  }

 private:
  uint64_t next() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
  }

  uint64_t state_;
  uint8_t* memory_;
};

// What is behind the elements counts, too: nothing else may be written.
template <class T>
bool same(const T* x, const T* y, int64_t count) {
  const auto* a = reinterpret_cast<const uint8_t*>(x);
  const auto* b = reinterpret_cast<const uint8_t*>(y);
  for (int64_t i = 0; i < count * static_cast<int64_t>(sizeof(T)) + 32; ++i) {
    if (a[i] != b[i]) return false;
  }
  return true;
}

// Two copies of one target, each with memory of its own.
struct Pair {
  Target first{}, second{};
  int64_t elements = 0;

  bool agrees() const { return first.codes ? same(first.codes, second.codes, elements) : same(first.floats, second.floats, elements); }
};

Pair target(Case& c, int64_t pixels, int64_t channels, bool codes) {
  Pair p;
  Target& t = p.first;
  t.pixel = channels + c.number(0, 3);
  p.elements = pixels * t.pixel;
  t.inverse = codes ? 1.0f / static_cast<float>(c.number(1, 40)) : 1.0f;
  t.max_code = (1 << c.number(1, 8)) - 1;
  t.zero = static_cast<int>(c.number(0, t.max_code));
  t.offset = c.flip() ? 0x80 : 0;
  p.second = t;
  if (codes) {
    t.codes = c.take<uint8_t>(p.elements);
    p.second.codes = c.take<uint8_t>(p.elements);
  } else {
    t.floats = c.take<float>(p.elements);
    p.second.floats = c.take<float>(p.elements);
  }
  return p;
}

using Check = bool(Case&);

int64_t first_failure(int64_t seed, uint8_t* memory, Check* const* checks, int count) {
  for (int i = 0; i < count; ++i) {
    Case c(seed, memory);
    if (!checks[i](c)) return i + 1;
  }
  return 0;
}

}  // namespace
