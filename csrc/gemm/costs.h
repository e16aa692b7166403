// What a call will cost with a kernel: the figures that the choice follows, and where each comes from.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernel.h"

namespace ulp {

struct Shape;

// Ascending trust. Modelled: instruction counts times a model of the core. Measured: on the machine of bench/results. Measured here: on
// this machine, at other shapes (ulp.tune.machine). Tuned: on this machine, at this shape (ulp.tune).
enum class Basis { none, modelled, measured, measured_here, tuned };

struct MeasuredTable;

const char* basis_name(Basis basis);  // "" for none

struct Estimate {
  double seconds;  // NaN with Basis::none
  Basis basis;
};

// Estimates for one shape, all kernels seen against the same state of the tuned figures.
class Estimator {
 public:
  explicit Estimator(const Shape& shape);
  Estimate operator()(const Kernel& kernel) const;

 private:
  const Shape& shape_;
  std::vector<double> tuned_;                  // by row of the table, NaN where not tuned; empty where the shape is not
  std::shared_ptr<const MeasuredTable> here_;  // nullptr where nothing was measured here
};

// Another number whenever estimates may have changed since.
uint64_t estimates_version();

// Whether x is the better choice: a tuned kernel before others, then by time, those without a figure last. Equals keep table order.
bool better(const Estimate& x, const Estimate& y);

// Remember the seconds of kernels at (m, n, k, a_bits, b_bits), instead of what is remembered of them; kernels are named as in the table.
// Throws std::invalid_argument for an unknown name and for seconds that are not positive and finite.
void set_tuned(const Shape& shape, const std::map<std::string, double>& seconds);

// What a kernel takes at a bit pair, measured on this machine: femtoseconds per multiply-accumulate at each of some heights of A.
struct MeasuredCost {
  std::string kernel;
  int a_bits, b_bits;
  std::vector<double> fs_per_mac;
};

// Take these instead of the costs that ulp comes with, and of what was measured before. heights: ascending, from 1 on.
// Throws std::invalid_argument for unknown names, bits that a kernel does not take, and figures that are not positive and finite.
void set_measured(const std::vector<int64_t>& heights, const std::vector<MeasuredCost>& costs);

// Forget what set_tuned and set_measured were given.
void forget_tuned();

}  // namespace ulp
