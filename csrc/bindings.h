// What the files of the bindings share: how numpy arrays and numbers become the core's types, and the errors that say why not.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "pack/pack.h"

namespace ulp::bindings {

namespace py = pybind11;

// The Python layer words the error, with the index; here it is only noticed.
struct OutOfRange : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline std::string shape_of(const py::array& x) {
  std::string s = "(";
  for (py::ssize_t i = 0; i < x.ndim(); ++i) s += (i ? ", " : "") + std::to_string(x.shape(i));
  return s + (x.ndim() == 1 ? ",)" : ")");
}

inline MatrixView view_of(const py::array& x, const char* name) {
  const char kind = x.dtype().kind();
  if (x.itemsize() != 1 || (kind != 'u' && kind != 'i')) throw py::type_error(std::string(name) + " must be uint8 or int8");
  if (x.ndim() != 2) throw py::value_error(std::string(name) + " must have 2 dimensions, has shape " + shape_of(x));
  return {static_cast<const uint8_t*>(x.data()), x.shape(0), x.shape(1), x.strides(0), x.strides(1), kind == 'i'};
}

inline Encoding encoding_of(int bits, bool is_signed, const char* name) {
  if (!valid_bits(bits)) throw py::value_error(std::string(name) + " = " + std::to_string(bits) + " is outside [1, 8]");
  return {bits, is_signed};
}

// Of a quantized result with this zero point.
inline Encoding result_encoding(int bits, bool is_signed, int zero) {
  const Encoding e = encoding_of(bits, is_signed, "out_bits");
  if (e.bipolar()) throw py::value_error("out_bits = 1 with out_signed: a bipolar output has no zero point; take 1 bit unsigned");
  if (zero < e.min() || zero > e.max()) {
    throw py::value_error("out_zero=" + std::to_string(zero) + ": expected a zero point of the result from " + std::to_string(e.min()) +
                          " to " + std::to_string(e.max()));
  }
  return e;
}

// More than any machine has.
inline constexpr int64_t kMaxPackedBytes = 1'000'000'000'000'000;

inline BitpackedLayout layout_of(int64_t k, int64_t n, int bits) {
  encoding_of(bits, false, "bits");
  constexpr int64_t kMaxSide = int64_t{1} << 31;
  if (k < 0 || n < 0 || k > kMaxSide || n > kMaxSide) {
    throw py::value_error("shape (" + std::to_string(k) + ", " + std::to_string(n) + ") is outside [0, 2^31] on a side");
  }
  const BitpackedLayout layout{k, n, bits};
  // nbytes() itself may not fit int64.
  if (layout.units() * layout.k_blocks() > kMaxPackedBytes / layout.unit_bytes())
    throw py::value_error("shape (" + std::to_string(k) + ", " + std::to_string(n) + ") is too large");
  return layout;
}

void bind_gemm(py::module_& m);     // bindings_gemm.cpp
void bind_grouped(py::module_& m);  // bindings_grouped.cpp

}  // namespace ulp::bindings
