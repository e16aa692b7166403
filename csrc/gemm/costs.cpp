#include "costs.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <mutex>
#include <new>
#include <shared_mutex>
#include <stdexcept>

#if !defined(_WIN32)
#include <pthread.h>
#endif

#if defined(ULP_ARM64)
#include "costs_arm64.h"
#else
#include "costs_x86.h"
#include "costs_x86_cores.h"
#include "costs_x86_vnni.h"
#endif
#include "cpu.h"
#include "gemm.h"

namespace ulp {

struct MeasuredTable {
  std::vector<int64_t> heights;
  std::vector<std::array<std::vector<double>, 64>> costs;  // by row of the table and bit pair; empty where there are none
};

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr int kRowCount = sizeof kCostRows / sizeof kCostRows[0];
constexpr size_t kCpuCount = sizeof kCostCpus / sizeof kCostCpus[0];

size_t row_of(const Kernel& kernel) { return static_cast<size_t>(&kernel - kernel_table().rows); }

size_t pair_index(int a_bits, int b_bits) { return static_cast<size_t>(a_bits * 8 + b_bits - 9); }

// The column of costs for this machine; a core that is not known is taken for the commonest with its instructions.
size_t cpu_index() {
  static const size_t index = [] {
    const std::string& known = cpu_core().model;
    const std::string model = !known.empty()           ? known
                              : isa_here(Isa::i8mm)    ? "neoverse-v1"
                              : isa_here(Isa::dotprod) ? "neoverse-n1"
                                                       : "cortex-a72";
    for (size_t i = 0; i < kCpuCount; ++i) {
      if (model == kCostCpus[i]) return i;
    }
    return size_t{0};  // an architecture with one column
  }();
  return index;
}

// The costs of a kernel at a bit pair, one for each of kCostRows; nullptr where there are none.
const uint32_t* find_costs(const Kernel& kernel, int a_bits, int b_bits) {
  using Pairs = std::array<const uint32_t*, 64>;
  static const auto& index = *new std::vector<Pairs>([] {  // never destroyed, as below
    const KernelTable table = kernel_table();
    std::vector<Pairs> costs(table.size, Pairs{});
    for (const CostRow& row : kCosts) {
      for (const Kernel& k : table) {
        if (std::strcmp(row.kernel, k.name) == 0) costs[row_of(k)][pair_index(row.a_bits, row.b_bits)] = row.fs_per_mac[cpu_index()];
      }
    }
    return costs;
  }());
  return index[row_of(kernel)][pair_index(a_bits, b_bits)];
}

// Between two heights of A with a known cost the time of a call is interpolated, beyond the last it is proportional.
template <class Cost, class Height>
double interpolate(const Cost* fs_per_mac, const Height* heights, int count, const Shape& s) {
  const double m = static_cast<double>(s.m);
  const auto height = [heights](int i) { return static_cast<double>(heights[i]); };
  const auto time = [&](int i) { return static_cast<double>(fs_per_mac[i]) * height(i); };
  double fs = time(count - 1) * m / height(count - 1);
  for (int i = count - 1; i >= 1 && m <= height(i); --i) {
    const double share = (m - height(i - 1)) / (height(i) - height(i - 1));
    fs = time(i - 1) + share * (time(i) - time(i - 1));
  }
  return 1e-15 * (m < 1 ? 0 : fs) * static_cast<double>(s.n) * static_cast<double>(s.k);
}

#if defined(ULP_X86)

// What does not grow with M N K: per element of A that is packed, and per call, in seconds.
struct Overhead {
  double pack = 0, call = 0;

