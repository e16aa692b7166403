#include "cuda/conv_kernels.h"
#include "cuda/conv_rows.cuh"

namespace ulp::cuda {

ConvKernel conv_s8_128x128(int bits) { return find_conv<MmaLarge, Unit::s8>(bits); }

}  // namespace ulp::cuda
