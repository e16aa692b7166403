// THE table. A row makes a kernel selectable, tested and benchmarked; its code is <technique>_<isa>.cpp.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "costs.h"
#include "gemm.h"

namespace ulp {

#define ULP_KERNEL(name)   \
  namespace name {         \
  bool supports(int, int); \
  Bound bind(int, int);    \
  }
ULP_KERNEL(mul8_scalar)
#if defined(ULP_X86)
ULP_KERNEL(mul8_avx2)
ULP_KERNEL(mul16_avx2)
ULP_KERNEL(stream_avx2)
ULP_KERNEL(lutstream_avx2)
ULP_KERNEL(lut_avx2)
ULP_KERNEL(ulppack_avx2)
ULP_KERNEL(ulppack_p1_avx2)
ULP_KERNEL(ulppack_p2_avx2)
ULP_KERNEL(bitserial_avx2)
#endif
#undef ULP_KERNEL

namespace {

const Kernel kKernels[] = {
// name, technique, ISA, mr, nr, supports, bind
#if defined(ULP_X86)
    {"lutstream_avx2_1x32", "lutstream", Isa::avx2, 1, 32, lutstream_avx2::supports, lutstream_avx2::bind},
    {"stream_avx2_4x32", "stream", Isa::avx2, 4, 32, stream_avx2::supports, stream_avx2::bind},
    {"lut_avx2_3x96", "lut", Isa::avx2, 3, 96, lut_avx2::supports, lut_avx2::bind},
    {"mul8_avx2_3x32", "mul8", Isa::avx2, 3, 32, mul8_avx2::supports, mul8_avx2::bind},
    {"ulppack_avx2_6x32", "ulppack", Isa::avx2, 6, 32, ulppack_avx2::supports, ulppack_avx2::bind},
    {"ulppack_p1_avx2_3x32", "ulppack_p1", Isa::avx2, 3, 32, ulppack_p1_avx2::supports, ulppack_p1_avx2::bind},
    {"ulppack_p2_avx2_3x32", "ulppack_p2", Isa::avx2, 3, 32, ulppack_p2_avx2::supports, ulppack_p2_avx2::bind},
    {"bitserial_avx2_2x32", "bitserial", Isa::avx2, 2, 32, bitserial_avx2::supports, bitserial_avx2::bind},
    {"mul16_avx2_3x32", "mul16", Isa::avx2, 3, 32, mul16_avx2::supports, mul16_avx2::bind},
#endif
    {"mul8_scalar_4x32", "mul8", Isa::baseline, 4, 32, mul8_scalar::supports, mul8_scalar::bind},
};

}  // namespace

KernelTable kernel_table() { return {kKernels, sizeof kKernels / sizeof kKernels[0]}; }

namespace {

// The measured costs by kernel and bit pair; nullptr where there are none.
const CostRow* find_costs(const Kernel& kernel, int a_bits, int b_bits) {
  constexpr size_t kKernelCount = sizeof kKernels / sizeof kKernels[0];
  static const auto index = [] {
    std::array<std::array<const CostRow*, 64>, kKernelCount> rows{};
    for (const CostRow& row : kCosts) {
      for (size_t k = 0; k < kKernelCount; ++k) {
        if (std::strcmp(row.kernel, kKernels[k].name) == 0) rows[k][static_cast<size_t>(row.a_bits * 8 + row.b_bits - 9)] = &row;
      }
    }
    return rows;
  }();
  return index[static_cast<size_t>(&kernel - kKernels)][static_cast<size_t>(a_bits * 8 + b_bits - 9)];
}

// Seconds by the measured costs: between two measured heights of A the time of a call is interpolated, beyond the last it is proportional.
double predict(const Kernel& kernel, const Shape& s) {
  const CostRow* row = find_costs(kernel, s.a.bits, s.b.bits);
  if (!row) return std::numeric_limits<double>::quiet_NaN();
  constexpr int kCount = sizeof kCostRows / sizeof kCostRows[0];
  const double m = static_cast<double>(s.m);
  const auto time = [row](int i) { return static_cast<double>(row->fs_per_mac[i]) * kCostRows[i]; };
  double fs = time(kCount - 1) * m / kCostRows[kCount - 1];
  for (int i = kCount - 1; i >= 1 && m <= kCostRows[i]; --i) {
    const double share = (m - kCostRows[i - 1]) / (kCostRows[i] - kCostRows[i - 1]);
    fs = time(i - 1) + share * (time(i) - time(i - 1));
  }
  return 1e-15 * (m < 1 ? 0 : fs) * static_cast<double>(s.n) * static_cast<double>(s.k);
}

std::string why_not(const Kernel& kernel, const Shape& s) {
  if (kernel.isa > current_isa()) return std::string("needs ") + isa_name(kernel.isa);
  if (!kernel.supports(s.a.bits, s.b.bits)) return "does not cover W" + std::to_string(s.b.bits) + "A" + std::to_string(s.a.bits);
  return "";
}

// Runs here; then the measured ones by time; then table order.
bool preferred(const Ranked& x, const Ranked& y) {
  if (x.why_not.empty() != y.why_not.empty()) return x.why_not.empty();
  if (std::isnan(x.seconds) || std::isnan(y.seconds)) return !std::isnan(x.seconds) && std::isnan(y.seconds);
  return x.seconds < y.seconds;
}

}  // namespace

std::vector<Ranked> rank_kernels(const Shape& s) {
  std::vector<Ranked> ranked;
  for (const Kernel& k : kernel_table()) {
    Ranked r{&k, why_not(k, s), std::numeric_limits<double>::quiet_NaN()};
    if (r.why_not.empty()) r.seconds = predict(k, s);
    ranked.push_back(r);
  }
  std::stable_sort(ranked.begin(), ranked.end(), preferred);
  return ranked;
}

const Kernel& select_kernel(const Shape& s, const char* name) {
  if (!name) {
    // The head of rank_kernels, without the list: this is on the path of every call.
    const Kernel* best = nullptr;
    double best_seconds = std::numeric_limits<double>::quiet_NaN();
    for (const Kernel& k : kernel_table()) {
      if (k.isa > current_isa() || !k.supports(s.a.bits, s.b.bits)) continue;
      const double seconds = predict(k, s);
      if (best && !(seconds < best_seconds) && (std::isnan(seconds) || !std::isnan(best_seconds))) continue;
      best = &k;
      best_seconds = seconds;
    }
    return *best;  // the portable kernel covers every pair
  }
  std::string known;
  for (const Kernel& k : kernel_table()) {
    if (std::strcmp(k.name, name) == 0) {
      const std::string reason = why_not(k, s);
      if (!reason.empty()) throw std::invalid_argument(std::string("kernel '") + name + "' cannot run here: it " + reason);
      return k;
    }
    known += (known.empty() ? "" : ", ") + std::string(k.name);
  }
  throw std::invalid_argument(std::string("unknown kernel '") + name + "'; known: " + known);
}

}  // namespace ulp