  double of(const Shape& s) const { return pack * s.packs * static_cast<double>(s.m) * static_cast<double>(s.k) + call; }
};

// Whether costs_x86_vnni.h has fits of this core.
bool core_is_fitted() {
  static const bool is_fitted = [] {
    for (const CostFit& fit : kCostFits) {
      if (cpu_core().model == fit.core) return true;
    }
    return false;
  }();
  return is_fitted;
}

// Whose fits stand for this core: its own, or else those that costs_x86_cores.h has factors to.
bool stands_for_this_core(const CostFit& fit) { return fit.core == (core_is_fitted() ? cpu_core().model : kReferenceCore); }

const Overhead& overhead_of(const Kernel& kernel) {
  static const auto& found = *new std::vector<Overhead>([] {  // never destroyed, as above
    std::vector<Overhead> all(kernel_table().size);
    for (const CostFit& fit : kCostFits) {
      if (stands_for_this_core(fit)) all[row_of(find_kernel(fit.kernel))] = {1e-15 * fit.pack, 1e-15 * fit.call};
    }
    return all;
  }());
  return found[row_of(kernel)];
}

// Tables by heights of A were measured at an N and K of 512 or more, in whose time overheads are small. What a smaller product has of them
// beyond that, from the fits: modelled on a CPU on which they were not made.
double extra_of_small(const Kernel& kernel, const Shape& s) {
  constexpr double kSide = 512;
  if (s.m == 0) return 0;
  Overhead o = overhead_of(kernel);
  const double n = static_cast<double>(s.n), k = static_cast<double>(s.k);
  o.pack *= std::max(0.0, 1 - n / kSide);
  o.call *= std::max(0.0, 1 - n / kSide * k / kSide);
  return o.of(s);
}

#else

double extra_of_small(const Kernel&, const Shape&) { return 0; }

#endif

double predict(const Kernel& kernel, const Shape& s) {
  const uint32_t* fs_per_mac = find_costs(kernel, s.a.bits, s.b.bits);
  if (!fs_per_mac || fs_per_mac[0] == 0) return kNaN;
  return interpolate(fs_per_mac, kCostRows, kRowCount, s) + extra_of_small(kernel, s);
}

#if defined(ULP_X86)

// Whether this CPU has one of the levels of the machines that costs_x86_vnni.h was fitted on.
bool is_fitted() { return isa_here(Isa::avxvnni) || isa_here(Isa::avx512); }

// CostFit at one bit pair, femtoseconds.
struct PairFit {
  double weight = kNaN, tile = 0, mac = 0;
};

// Of a kernel on this core, to its time on the one whose fits stand for it.
double core_factor(const Kernel& kernel) {
  static const auto& factors = *new std::vector<double>([] {  // never destroyed, as above
    std::vector<double> found;
    for (const Kernel& k : kernel_table()) {
      found.push_back(1);
      for (const CoreFactor& f : kCoreFactors) {
        if (cpu_core().model == f.core && std::strcmp(k.technique, f.technique) == 0 && (k.isa > Isa::avx2) == f.wide)
          found.back() = f.factor;
      }
    }
    return found;
  }());
  return factors[row_of(kernel)];
}

double predict_fitted(const Kernel& kernel, const Shape& s) {
  using Pairs = std::array<PairFit, 64>;
  static const std::vector<Pairs> index = [] {
    const KernelTable table = kernel_table();
    std::vector<Pairs> pairs(table.size, Pairs{});
    for (const CostFit& fit : kCostFits) {
      for (const Kernel& k : table) {
        if (std::strcmp(fit.kernel, k.name) != 0 || !stands_for_this_core(fit) || !isa_here(k.isa)) continue;
        for (int a = kMinBits; a <= kMaxBits; ++a) {
          for (int b = kMinBits; b <= kMaxBits; ++b) {
            if (!k.supports(a, b)) continue;
            const int spill_every = k.bind(a, b).spill_every;
            const double per_mac = fit.mac + fit.mac_bit * (b - 1) + (spill_every ? fit.spill / spill_every : 0) + fit.plane * a * b;
            const double join = fit.parts * kJoined[b] + (b == 8 ? fit.halves : 0);
            pairs[row_of(k)][pair_index(a, b)] = {fit.fixed + fit.fixed_bit * (b - 1), fit.tile + fit.tile_bit * (b - 1) + join, per_mac};
          }
        }
      }
    }
    return pairs;
  }();
  const PairFit& fit = index[row_of(kernel)][pair_index(s.a.bits, s.b.bits)];
  const double fs = fit.weight + fit.tile * static_cast<double>(ceil_div(s.m, kernel.mr)) + fit.mac * static_cast<double>(s.m);
  return 1e-15 * fs * core_factor(kernel) * static_cast<double>(s.n) * static_cast<double>(s.k) + overhead_of(kernel).of(s);
}

// Kernels that were not measured yet: the time of another one times a factor.
struct ModelledCost {
  const char* kernel;
  const char* like;
  double (*factor)(const Shape& shape);
};

// trim to mul16 (bench/NOTES.md): 2.5 or 3 vector operations for 4. Then by the weights' excess, which is multiplied beside: per lane that
// has some, per column, and what is done once for all rows.
double trim_factor(const Shape& s) {
  const int bits = s.a.bits + s.b.bits;
  const double m = static_cast<double>(std::max<int64_t>(s.m, 1)), k = static_cast<double>(std::max<int64_t>(s.k, 1));
  if (bits < 15) return 0.66 + 1 / m;
  if (bits == 15) return 0.66 + 1.2 * s.excess.two_steps + 20 / k + (10 + 240 * s.excess.two_steps) / m;
  return 0.8 + 1.8 * s.excess.one_step + 40 / k + (10 + 260 * s.excess.one_step) / m;
}

constexpr ModelledCost kModelledCosts[] = {
    {"trim_avx2_2x32", "mul16_avx2_3x32", trim_factor},
};

// Of a kernel that is among them: the factor, and the other kernel.
struct Model {
  double (*factor)(const Shape& shape) = nullptr;
  const Kernel* like = nullptr;
};

const Model& model_of(const Kernel& kernel) {
  static const auto& models = *new std::vector<Model>([] {  // never destroyed, as above
    std::vector<Model> found(kernel_table().size);
    for (const ModelledCost& cost : kModelledCosts) found[row_of(find_kernel(cost.kernel))] = {cost.factor, &find_kernel(cost.like)};
    return found;
  }());
  return models[row_of(kernel)];
}

// Measured on this kind of CPU, or on another that has its instructions.
Basis basis_here() { return (is_fitted() ? core_is_fitted() : cpu_core().model == "zen3") ? Basis::measured : Basis::modelled; }

#else

Basis basis_here() { return kCostBasis; }

#endif

using TunedKey = std::array<int64_t, 5>;

TunedKey key_of(const Shape& s) { return {s.m, s.n, s.k, s.a.bits, s.b.bits}; }

struct Tuned {
  std::atomic<bool> any{false};  // spares every call the lock where nothing was tuned or measured
  std::atomic<uint64_t> version{0};
  std::shared_ptr<const MeasuredTable> here;
  std::shared_mutex mutex;
  std::map<TunedKey, std::vector<double>> seconds;
};

// Never destroyed: threads may still call while the process ends. A forked child gets a new lock: readers that held the old
// one are not in the child. Nobody can be writing meanwhile, as writers hold Python's lock, and so does the thread that forks.
Tuned& tuned_table = *new Tuned;

#if !defined(_WIN32)
const int renews_lock = pthread_atfork(nullptr, nullptr, [] { new (&tuned_table.mutex) std::shared_mutex; });
#endif

}  // namespace

