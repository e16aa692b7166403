#include "cuda/conv_kernels.h"
#include "cuda/conv_rows.cuh"

namespace ulp::cuda {

ConvKernel conv_s8_64x16(int bits) { return find_mma<MmaSmall, Unit::s8, ConvArguments>(bits); }

}  // namespace ulp::cuda
