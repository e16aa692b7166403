#include "cuda/gemm_sm90.cuh"

namespace ulp::cuda {

Sm90Kernel wgmma_128x128(bool unsigned_a, int bits) { return find_sm90<128>(unsigned_a, bits); }

}  // namespace ulp::cuda
