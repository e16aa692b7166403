#include "cuda/gemm_sm90.cuh"

namespace ulp::cuda {

Sm90Kernel wgmma_128x32(bool unsigned_a, int bits) { return find_sm90<32>(unsigned_a, bits); }

}  // namespace ulp::cuda
