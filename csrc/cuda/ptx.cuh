// Wrappers of the machine instructions that the kernels use. Names follow the PTX ISA manual; comments name its sections. Shared memory is
// addressed by 32-bit shared addresses, so every access of a kernel to it goes through this file. A build that finds another cuda/ptx.cuh
// first runs the same kernels on another machine: tools/cuda_emulator on the CPU.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace ulp::cuda::ptx {

// ---------------------------------------------------------------------------------------------------------------- shared memory

// Dynamic shared memory of the block, aligned to 1024 bytes, as the 128-byte swizzle repeats every eight rows.
__device__ inline uint32_t shared_base() {
  extern __shared__ __align__(1024) unsigned char ulp_dynamic_shared[];
  return static_cast<uint32_t>(__cvta_generic_to_shared(ulp_dynamic_shared));
}

__device__ inline uint32_t load_shared(uint32_t address) {
  uint32_t value;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(value) : "r"(address));
  return value;
}

__device__ inline uint2 load_shared2(uint32_t address) {
  uint2 value;
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(value.x), "=r"(value.y) : "r"(address));
  return value;
}

__device__ inline uint4 load_shared4(uint32_t address) {
  uint4 value;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w) : "r"(address));
  return value;
}

__device__ inline void store_shared(uint32_t address, uint32_t value) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(value) : "memory");
}

__device__ inline void store_shared2(uint32_t address, int2 value) {
  asm volatile("st.shared.v2.s32 [%0], {%1, %2};" ::"r"(address), "r"(value.x), "r"(value.y) : "memory");
}

__device__ inline void store_shared4(uint32_t address, uint4 value) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(value.x), "r"(value.y), "r"(value.z), "r"(value.w)
               : "memory");
}

// ldmatrix (9.7.14.5.15): four 8 x 8 matrices of 16 bits, the rows of matrix i at the addresses that lanes 8 i ... 8 i + 7 give. Lane 4 g +
// t receives bytes 4 t ... 4 t + 3 of row g of matrix i in values[i].
__device__ inline void load_matrix4(uint32_t (&values)[4], uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(values[0]), "=r"(values[1]), "=r"(values[2]), "=r"(values[3])
               : "r"(row));
}

// ------------------------------------------------------------------------------------------------------------- asynchronous copies

// cp.async of 16 bytes, of which the first `bytes` (0 ... 16) are read and the others become zero. Before sm_80 a copy through registers.
__device__ inline void copy_async16(uint32_t shared, const void* global, int bytes) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(__cvta_generic_to_global(global)), "r"(bytes) : "memory");
#else
  uint4 value{};
  if (bytes == 16) {
    value = *static_cast<const uint4*>(global);
  } else {
    uint32_t word[4] = {};
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      if (i < bytes) word[i / 4] |= static_cast<uint32_t>(static_cast<const unsigned char*>(global)[i]) << (8 * (i % 4));
    }
    value = make_uint4(word[0], word[1], word[2], word[3]);
  }
  store_shared4(shared, value);
#endif
}

// Ends a group of this thread's copies.
__device__ inline void commit_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most kPending groups of this thread are under way.
template <int kPending>
__device__ inline void wait_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

// ------------------------------------------------------------------------------------------------------------------- mma.sync

// d += a * b. d is 16 x 8: lane 4 g + t holds d[0], d[1] = row g, columns 2 t, 2 t + 1, and d[2], d[3] the same of row g + 8. a is 16 x 32,
// signed bytes: a[0] row g, k = 4 t ... 4 t + 3; a[1] row g + 8; a[2], a[3] the same 16 k further. b is 32 x 8: b0 column g, k = 4 t ...;
// b1 16 k further (9.7.14.5.10, m16n8k32).
__device__ inline void mma_s8(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  // Turing has m8n8k16: the same fragments, half of the rows and half of K at a time.
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
        : "+r"(d[2 * half]), "+r"(d[2 * half + 1])
        : "r"(a[half]), "r"(b0));
    asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
        : "+r"(d[2 * half]), "+r"(d[2 * half + 1])
        : "r"(a[2 + half]), "r"(b1));
  }
#endif
}

// The same with signed nibbles, eight k per register instead of four bytes: a[0] row g, k = 8 t ... 8 t + 7; a[1] row g + 8; a[2], a[3] and
// b1 32 k further (m16n8k64, m8n8k32). sm_90 and later have no such unit and would emulate it with about 190 instructions: it traps there.
__device__ inline void mma_s4(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 900
  __trap();
#elif __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k64.row.col.s32.s4.s4.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    asm("mma.sync.aligned.m8n8k32.row.col.s32.s4.s4.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
        : "+r"(d[2 * half]), "+r"(d[2 * half + 1])
        : "r"(a[half]), "r"(b0));
    asm("mma.sync.aligned.m8n8k32.row.col.s32.s4.s4.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
        : "+r"(d[2 * half]), "+r"(d[2 * half + 1])
        : "r"(a[2 + half]), "r"(b1));
  }
#endif
}

// The same with single bits, of which AND is counted (.and.popc): a[0] row g, k = 32 t ... 32 t + 31; a[1] row g + 8; a[2], a[3] and b1 128
// k further (9.7.14.5.13, m16n8k256). Units of sm_80 to 90; elsewhere it traps.
__device__ inline void mma_b1(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800 && __CUDA_ARCH__ <= 900
  asm("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  __trap();
#endif
}

}  // namespace ulp::cuda::ptx