const char* basis_name(Basis basis) {
  switch (basis) {
    case Basis::modelled:
      return "modelled";
    case Basis::measured:
      return "measured";
    case Basis::measured_here:
      return "measured here";
    case Basis::tuned:
      return "tuned";
    case Basis::none:
      break;
  }
  return "";
}

uint64_t estimates_version() { return tuned_table.version.load(std::memory_order_acquire); }

Estimator::Estimator(const Shape& shape) : shape_(shape) {
  Tuned& t = tuned_table;
  if (!t.any.load(std::memory_order_acquire)) return;
  const std::shared_lock<std::shared_mutex> lock(t.mutex);
  here_ = t.here;
  const auto found = t.seconds.find(key_of(shape));
  if (found != t.seconds.end()) tuned_ = found->second;
}

Estimate Estimator::operator()(const Kernel& kernel) const {
  if (!tuned_.empty() && !std::isnan(tuned_[row_of(kernel)])) return {tuned_[row_of(kernel)], Basis::tuned};
  if (here_) {
    const std::vector<double>& costs = here_->costs[row_of(kernel)][pair_index(shape_.a.bits, shape_.b.bits)];
    if (!costs.empty()) {
      const double seconds = interpolate(costs.data(), here_->heights.data(), static_cast<int>(costs.size()), shape_);
      return {seconds + extra_of_small(kernel, shape_), Basis::measured_here};
    }
  }
#if defined(ULP_X86)
  double seconds = is_fitted() ? predict_fitted(kernel, shape_) : predict(kernel, shape_);
  if (const Model& model = model_of(kernel); model.like && std::isnan(seconds)) {
    seconds = is_fitted() ? predict_fitted(*model.like, shape_) : predict(*model.like, shape_);
    const double call = overhead_of(*model.like).call;
    return {std::min(call, seconds) + std::max(0.0, seconds - call) * model.factor(shape_), Basis::modelled};
  }
#else
  const double seconds = predict(kernel, shape_);
#endif
  static const Basis basis = basis_here();
  return {seconds, std::isnan(seconds) ? Basis::none : basis};
}

