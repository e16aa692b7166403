# Cross-builds for aarch64 Linux with Debian's compiler; ULP_SYSROOT_PYTHON is the emulated interpreter of tools/arm/emulate.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
