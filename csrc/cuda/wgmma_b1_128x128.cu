#include "cuda/gemm_sm90.cuh"

namespace ulp::cuda {

Sm90Kernel wgmma_b1_128x128(bool, int bits) { return find_sm90_planes<128>(bits); }

}  // namespace ulp::cuda
