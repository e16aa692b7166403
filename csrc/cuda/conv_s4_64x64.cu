#include "cuda/conv_kernels.h"
#include "cuda/conv_rows.cuh"

namespace ulp::cuda {

ConvKernel conv_s4_64x64(int bits) { return find_mma<MmaMedium, Unit::s4, ConvArguments>(bits); }

}  // namespace ulp::cuda
