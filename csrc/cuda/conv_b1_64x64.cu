#include "cuda/conv_kernels.h"
#include "cuda/conv_rows.cuh"

namespace ulp::cuda {

ConvKernel conv_b1_64x64(int bits) { return find_conv<MmaPlanesMedium, Unit::b1>(bits); }

}  // namespace ulp::cuda
