// Fragments of the tensor cores' instructions, the patterns of swizzled copies, and counts of bank conflicts, against plain formulas.
#include "cuda/ptx_sm90.cuh"
#include "test.h"

namespace ulp::emulator::test {
namespace {

namespace ptx = ulp::cuda::ptx;
using ulp::cuda::Unit;

// --------------------------------------------------------------------------------------------------------------------------- mma

template <Unit kUnit>
void mma_kernel(const uint32_t* a, const uint32_t* b, int* d) {
  const int lane = static_cast<int>(threadIdx.x);
  const int row = lane / 4;
  const int part = lane % 4;
  const uint32_t fragment[4] = {a[row * 8 + part], a[(row + 8) * 8 + part], a[row * 8 + 4 + part], a[(row + 8) * 8 + 4 + part]};
  int sums[4];
  for (int i = 0; i < 4; ++i) sums[i] = d[(row + i / 2 * 8) * 8 + part * 2 + i % 2];
  if constexpr (kUnit == Unit::s4) ptx::mma_s4(sums, fragment, b[row * 8 + part], b[row * 8 + 4 + part]);
  else if constexpr (kUnit == Unit::b1) ptx::mma_b1(sums, fragment, b[row * 8 + part], b[row * 8 + 4 + part]);
  else ptx::mma_s8(sums, fragment, b[row * 8 + part], b[row * 8 + 4 + part]);
  for (int i = 0; i < 4; ++i) d[(row + i / 2 * 8) * 8 + part * 2 + i % 2] = sums[i];
}

// Value i of a row of words, u8 as s8.
int value(const uint32_t* row, int i, Unit unit) {
  if (unit == Unit::b1) return static_cast<int>(row[i / 32] >> (i % 32) & 1);
  if (unit != Unit::s4) return static_cast<int8_t>(row[i / 4] >> (8 * (i % 4)));
  const int raw = static_cast<int>(row[i / 8] >> (4 * (i % 8)) & 15);
  return raw < 8 ? raw : raw - 16;
}

void check_mma(int arch, Unit unit) {
  configure(arch);
  const auto a = random_values<uint32_t>(16 * 8, 1);
  const auto b = random_values<uint32_t>(8 * 8, 2);
  auto expected = random_values<int>(16 * 8, 3);
  const Buffer<uint32_t> device_a(a);
  const Buffer<uint32_t> device_b(b);
  const Buffer<int> d(expected);
  const auto kernel = unit == Unit::s4 ? mma_kernel<Unit::s4> : unit == Unit::b1 ? mma_kernel<Unit::b1> : mma_kernel<Unit::s8>;
  const int depth = unit == Unit::s4 ? 64 : unit == Unit::b1 ? 256 : 32;
  const cudaError_t error = run(Shape{}, kernel, device_a.data(), device_b.data(), d.data());
  require(error == cudaSuccess, ulp_emulator_last_message());
  for (int m = 0; m < 16; ++m) {
    for (int n = 0; n < 8; ++n) {
      uint32_t sum = static_cast<uint32_t>(expected[static_cast<size_t>(m * 8 + n)]);
      for (int k = 0; k < depth; ++k) sum += static_cast<uint32_t>(value(&a[m * 8], k, unit) * value(&b[n * 8], k, unit));
      expected[static_cast<size_t>(m * 8 + n)] = static_cast<int>(sum);
    }
  }
  require(d.values() == expected, "wrong sums on sm_" + std::to_string(arch));
}

ULP_TEST(mma_s8_is_a_product) {
  for (const int arch : {75, 80, 86, 89, 90, 100, 120}) check_mma(arch, Unit::s8);
}

ULP_TEST(mma_s4_is_a_product) {
  for (const int arch : {75, 80, 86, 89}) check_mma(arch, Unit::s4);
}

ULP_TEST(mma_b1_counts_the_bits_of_and) {
  for (const int arch : {80, 86, 89, 90}) check_mma(arch, Unit::b1);
}

ULP_TEST(mma_s4_is_missing_from_sm_90) {
  const Buffer<uint32_t> words(std::vector<uint32_t>(128));
  const Buffer<int> sums(std::vector<int>(128));
  for (const int arch : {90, 100, 120}) {
    configure(arch);
    expect_fault(Found::always, cudaErrorIllegalInstruction, "has no mma.sync of s4", Shape{}, mma_kernel<Unit::s4>, words.data(),
                 words.data(), sums.data());
  }
}

ULP_TEST(mma_b1_with_and_is_of_sm_80_to_90) {
  const Buffer<uint32_t> words(std::vector<uint32_t>(128));
  const Buffer<int> sums(std::vector<int>(128));
  for (const int arch : {75, 100, 120}) {
    configure(arch);
    expect_fault(Found::always, cudaErrorIllegalInstruction, "has no mma.sync of b1", Shape{}, mma_kernel<Unit::b1>, words.data(),
                 words.data(), sums.data());
  }
}

// ---------------------------------------------------------------------------------------------------------------------- ldmatrix

void load_matrix_kernel(uint32_t* words) {
  const uint32_t lane = threadIdx.x;
  const uint32_t base = ptx::shared_base();
  for (uint32_t i = 0; i < 4; ++i) ptx::store_shared(base + 16 * lane + 4 * i, 16 * lane + 4 * i);
  __syncwarp();
  uint32_t values[4];
  ptx::load_matrix4(values, base + 16 * (lane ^ 5));
  for (uint32_t i = 0; i < 4; ++i) words[4 * lane + i] = values[i];
}

ULP_TEST(load_matrix4_gives_a_word_of_a_row_to_each_lane) {
  const Buffer<uint32_t> words(128);
  expect_success(Shape{}, load_matrix_kernel, words.data());
  const auto got = words.values();
  for (uint32_t lane = 0; lane < 32; ++lane) {
    for (uint32_t i = 0; i < 4; ++i) {
      const uint32_t row = (8 * i + lane / 4) ^ 5;
      require(got[4 * lane + i] == 16 * row + 4 * (lane % 4), "lane " + std::to_string(lane));
    }
  }
}

// ------------------------------------------------------------------------------------------------------------------------- wgmma

// The place of byte `k` of row `n`, from the figures of the ISA manual rather than from address bits: atoms of eight rows of 16 << mode
// bytes; in row r the 16-byte units are permuted by the bits of r (128 bytes), r / 2 (64) or r / 4 (32).
uint32_t place(int mode, uint32_t n, uint32_t k) {
  if (mode == 0) return k / 16 * 2048 + n / 8 * 128 + n % 8 * 16 + k % 16;
  const uint32_t row = 16u << mode;
  const uint32_t unit = k / 16 ^ n % 8 >> (3 - mode);
  return n / 8 * 8 * row + n % 8 * row + unit * 16 + k % 16;
}

struct WgmmaCase {
  int mode;    // swizzle: 16 << mode bytes
  uint32_t k;  // first byte of the row
  bool accumulate;
};

uint64_t descriptor(const WgmmaCase& c, uint32_t base) {
  const uint64_t start = base + (c.mode == 0 ? c.k / 16 * 2048 : c.k);
  const uint64_t stride = c.mode == 0 ? 128 : 8 * (16u << c.mode);
  constexpr uint64_t kCodes[] = {0, 3, 2, 1};
  return kCodes[c.mode] << 62 | (stride >> 4) << 32 | uint64_t{2048 >> 4} << 16 | start >> 4;
}

// b: kColumns rows of 128 bytes, of which bytes c.k ... c.k + 31 are multiplied; a: 64 rows of 32.
template <int kColumns, Unit kUnit>
void wgmma_kernel(const uint32_t* a, const uint32_t* b, int* out, WgmmaCase c) {
  const uint32_t base = ptx::shared_base();
  const uint32_t row_bytes = c.mode == 0 ? 128 : 16u << c.mode;
  for (uint32_t i = threadIdx.x; i < kColumns * row_bytes / 4; i += blockDim.x) {
    const uint32_t n = i / (row_bytes / 4);
    const uint32_t k = i % (row_bytes / 4) * 4;
    ptx::store_shared(base + place(c.mode, n, k), b[n * 32 + k / 4]);
  }
  fence_proxy_async();
  __syncthreads();
  const int thread = static_cast<int>(threadIdx.x);
  const int row = thread / 32 * 16 + thread % 32 / 4;
  const int part = thread % 4;
  const uint32_t fragment[4] = {a[row * 8 + part], a[(row + 8) * 8 + part], a[row * 8 + 4 + part], a[(row + 8) * 8 + 4 + part]};
  int d[kColumns / 2];
  for (int i = 0; i < kColumns / 2; ++i) d[i] = 1000 * thread + i;
  ptx::wgmma_fence();
  ptx::wgmma<kColumns, kUnit>(d, fragment, descriptor(c, base), c.accumulate);
  ptx::wgmma_commit();
  ptx::wgmma_wait<0>();
  for (int i = 0; i < kColumns / 2; ++i) out[(row + i / 2 % 2 * 8) * kColumns + i / 4 * 8 + part * 2 + i % 2] = d[i];
}

template <int kColumns, Unit kUnit>
void check_wgmma(const WgmmaCase& c) {
  const auto a = random_values<uint32_t>(64 * 8, 4);
  const auto b = random_values<uint32_t>(kColumns * 32, 5);
  const Buffer<uint32_t> device_a(a);
  const Buffer<uint32_t> device_b(b);
  const Buffer<int> out(64 * kColumns);
  expect_success(Shape{1, 128, 64 << 10}, wgmma_kernel<kColumns, kUnit>, device_a.data(), device_b.data(), out.data(), c);
  const auto got = out.values();
  for (int m = 0; m < 64; ++m) {
    for (int n = 0; n < kColumns; ++n) {
      const int thread = m / 16 * 32 + m % 8 * 4 + n % 8 / 2;
      int sum = c.accumulate ? 1000 * thread + n / 8 * 4 + m / 8 % 2 * 2 + n % 2 : 0;
      constexpr int kEach = kUnit == Unit::b1 ? 8 : 1;  // values per byte of k
      for (int k = 0; k < 32 * kEach; ++k) {
        const int from_b = value(&b[static_cast<size_t>(n) * 32], static_cast<int>(c.k) * kEach + k, kUnit);
        sum += value(&a[static_cast<size_t>(m) * 8], k, kUnit) * (kUnit == Unit::u8 ? from_b & 255 : from_b);
      }
      require(got[static_cast<size_t>(m * kColumns + n)] == sum, "row " + std::to_string(m) + " column " + std::to_string(n));
    }
  }
}

ULP_TEST(wgmma_is_a_product_in_every_swizzle) {
  for (const bool accumulate : {false, true}) {
    for (uint32_t k = 0; k < 128; k += 32) {
      check_wgmma<64, Unit::s8>({3, k, accumulate});
      check_wgmma<64, Unit::u8>({0, k, accumulate});
    }
    for (uint32_t k = 0; k < 64; k += 32) check_wgmma<32, Unit::u8>({2, k, accumulate});
    check_wgmma<16, Unit::s8>({1, 0, accumulate});
  }
}

ULP_TEST(wgmma_has_up_to_256_columns) {
  check_wgmma<8, Unit::u8>({3, 96, true});
  check_wgmma<24, Unit::s8>({3, 32, true});
  check_wgmma<128, Unit::u8>({3, 64, false});
  check_wgmma<256, Unit::s8>({3, 0, true});
}

ULP_TEST(wgmma_of_bits_counts_and) {
  for (const bool accumulate : {false, true}) {
    for (uint32_t k = 0; k < 128; k += 32) check_wgmma<64, Unit::b1>({3, k, accumulate});
    check_wgmma<16, Unit::b1>({0, 64, accumulate});
  }
  check_wgmma<256, Unit::b1>({3, 32, true});
}

ULP_TEST(swizzled_descriptor_is_the_one_of_128_bytes) {
  for (const uint32_t k : {0u, 32u, 96u}) {
    const uint64_t leading = uint64_t{0x3FFF} << 16;  // ignored with a swizzle
    require((descriptor({3, k, true}, 4096) & ~leading) == (ptx::swizzled_descriptor(4096 + k) & ~leading), "k " + std::to_string(k));
  }
}

// ----------------------------------------------------------------------------------------------------------------- bank conflicts

void conflicts_kernel(uint32_t stride) {
  const uint32_t lane = threadIdx.x;
  const uint32_t base = ptx::shared_base();
  for (uint32_t i = 0; i < 32; ++i) ptx::store_shared(base + 4 * (32 * i + lane), i);
  __syncwarp();
  ptx::load_shared(base + stride * lane);
  __syncwarp();
}

ULP_TEST(bank_conflicts_are_counted) {
  for (const auto& [stride, wavefronts] : {std::pair{4u, 1u}, {8u, 2u}, {32u, 8u}, {128u, 32u}, {0u, 1u}, {36u, 1u}}) {
    ulp_emulator_reset();
    require(run(Shape{}, conflicts_kernel, stride) == cudaSuccess, ulp_emulator_last_message());
    const UlpEmulatorTraffic loads = ulp_emulator_traffic(0);
    require(loads.requests == 1 && loads.ideal == 1 && loads.wavefronts == wavefronts, "stride " + std::to_string(stride));
    const UlpEmulatorTraffic stores = ulp_emulator_traffic(1);
    require(stores.requests == 32 && stores.wavefronts == 32 && stores.ideal == 32, "stores");
  }
}

void wide_conflicts_kernel(uint32_t stride) {
  const uint32_t lane = threadIdx.x;
  const uint32_t base = ptx::shared_base();
  for (uint32_t i = 0; i < 8; ++i) ptx::store_shared4(base + 16 * (32 * i + lane), make_uint4(0, 0, 0, 0));
  __syncwarp();
  ptx::load_shared4(base + stride * lane % 4096);
  uint32_t values[4];
  ptx::load_matrix4(values, base + stride * lane % 4096);
}

ULP_TEST(wide_requests_take_four_wavefronts_at_least) {
  for (const auto& [stride, wavefronts] : {std::pair{16u, 4u}, {32u, 8u}, {128u, 32u}, {144u, 4u}}) {
    ulp_emulator_reset();
    require(run(Shape{}, wide_conflicts_kernel, stride) == cudaSuccess, ulp_emulator_last_message());
    for (const int what : {0, 2}) {
      const UlpEmulatorTraffic traffic = ulp_emulator_traffic(what);
      require(traffic.ideal == 4 && traffic.wavefronts == wavefronts,
              "stride " + std::to_string(stride) + ": " + std::to_string(traffic.wavefronts));
    }
  }
}

}  // namespace
}  // namespace ulp::emulator::test
