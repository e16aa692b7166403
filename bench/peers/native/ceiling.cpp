// The limits of this core: bare inner loops of each GEMM technique, the read bandwidth of a buffer, and the clock.
//
// Compiled on demand by the benchmarks and never by the package. Every function returns the thread's CPU time in nanoseconds;
// the caller knows the work. Nothing here computes a usable product: the accumulators wrap, and no step spills,
// packs, unpacks or stores. A GEMM kernel can only approach these figures.

#include <immintrin.h>
#include <time.h>

#include <cstdint>

namespace {

std::int64_t thread_ns() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return std::int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec;
}

// The tile of the mul8 kernel: 3 rows by 4 vectors. 12 accumulators leave 4 of the 16 registers, so the column operand comes from
// memory at each use: 15 loads for 12 multiplies, within two loads per cycle.
constexpr int kRows = 3;
constexpr int kVectors = 4;
// 16 KiB of column operand and 3 x 2.5 KiB of row operand: both stay in a 32 KiB L1. Rows a multiple of 2 KiB apart would collide in
// its banks and cost a tenth of the speed.
constexpr int kSteps = 128;

struct Panel {
  alignas(64) std::uint8_t columns[kSteps * kVectors * 32];
  alignas(64) std::uint8_t rows[kRows][kSteps * 20];
};

// Each technique names the bytes of a row operand per step and does one vector step: acc += combine(a, b). The steps are assembly
// because g++ 12 moves the accumulators of the same loop in intrinsics through the stack, which costs a third of the speed.

