// What a call will cost with a kernel: the figures that the choice follows, and where each comes from.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "kernel.h"

namespace ulp {

struct Shape;

// Ascending trust. Modelled: instruction counts times a model of the core. Measured: on the machine of bench/results. Tuned: on this
// machine, at this shape (ulp.tune).
enum class Basis { none, modelled, measured, tuned };

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
  std::vector<double> tuned_;  // by row of the table, NaN where not tuned; empty where the shape is not
};

// Whether x is the better choice: a tuned kernel before others, then by time, those without a figure last. Equals keep table order.
bool better(const Estimate& x, const Estimate& y);

// Remember the seconds of kernels at (m, n, k, a_bits, b_bits), instead of what is remembered of them; kernels are named as in the table.
// Throws std::invalid_argument for an unknown name and for seconds that are not positive and finite.
void set_tuned(const Shape& shape, const std::map<std::string, double>& seconds);
void forget_tuned();

}  // namespace ulp
