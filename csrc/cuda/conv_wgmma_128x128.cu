#include "cuda/conv_kernels.h"
#include "cuda/conv_sm90.cuh"

namespace ulp::cuda {

ConvKernel conv_wgmma_128x128(int bits) { return find_conv_sm90<Unit::u8, 128>(bits); }

}  // namespace ulp::cuda
