#include "cuda/conv_kernels.h"
#include "cuda/conv_rows.cuh"

namespace ulp::cuda {

ConvKernel conv_b1_128x128(int bits) { return find_conv<MmaLarge, Unit::b1>(bits); }

}  // namespace ulp::cuda