bool better(const Estimate& x, const Estimate& y) {
  if ((x.basis == Basis::tuned) != (y.basis == Basis::tuned)) return x.basis == Basis::tuned;
  if (std::isnan(x.seconds) || std::isnan(y.seconds)) return !std::isnan(x.seconds) && std::isnan(y.seconds);
  return x.seconds < y.seconds;
}

void set_tuned(const Shape& shape, const std::map<std::string, double>& seconds) {
  const KernelTable table = kernel_table();
  std::vector<double> by_row(table.size, kNaN);
  for (const auto& [name, value] : seconds) {
    if (!(value > 0) || !std::isfinite(value))
      throw std::invalid_argument("kernel '" + name + "' cannot take " + std::to_string(value) + " seconds");
    by_row[row_of(find_kernel(name))] = value;
  }
  Tuned& t = tuned_table;
  const std::unique_lock<std::shared_mutex> lock(t.mutex);
  t.seconds[key_of(shape)] = std::move(by_row);
  t.any.store(true, std::memory_order_release);
  t.version.fetch_add(1, std::memory_order_release);
}

void set_measured(const std::vector<int64_t>& heights, const std::vector<MeasuredCost>& costs) {
  for (size_t i = 0; i < heights.size(); ++i) {
    if (heights[i] < 1 || heights[i] > (int64_t{1} << 31) || (i > 0 && heights[i] <= heights[i - 1]))
      throw std::invalid_argument("heights of A ascend from 1 on");
  }
  auto table = std::make_shared<MeasuredTable>();
  table->heights = heights;
  table->costs.resize(kernel_table().size);
  for (const MeasuredCost& cost : costs) {
    const Kernel& kernel = find_kernel(cost.kernel);
    if (cost.a_bits < kMinBits || cost.a_bits > kMaxBits || cost.b_bits < kMinBits || cost.b_bits > kMaxBits ||
        !kernel.supports(cost.a_bits, cost.b_bits))
      throw std::invalid_argument("kernel '" + cost.kernel + "' does not take these bits");
    if (heights.empty() || cost.fs_per_mac.size() != heights.size())
      throw std::invalid_argument("kernel '" + cost.kernel + "' needs one cost for each height");
    for (const double value : cost.fs_per_mac) {
      if (!(value > 0) || !std::isfinite(value)) throw std::invalid_argument("kernel '" + cost.kernel + "' has a cost that is none");
    }
    table->costs[row_of(kernel)][pair_index(cost.a_bits, cost.b_bits)] = cost.fs_per_mac;
  }
  Tuned& t = tuned_table;
  const std::unique_lock<std::shared_mutex> lock(t.mutex);
  t.here = std::move(table);
  t.any.store(true, std::memory_order_release);
  t.version.fetch_add(1, std::memory_order_release);
}

void forget_tuned() {
  Tuned& t = tuned_table;
  const std::unique_lock<std::shared_mutex> lock(t.mutex);
  t.seconds.clear();
  t.here.reset();
  t.any.store(false, std::memory_order_release);
  t.version.fetch_add(1, std::memory_order_release);
}

}  // namespace ulp
