#include "cuda/conv_kernels.h"
#include "cuda/conv_rows.cuh"

namespace ulp::cuda {

ConvKernel conv_s8_64x64(int bits) { return find_conv<MmaMedium, Unit::s8>(bits); }

}  // namespace ulp::cuda
