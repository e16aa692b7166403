// 3 x 3 convolutions by Winograd's F(2x2, 3x3); the algebra is in winograd_kernels.h.
#pragma once

#include <string>

#include "conv.h"

namespace ulp {

// Empty where it can convolve this here, else why not.
std::string why_not_winograd(const ConvProblem& problem);

// Whether it is expected to be faster than the direct way.
bool prefer_winograd(const ConvProblem& problem);

// Throws std::invalid_argument with why_not_winograd, unless that is empty.
void check_winograd(const ConvProblem& problem);

// Throws likewise.
std::unique_ptr<Conv> make_winograd(const ConvProblem& problem);

}  // namespace ulp
