// The compiled kernels behind the rows of kernels.h, one source file a tile so that they compile side by side.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include "cuda/arguments.h"

namespace ulp::cuda {

using MmaKernel = void (*)(Arguments);
using Sm90Kernel = void (*)(CUtensorMap, Arguments);

// bits: of the weights, 1 ... 8; with nibbles 1 ... 4.
MmaKernel mma_small(bool nibbles, int bits);
MmaKernel mma_medium(bool nibbles, int bits);
MmaKernel mma_large(bool nibbles, int bits);

// unsigned_a: activations are unsigned 8-bit ones.
Sm90Kernel sm90_16(bool unsigned_a, int bits);
Sm90Kernel sm90_32(bool unsigned_a, int bits);
Sm90Kernel sm90_64(bool unsigned_a, int bits);
Sm90Kernel sm90_128(bool unsigned_a, int bits);
Sm90Kernel sm90_256(bool unsigned_a, int bits);

}  // namespace ulp::cuda