struct Mul8 {  // u8 x s8, four k per pair of lanes: 32 MACs
  static constexpr int kRowBytes = 4;
  static __m256i row(const std::uint8_t* p) { return _mm256_set1_epi32(*reinterpret_cast<const std::int32_t*>(p)); }
  static void step(__m256i& acc, __m256i a, const __m256i& b) {
    __m256i t;
    asm volatile("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(acc), "=&x"(t) : "x"(a), "m"(b));
  }
};

struct Lut {  // a table of 16 partial sums per row, looked up by 32 columns' four 1-bit weights: 128 bit-MACs
  static constexpr int kRowBytes = 16;
  static __m256i row(const std::uint8_t* p) { return _mm256_broadcastsi128_si256(*reinterpret_cast<const __m128i*>(p)); }
  static void step(__m256i& acc, __m256i a, const __m256i& b) {
    __m256i t;
    asm volatile("vpshufb %3, %2, %1\n\tvpaddb %1, %0, %0" : "+x"(acc), "=&x"(t) : "x"(a), "m"(b));
  }
};

struct UlppackP1 {  // two operands per 16-bit lane: 32 MACs
  static constexpr int kRowBytes = 2;
  static __m256i row(const std::uint8_t* p) { return _mm256_set1_epi16(*reinterpret_cast<const std::int16_t*>(p)); }
  static void step(__m256i& acc, __m256i a, const __m256i& b) {
    __m256i t;
    asm volatile("vpmullw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(acc), "=&x"(t) : "x"(a), "m"(b));
  }
};

struct UlppackP2 {  // two operands per 32-bit lane: 16 MACs
  static constexpr int kRowBytes = 4;
  static __m256i row(const std::uint8_t* p) { return _mm256_set1_epi32(*reinterpret_cast<const std::int32_t*>(p)); }
  static void step(__m256i& acc, __m256i a, const __m256i& b) {
    __m256i t;
    asm volatile("vpmulld %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(acc), "=&x"(t) : "x"(a), "m"(b));
  }
};

struct BitSerial {  // AND, then the popcount of each byte by two table look-ups, added up in bytes: 256 bit-MACs
  static constexpr int kRowBytes = 8;
  static __m256i row(const std::uint8_t* p) { return _mm256_set1_epi64x(*reinterpret_cast<const std::int64_t*>(p)); }
  static void step(__m256i& acc, __m256i a, const __m256i& b) {
    const __m256i nibble = _mm256_set1_epi8(15);
    const __m256i count = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    __m256i low, high;
    asm volatile(
        "vpand %4, %3, %1\n\t"
        "vpsrlw $4, %1, %2\n\t"
        "vpand %6, %1, %1\n\t"
        "vpand %6, %2, %2\n\t"
        "vpshufb %1, %5, %1\n\t"
        "vpshufb %2, %5, %2\n\t"
        "vpaddb %1, %0, %0\n\t"
        "vpaddb %2, %0, %0"
        : "+x"(acc), "=&x"(low), "=&x"(high)
        : "x"(a), "m"(b), "x"(count), "m"(nibble));
  }
};

template <class Technique>
void row_of_tile(__m256i& c0, __m256i& c1, __m256i& c2, __m256i& c3, __m256i a, const __m256i* b) {
  Technique::step(c0, a, b[0]);
  Technique::step(c1, a, b[1]);
  Technique::step(c2, a, b[2]);
  Technique::step(c3, a, b[3]);
}

template <class Technique>
std::int64_t bare_loop(std::int64_t passes) {
  static Panel panel{};
  // Twelve names and no array: an array of accumulators stays in memory.
  __m256i c00{}, c01{}, c02{}, c03{}, c10{}, c11{}, c12{}, c13{}, c20{}, c21{}, c22{}, c23{};
  const std::int64_t begin = thread_ns();
  for (std::int64_t pass = 0; pass < passes; ++pass) {
#pragma GCC unroll 4
    for (int s = 0; s < kSteps; ++s) {
      const auto* columns = reinterpret_cast<const __m256i*>(panel.columns) + s * kVectors;
      const int at = s * Technique::kRowBytes;
      row_of_tile<Technique>(c00, c01, c02, c03, Technique::row(panel.rows[0] + at), columns);
      row_of_tile<Technique>(c10, c11, c12, c13, Technique::row(panel.rows[1] + at), columns);
      row_of_tile<Technique>(c20, c21, c22, c23, Technique::row(panel.rows[2] + at), columns);
    }
  }
  return thread_ns() - begin;
}

}  // namespace

extern "C" {

// Vector steps in one pass of a bare loop; each does the MACs that its technique names above.
std::int64_t ceiling_steps_per_pass() { return std::int64_t{kSteps} * kRows * kVectors; }

std::int64_t ceiling_mul8(std::int64_t passes) { return bare_loop<Mul8>(passes); }
std::int64_t ceiling_lut(std::int64_t passes) { return bare_loop<Lut>(passes); }
std::int64_t ceiling_ulppack_p1(std::int64_t passes) { return bare_loop<UlppackP1>(passes); }
std::int64_t ceiling_ulppack_p2(std::int64_t passes) { return bare_loop<UlppackP2>(passes); }
std::int64_t ceiling_bitserial(std::int64_t passes) { return bare_loop<BitSerial>(passes); }

// 64 dependent register additions per pass, one cycle each on every x86 core with AVX2: 64 * passes cycles.
std::int64_t ceiling_cycles(std::int64_t passes) {
  std::uint64_t x = 1;
  const std::uint64_t y = 3;
  const std::int64_t begin = thread_ns();
  for (std::int64_t pass = 0; pass < passes; ++pass) {
    asm volatile(
        ".rept 64\n\t"
        "addq %1, %0\n\t"
        ".endr"
        : "+r"(x)
        : "r"(y));
  }
  return thread_ns() - begin;
}

// Reads `bytes` (a multiple of 256) from 32-byte aligned `data`, `passes` times over.
std::int64_t ceiling_read(const std::uint8_t* data, std::int64_t bytes, std::int64_t passes) {
  __m256i sum[8] = {};
  const std::int64_t begin = thread_ns();
  for (std::int64_t pass = 0; pass < passes; ++pass) {
    for (std::int64_t i = 0; i < bytes; i += 256) {
      for (int j = 0; j < 8; ++j) {
        sum[j] = _mm256_add_epi64(sum[j], *reinterpret_cast<const __m256i*>(data + i + j * 32));
      }
    }
    asm volatile("" : : : "memory");
  }
  const std::int64_t end = thread_ns();
  for (int j = 1; j < 8; ++j) sum[0] = _mm256_xor_si256(sum[0], sum[j]);
  asm volatile("" : : "x"(sum[0]));
  return end - begin;
}

}  // extern "C"
