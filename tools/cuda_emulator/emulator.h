// The controls of the emulator for tests. Plain C, so that Python can call them by ctypes.
#pragma once

#include <cstdint>

#define ULP_EMULATOR_API extern "C" __attribute__((visibility("default")))

// The message of the last kernel that faulted, with block, thread and instruction; "" if none has since the last configure or reset.
ULP_EMULATOR_API const char* ulp_emulator_last_message();

// Sets the device. arch: 75, 80, 86, 89, 90, 100 or 120; returns 0 for others. The initial device comes from the environment:
// ULP_EMULATOR_ARCH (90), ULP_EMULATOR_SMS (132), ULP_EMULATOR_MEMORY (bytes, 2^33); ULP_EMULATOR_ARCH=0 is a machine without a device.
ULP_EMULATOR_API int ulp_emulator_configure(int arch, int sms, uint64_t memory);

// Sets the seed (initially ULP_EMULATOR_SEED, 1). A launch depends only on the seed and the number of launches since it was set.
ULP_EMULATOR_API void ulp_emulator_seed(uint64_t seed);

// Turns the race detector on or off; it is on initially unless ULP_EMULATOR_RACES=0.
ULP_EMULATOR_API void ulp_emulator_detect_races(int on);

// Shared-memory requests of warps since the last reset. what: 0 load_shared*, 1 store_shared*, 2 load_matrix4. `ideal` is the number of
// wavefronts that the same bytes take without bank conflicts, so wavefronts / ideal is 1 where there are none.
struct UlpEmulatorTraffic {
  uint64_t requests, wavefronts, ideal;
};
ULP_EMULATOR_API UlpEmulatorTraffic ulp_emulator_traffic(int what);
// Forgets message, traffic and a pending error.
ULP_EMULATOR_API void ulp_emulator_reset();
