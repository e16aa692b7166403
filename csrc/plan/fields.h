// The fields of a step, by name: what the bindings read from Python's keyword arguments.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include "../pack/packed_matrix.h"
#include "tensor.h"

namespace ulp {

struct AfterSpec;
struct FinishSpec;
struct Thresholds;

// A numpy array of exactly this dtype and number of dimensions, in C order. Flags are bytes.
template <class T, int dimensions>
struct Array {
  std::array<int64_t, dimensions> shape{};
  std::vector<std::conditional_t<std::is_same_v<T, bool>, uint8_t, T>> values{};

  int64_t size() const { return static_cast<int64_t>(values.size()); }
  bool empty() const { return values.empty(); }
  auto operator[](int64_t i) const { return values[static_cast<size_t>(i)]; }
};

using Floats = Array<float, 1>;
using Ints = Array<int32_t, 1>;
using Bytes = Array<uint8_t, 1>;
using Flags = Array<bool, 1>;
using Windows = Array<int32_t, 2>;  // per window: where it begins and ends

using Weights = std::shared_ptr<const PackedMatrix>;

// What a field can be. A new type needs a function `read` in bindings_plan_fields.h.
using FieldTarget =
    std::variant<int*, bool*, float*, std::string*,  // a string may be None, and is then empty
                 std::array<int, 2>*, std::array<int, 4>*, Slice*, std::optional<Slice>*, std::vector<int>*, std::vector<Slice>*, Floats*,
                 Ints*, Bytes*, Flags*, Windows*, Array<float, 2>*, Array<uint8_t, 2>*, Array<int8_t, 3>*, Weights*, FinishSpec*,
                 std::vector<std::optional<Thresholds>>*, std::vector<std::optional<AfterSpec>>*>;

struct Field {
  const char* name;
  FieldTarget target;
  bool optional = false;  // may be left out, or None: the field keeps its initial value
};

// In the order in which saved files hold them (ulp/nn/script.py): new ones go to the end, and are optional.
using FieldList = std::vector<Field>;

}  // namespace ulp
