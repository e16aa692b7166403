// What tests say to the emulator and ask of it. Plain C, so that Python reaches it in a shared object by ctypes, too.
#pragma once

#include <cstdint>

#define ULP_EMULATOR_API extern "C" __attribute__((visibility("default")))

// What the last kernel that faulted did, with block, thread and instruction; "" if none has since the last configure or reset.
ULP_EMULATOR_API const char* ulp_emulator_last_message();

// The device from now on. arch: 75, 80, 86, 89, 90, 100 or 120 (others are refused: returns 0). The same by the environment, read at the
// first call of anything: ULP_EMULATOR_ARCH (90), ULP_EMULATOR_SMS (132), ULP_EMULATOR_MEMORY (bytes, 2^33); ARCH=0 is a machine without a
// device.
ULP_EMULATOR_API int ulp_emulator_configure(int arch, int sms, uint64_t memory);

// Launches are a function of the seed and of the number of launches since it was set (ULP_EMULATOR_SEED, 1).
ULP_EMULATOR_API void ulp_emulator_seed(uint64_t seed);

// The race detector is on unless this or ULP_EMULATOR_RACES=0 turns it off.
ULP_EMULATOR_API void ulp_emulator_detect_races(int on);

// Shared-memory requests of warps since the last reset. what: 0 load_shared*, 1 store_shared*, 2 load_matrix4. `ideal` is the number of
// wavefronts that the same bytes take without bank conflicts, so wavefronts / ideal is 1 where there are none.
struct UlpEmulatorTraffic {
  uint64_t requests, wavefronts, ideal;
};
ULP_EMULATOR_API UlpEmulatorTraffic ulp_emulator_traffic(int what);
// Forgets message, traffic and a pending error.
ULP_EMULATOR_API void ulp_emulator_reset();
