// The names that steps have for functions of rows. Not for kernel files, which use no templates of std (gemm/kernel_util.h).
#pragma once

#include <optional>
#include <string>

#include "rows.h"

namespace ulp {

inline std::optional<RowFunction> find_row_function(const std::string& name) {
  static constexpr const char* kNames[] = {"identity", "layer_norm", "rms_norm", "softmax", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh"};
  for (int i = 0; i <= static_cast<int>(RowFunction::tanh); ++i) {
    if (name == kNames[i]) return static_cast<RowFunction>(i);
  }
  return std::nullopt;
}

}  // namespace ulp
