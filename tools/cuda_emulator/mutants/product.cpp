// A product on the emulated GPU, checked: arch M N K a_bits b_bits kernel. Negative bits are unsigned. A kernel for convolutions gets one
// (convolution.cpp). Exits with 1 if the emulator finds a fault or a sum is wrong. test_mutants.py links it to broken kernels.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <random>
#include <vector>

#include "cuda/api.h"
#include "emulator.h"
#include "mutants/convolution.h"

namespace {

using namespace ulp;
using namespace ulp::cuda;

std::vector<uint8_t> random_matrix(size_t count, Encoding e, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<uint8_t> values(count);
  for (uint8_t& value : values)
    value = static_cast<uint8_t>(e.slope() * static_cast<int>(random() % static_cast<uint32_t>(e.levels())) + e.offset());
  return values;
}

int number(uint8_t value, Encoding e) { return e.is_signed ? static_cast<int8_t>(value) : value; }

std::vector<int> product(const std::vector<uint8_t>& a, const std::vector<uint8_t>& b, const Shape& shape) {
  std::vector<int> sums(static_cast<size_t>(shape.m * shape.n));
  for (int64_t i = 0; i < shape.m; ++i) {
    for (int64_t j = 0; j < shape.k; ++j) {
      const int left = number(a[static_cast<size_t>(i * shape.k + j)], shape.a);
      for (int64_t c = 0; c < shape.n; ++c)
        sums[static_cast<size_t>(i * shape.n + c)] += left * number(b[static_cast<size_t>(j * shape.n + c)], shape.b);
    }
  }
  return sums;
}

// Number of wrong sums.
int64_t check(const Shape& shape, const char* kernel) {
  const auto a = random_matrix(static_cast<size_t>(shape.m * shape.k), shape.a, 1);
  const auto b = random_matrix(static_cast<size_t>(shape.k * shape.n), shape.b, 2);
  const auto expected = product(a, b, shape);
  const Weights weights = pack_on_host({b.data(), shape.k, shape.n, shape.n, 1, shape.b.is_signed}, shape.b, 0);
  const DeviceMemory device_a(0, a.size());
  const DeviceMemory out(0, expected.size() * sizeof(int));
  upload(device_a.data(), a.data(), a.size(), 0);
  DeviceProblem problem;
  problem.a = {device_a.data(), shape.m, shape.k, shape.a, 0};
  problem.b = &weights;
  problem.out = out.data();
  problem.out_stride = shape.n;
  const Choice choice = pick({shape, shape.k % 16 == 0, false}, machine_of(0), kernel);
  const DeviceMemory workspace(0, static_cast<size_t>(choice.workspace_bytes));
  gemm(problem, kernel, workspace.data(), workspace.size(), nullptr);
  std::vector<int> sums(expected.size());
  download(sums.data(), out.data(), sums.size() * sizeof(int), 0, nullptr);
  int64_t wrong = 0;
  for (size_t i = 0; i < sums.size(); ++i) wrong += sums[i] != expected[i];
  return wrong;
}

}  // namespace

int main(int count, char** words) {
  if (count != 8) return 2;
  const auto encoding = [&](int i) { return Encoding{abs(atoi(words[i])), atoi(words[i]) > 0}; };
  const Shape shape{atoi(words[2]), atoi(words[3]), atoi(words[4]), encoding(5), encoding(6)};
  constexpr int kMultiprocessors = 8;
  if (ulp_emulator_configure(atoi(words[1]), kMultiprocessors, uint64_t{1} << 30) == 0) return 2;
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    ulp_emulator_seed(seed);
    try {
      const bool convolves = strncmp(words[7], "conv_", 5) == 0;
      const int64_t wrong = convolves ? check_convolution(shape, words[7]) : check(shape, words[7]);
      if (wrong == 0) continue;
      printf("%lld sums are wrong\n", static_cast<long long>(wrong));
    } catch (const std::exception& error) {
      printf("%s\n", *ulp_emulator_last_message() != '\0' ? ulp_emulator_last_message() : error.what());
    }
    return 1;
  }
  return 0;
}
