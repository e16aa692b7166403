#include "cuda/conv_kernels.h"
#include "cuda/conv_rows.cuh"

namespace ulp::cuda {

ConvKernel conv_s4_128x128(int bits) { return find_conv<MmaLarge, Unit::s4>(bits); }

}  // namespace ulp::cuda
