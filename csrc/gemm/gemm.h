// Matrix products: check, select a kernel, run.
#pragma once

#include <string>
#include <vector>

#include "../pack/pack.h"
#include "costs.h"
#include "kernel.h"
#include "shape.h"
#include "sink.h"
#include "zero_points.h"

namespace ulp {

struct Problem : Operands {
  MatrixView a;  // M x K
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

// Throws likewise if a sum plus problem.start, which the message calls `name`, could leave int32. Precondition: validate(problem).
void validate_start(const Problem& problem, const char* name);

// a x b to the sink. Precondition: validate(problem), in_range(problem.a, problem.a_encoding), the kernel fits.
void gemm(const Problem& problem, const Kernel& kernel, const Sink& sink);

}  // namespace ulp
