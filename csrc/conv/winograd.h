// 3 x 3 convolutions by Winograd's F(2x2, 3x3); the algebra is in winograd_kernels.h, the table row in conv_methods.cpp.
#pragma once

#include <string>

#include "conv.h"
#include "winograd_kernels.h"

namespace ulp {

// With an odd height or width, the last tiles of 2 x 2 read one row or column behind the last window.
inline constexpr int kWinogradReach = 1;

// Empty where it can convolve this, given an ISA with kernels; else why not.
std::string why_not_winograd(const ConvProblem& problem);

// Where it can convolve this: with products in 16 bits, and by vpdpbusd on 64 bytes.
Prospect prospect_of_winograd(const ConvProblem& problem);
Prospect prospect_of_dot_winograd(const ConvProblem& problem);

// Precondition: why_not_winograd(problem) is empty.
std::unique_ptr<Conv> make_winograd(const ConvProblem& problem, const WinogradKernels& kernels, const char* name);

}  // namespace ulp
