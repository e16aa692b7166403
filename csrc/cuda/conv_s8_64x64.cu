#include "cuda/conv_kernels.h"
#include "cuda/conv_rows.cuh"

namespace ulp::cuda {

ConvKernel conv_s8_64x64(int bits) { return find_mma<MmaMedium, Unit::s8, ConvArguments>(bits); }

}  // namespace ulp::cuda
