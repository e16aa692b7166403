// The instructions of every architecture, as the emulator's cuda/ptx.cuh calls them.
#pragma once

#include <cstdint>

namespace ulp::emulator {

void load_shared(uint32_t address, uint32_t* values, int words);
void store_shared(uint32_t address, const uint32_t* values, int words);
// bar.sync: waits until `threads` threads have arrived at barrier `id`, 1 ... 15.
void sync_named(int id, int threads);
void load_matrix4(uint32_t (&values)[4], uint32_t row);

void copy_async16(uint32_t shared, const void* global, int bytes);
void commit_copies();
void wait_copies(int pending);

void mma_s8(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
void mma_s4(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
void mma_b1(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

}  // namespace ulp::emulator
