// The limits of a core with AVX-512 VNNI and VBMI: bare inner loops, as in ceiling.cpp, which says what they are and are not.

#include <immintrin.h>
#include <time.h>

#include <cstdint>

namespace {

std::int64_t thread_ns() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return std::int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec;
}

// Sixteen sums hide the latency of every step; a column operand is loaded once for four rows, a row operand once for four columns.
constexpr int kRows = 4;
constexpr int kVectors = 4;
constexpr int kSteps = 64;  // 16 KiB of columns and 16 KiB of rows at most, within an L1 of 48 KiB

struct Panel {
  alignas(64) std::uint8_t columns[kSteps * kVectors * 64];
  alignas(64) std::uint8_t rows[kRows][kSteps * 64];
};

struct Dot512 {  // vpdpbusd, four k to a lane of 32 bits: 64 MACs
  using Vector = __m512i;
  static Vector row(const std::uint8_t* p) { return _mm512_set1_epi32(*reinterpret_cast<const std::int32_t*>(p)); }
  static void step(Vector& acc, Vector a, Vector b) { asm volatile("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b)); }
};

struct Dot256 {  // the same on half a register: 32 MACs
  using Vector = __m256i;
  static Vector row(const std::uint8_t* p) { return _mm256_set1_epi32(*reinterpret_cast<const std::int32_t*>(p)); }
  static void step(Vector& acc, Vector a, Vector b) { asm volatile("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b)); }
};

struct Lut512 {  // vpermb: a table of 64 partial sums per row, looked up by 64 columns' six 1-bit weights: 384 bit-MACs
  using Vector = __m512i;
  static Vector row(const std::uint8_t* p) { return _mm512_load_si512(p); }
  static void step(Vector& acc, Vector a, Vector b) {
    Vector t;
    asm volatile("vpermb %2, %3, %1\n\tvpaddb %1, %0, %0" : "+v"(acc), "=&v"(t) : "v"(a), "v"(b));
  }
};

struct BitSerial512 {  // AND, population count of lanes of 32 bits, add: 512 bit-MACs
  using Vector = __m512i;
  static Vector row(const std::uint8_t* p) { return _mm512_set1_epi32(*reinterpret_cast<const std::int32_t*>(p)); }
  static void step(Vector& acc, Vector a, Vector b) {
    Vector t;
    asm volatile("vpandd %3, %2, %1\n\tvpopcntd %1, %1\n\tvpaddd %1, %0, %0" : "+v"(acc), "=&v"(t) : "v"(a), "v"(b));
  }
};

template <class Technique>
std::int64_t bare_loop(std::int64_t passes) {
  using Vector = typename Technique::Vector;
  static Panel panel{};
  Vector c00{}, c01{}, c02{}, c03{}, c10{}, c11{}, c12{}, c13{}, c20{}, c21{}, c22{}, c23{}, c30{}, c31{}, c32{}, c33{};
  const std::int64_t begin = thread_ns();
  for (std::int64_t pass = 0; pass < passes; ++pass) {
#pragma GCC unroll 4
    for (int s = 0; s < kSteps; ++s) {
      const auto* b = reinterpret_cast<const Vector*>(panel.columns) + s * kVectors;
      const Vector b0 = b[0], b1 = b[1], b2 = b[2], b3 = b[3];
      const Vector a0 = Technique::row(panel.rows[0] + s * 64), a1 = Technique::row(panel.rows[1] + s * 64);
      const Vector a2 = Technique::row(panel.rows[2] + s * 64), a3 = Technique::row(panel.rows[3] + s * 64);
      Technique::step(c00, a0, b0), Technique::step(c01, a0, b1), Technique::step(c02, a0, b2), Technique::step(c03, a0, b3);
      Technique::step(c10, a1, b0), Technique::step(c11, a1, b1), Technique::step(c12, a1, b2), Technique::step(c13, a1, b3);
      Technique::step(c20, a2, b0), Technique::step(c21, a2, b1), Technique::step(c22, a2, b2), Technique::step(c23, a2, b3);
      Technique::step(c30, a3, b0), Technique::step(c31, a3, b1), Technique::step(c32, a3, b2), Technique::step(c33, a3, b3);
    }
  }
  return thread_ns() - begin;
}

}  // namespace

extern "C" {

std::int64_t ceiling_steps_per_pass() { return std::int64_t{kSteps} * kRows * kVectors; }

std::int64_t ceiling_dot512(std::int64_t passes) { return bare_loop<Dot512>(passes); }
std::int64_t ceiling_dot256(std::int64_t passes) { return bare_loop<Dot256>(passes); }
std::int64_t ceiling_lut512(std::int64_t passes) { return bare_loop<Lut512>(passes); }
std::int64_t ceiling_bitserial512(std::int64_t passes) { return bare_loop<BitSerial512>(passes); }

}  // extern "C"
