# The module ulp._cuda: kernels for NVIDIA's GPUs from Turing on. Building needs nvcc; running needs only the driver.

set(ULP_CUDA OFF CACHE STRING "Build the module ulp._cuda: ON, OFF, or AUTO where nvcc 12.8 or newer is found")
set_property(CACHE ULP_CUDA PROPERTY STRINGS OFF ON AUTO)
option(ULP_CUDA_EMULATOR "Build _cuda_emulated, which runs the CUDA kernels on the CPU, for tests" OFF)
set(ULP_CUDA_ARCHITECTURES "75;80;86;89;90a;100;120" CACHE STRING
  "Compute capabilities that ulp._cuda has machine code for; newer GPUs run the PTX of the last one. 90a has kernels of its own")

# ulp_use_cuda(<result>): enables the language and sets <result> to ON if the module is to be built.
macro(ulp_use_cuda result)
  set(${result} OFF)
  if(NOT ULP_CUDA MATCHES "^(ON|OFF|AUTO)$")
    message(FATAL_ERROR "ULP_CUDA is ${ULP_CUDA}: expected ON, OFF or AUTO")
  endif()
  if(NOT ULP_CUDA STREQUAL "OFF")
    # Each target sets its own.
    set(CMAKE_CUDA_ARCHITECTURES OFF)
    include(CheckLanguage)
    check_language(CUDA)
    if(CMAKE_CUDA_COMPILER)
      enable_language(CUDA)
      if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
        set(${result} ON)
      endif()
    endif()
    if(NOT ${result})
      if(ULP_CUDA STREQUAL "ON")
        message(FATAL_ERROR "ULP_CUDA=ON needs nvcc 12.8 or newer: put it on the PATH, set CUDACXX, or leave ULP_CUDA=OFF")
      endif()
      message(STATUS "No nvcc 12.8 or newer: ulp._cuda is not built")
    endif()
  endif()
endmacro()

function(ulp_cuda_compile_options target)
  # Warnings as for other host code, except those that nvcc's own stubs would cause.
  set(host -Wall -Wextra -Wno-unused-parameter -ffp-contract=off ${ULP_SANITIZE_FLAGS})
  set(flags --expt-relaxed-constexpr)
  if(ULP_WERROR)
    list(APPEND host -Werror)
    list(APPEND flags -Werror=all-warnings)
  endif()
  list(JOIN host "," host)
  target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:${flags};-Xcompiler=${host}>")
  target_include_directories(${target} PRIVATE csrc)
  set_target_properties(${target} PROPERTIES
    CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON CUDA_VISIBILITY_PRESET hidden POSITION_INDEPENDENT_CODE ON CUDA_RUNTIME_LIBRARY Static)
endfunction()

# ulp_add_cuda_module(<name>): csrc/cuda/*.cu for every architecture, except *wgmma_*.cu for 90a, which alone has their instructions.
# Globs, so that a new kernel is a new file; CONFIGURE_DEPENDS makes the build look again each time.
function(ulp_add_cuda_module name)
  file(GLOB everywhere CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/csrc/cuda/*.cu")
  file(GLOB hopper CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/csrc/cuda/*wgmma_*.cu")
  list(REMOVE_ITEM everywhere ${hopper})
  # Machine code for each, and PTX of the last for newer ones.
  list(TRANSFORM ULP_CUDA_ARCHITECTURES APPEND "-real" OUTPUT_VARIABLE architectures)
  list(GET ULP_CUDA_ARCHITECTURES -1 last)
  if(last MATCHES "^[0-9]+$")
    list(APPEND architectures "${last}-virtual")
  endif()

  add_library(ulp_cuda_everywhere OBJECT ${everywhere})
  set_target_properties(ulp_cuda_everywhere PROPERTIES CUDA_ARCHITECTURES "${architectures}")
  ulp_cuda_compile_options(ulp_cuda_everywhere)
  string(JOIN " " text ${ULP_CUDA_ARCHITECTURES})
  set_source_files_properties(csrc/cuda/devices.cpp PROPERTIES COMPILE_DEFINITIONS "ULP_CUDA_ARCHITECTURES_TEXT=\"${text}\"")

  # Always built, even if the list has no 90a: on a Hopper the choice of a kernel presumes them.
  add_library(ulp_cuda_hopper OBJECT ${hopper})
  set_target_properties(ulp_cuda_hopper PROPERTIES CUDA_ARCHITECTURES "90a-real")
  ulp_cuda_compile_options(ulp_cuda_hopper)

  file(GLOB hosts CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/csrc/cuda/*.cpp")
  pybind11_add_module(${name} MODULE ${hosts} csrc/pack/aligned_bytes.cpp csrc/pack/pack.cpp)
  target_compile_definitions(${name} PRIVATE ULP_CUDA_MODULE=${name})
  target_include_directories(${name} PRIVATE csrc)
  target_include_directories(${name} SYSTEM PRIVATE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
  target_link_libraries(${name} PRIVATE ulp_cuda_everywhere ulp_cuda_hopper)
  ulp_compile_options(${name})
  set_target_properties(${name} PROPERTIES CUDA_RUNTIME_LIBRARY Static CUDA_ARCHITECTURES "${architectures}")
endfunction()
