#include "cuda/conv_kernels.h"
#include "cuda/conv_rows.cuh"

namespace ulp::cuda {

ConvKernel conv_s4_64x64(int bits) { return find_conv<MmaMedium, Unit::s4>(bits); }

}  // namespace ulp::cuda
