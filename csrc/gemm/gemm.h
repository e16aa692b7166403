// The driver: validate -> select -> loops -> micro-kernel -> epilogue.
#pragma once

#include <string>
#include <vector>

#include "../pack/pack.h"
#include "costs.h"
#include "epilogue.h"
#include "kernel.h"
#include "shape.h"

namespace ulp {

struct Problem {
  MatrixView a;  // M x K
  Encoding a_encoding{1, false};
  const PackedMatrix* b = nullptr;  // K x N
  int32_t a_zero = 0;
  const int32_t* b_zero = nullptr;  // one, or N with b_zero_per_column; nullptr means 0
  bool b_zero_per_column = false;
};

struct Destination {
  void* data = nullptr;    // M x N of the epilogue's type, columns adjacent
  int64_t row_stride = 0;  // elements
};

struct Ranked {
  const Kernel* kernel;
  std::string why_not;  // "" if it runs
  Estimate estimate;    // none if it does not run
};

// Throws std::invalid_argument for a name that is not in the table.
const Kernel& find_kernel(const std::string& name);

// Every kernel of the table, in order of preference: those that run by estimated time, then the others in table order.
std::vector<Ranked> rank_kernels(const Shape& shape);

// The best kernel, or the one named. Throws std::invalid_argument for a name that is unknown or that cannot run this pair here.
const Kernel& select_kernel(const Shape& shape, const char* name);

// Throws std::invalid_argument if shapes disagree or a sum could leave int32. Does not read A's elements: see in_range.
void validate(const Problem& problem);

// Precondition: validate(problem), in_range(problem.a, problem.a_encoding), kernel fits.
void gemm(const Problem& problem, const Kernel& kernel, const Epilogue& epilogue, const Destination& c);

}  // namespace ulp
