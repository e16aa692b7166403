#include "cuda/gemm_mma.cuh"

namespace ulp::cuda {

MmaKernel mma_medium(bool nibbles, int bits) { return find_mma<MmaMedium>(nibbles, bits); }

}  // namespace ulp::cuda
