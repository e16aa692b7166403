// The ways to convolve besides the kernels of gemm/kernels.cpp, which make_direct takes: rows of tables, as those are.
#pragma once

#include <string>

#include "../gemm/isa.h"
#include "conv.h"
#include "depthwise.h"

namespace ulp {

// A dense convolution by a transform.
struct ConvMethod {
  const char* name;       // <technique>_<isa>_<tile>
  const char* technique;  // what a caller may ask for
  Isa isa;
  int reach;                                           // rows and columns that it reads behind the last window
  std::string (*why_not)(const ConvProblem& problem);  // "" if it can compute this on a CPU that has the ISA
  Prospect (*prospect)(const ConvProblem& problem);
  std::unique_ptr<Conv> (*make)(const ConvMethod& method, const ConvProblem& problem);  // nullptr on other architectures
};

struct ConvMethods {
  const ConvMethod* rows;
  size_t size;
  const ConvMethod* begin() const { return rows; }
  const ConvMethod* end() const { return rows + size; }
};

ConvMethods conv_methods();

// The most rows and columns that a method which can compute this, on whatever CPU, reads behind the last window.
int reach_of_methods(const ConvProblem& problem);

// The row of this name, or of this technique the first whose ISA may be used now, else the last; nullptr if there is none.
const ConvMethod* find_conv_method(const std::string& name);

// Empty where it can compute this here, else why not.
std::string why_not(const ConvMethod& method, const ConvProblem& problem);

// Throws std::invalid_argument with why_not, unless that is empty.
void check(const ConvMethod& method, const ConvProblem& problem);

// A depthwise convolution. Rows of an ISA must give the same bits as the portable one.
struct DepthwiseMethod {
  const char* name;  // depthwise_<isa>
  Isa isa;
  void (*run)(const Depthwise& run);
};

// The first row whose ISA may be used now.
const DepthwiseMethod& depthwise_method();

}  // namespace ulp
