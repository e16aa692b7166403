// One product as bindings_gemm.cpp and bindings_quick.cpp set it up: what is held of its arguments while it runs, and where it writes.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <optional>

#include "bindings.h"
#include "gemm/gemm.h"
#include "ops/finish_sink.h"
#include "ops/fused.h"

namespace ulp::bindings {

// a or `out` is not what the core takes. The Python layer says why, or has the result copied into `out`.
struct Unfit : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The operands of one call, checked and held: by py::object, which is empty where there is nothing, while every empty py::array is a new
// array.
struct Call {
  Problem problem;
  int32_t b_zero = 0;
  py::object b_zeros;
  const Kernel* kernel = nullptr;
};

// The epilogue of one call, checked and held. Not copied: `epilogue` points into it.
struct FusedEpilogue {
  Epilogue epilogue;
  bool out_signed = false;
  float factor = 0;
  py::object factors;
  py::object bias;
};

// out_bits, out_zero and out_signed of an epilogue.
struct Quantization {
  int bits = 8;
  int zero = 0;
  bool is_signed = false;
};

// Throws where shapes disagree, a scale is not finite, the zero point is out of range or a bias could carry a sum out of int32.
void set_epilogue(FusedEpilogue& f, const py::object& scale, const py::object& bias, bool relu, const std::optional<Quantization>& out,
                  Problem& problem);

// The dtypes of operands and results, found once.
struct Dtypes {
  py::dtype int32 = py::dtype::of<int32_t>();
  py::dtype float32 = py::dtype::of<float>();
  py::dtype uint8 = py::dtype::of<uint8_t>();
  py::dtype int8 = py::dtype::of<int8_t>();
  py::object float32_scalar = float32.attr("type");

  const py::dtype& of(const FusedEpilogue& f) const {
    return f.epilogue.kind == OutputKind::float32 ? float32 : f.out_signed ? int8 : uint8;
  }
  static const Dtypes& get() {
    static const Dtypes& dtypes = *new Dtypes;  // never freed, as FieldNames
    return dtypes;
  }
};

// Where the elements of an array lie: the bytes from begin to before end.
struct Extent {
  uintptr_t begin = 0;
  uintptr_t end = 0;

  explicit Extent(const py::array& x) {
    if (x.size() == 0) return;
    begin = end = reinterpret_cast<uintptr_t>(x.data());
    for (py::ssize_t i = 0; i < x.ndim(); ++i) {
      const auto span = static_cast<uintptr_t>((x.shape(i) - 1) * x.strides(i));
      (x.strides(i) < 0 ? begin : end) += span;
    }
    end += static_cast<uintptr_t>(x.itemsize());
  }

  bool meets(const Extent& other) const { return begin < other.end && other.begin < end; }
};

// The driver writes elements of its own dtype, aligned, in rows whose columns are adjacent and which do not overlap.
inline void check_out(const py::array& out, const py::dtype& dtype, int64_t m, int64_t n) {
  if (!out.dtype().is(dtype) && !out.dtype().equal(dtype)) throw Unfit("out has another dtype");
  if (out.ndim() != 2 || out.shape(0) != m || out.shape(1) != n) throw Unfit("out has another shape");
  if (!out.writeable()) throw Unfit("out is read-only");
  if (m == 0 || n == 0) return;  // then strides are whatever numpy made them
  const py::ssize_t size = out.itemsize();
  const bool aligned = reinterpret_cast<uintptr_t>(out.data()) % static_cast<uintptr_t>(size) == 0;
  const bool adjacent = n == 1 || out.strides(1) == size;
  const bool apart = m == 1 || (out.strides(0) >= n * size && out.strides(0) % size == 0);
  if (!aligned || !adjacent || !apart) throw Unfit("out has strides that the driver does not write to");
}

// py::array(dtype, {m, n}), or with one dimension {n}, without its vectors of shape and strides, which cost a tenth of a small call.
inline py::array new_array(const py::dtype& dtype, int64_t m, int64_t n, int dimensions = 2) {
  const auto& api = py::detail::npy_api::get();
  const Py_intptr_t shape[2] = {static_cast<Py_intptr_t>(m), static_cast<Py_intptr_t>(n)};
  PyObject* made = api.PyArray_NewFromDescr_(api.PyArray_Type_, py::dtype(dtype).release().ptr(), dimensions, shape + 2 - dimensions,
                                             nullptr, nullptr, 0, nullptr);
  if (!made) throw py::error_already_set();
  return py::reinterpret_steal<py::array>(made);
}

// Where a call writes: to `out` if that is given, else to a new array, which also stands in where an input lies in out's memory.
// Columns are adjacent; rows may lie anywhere.
struct Output {
  const py::object& out;
  py::array written;
  void* data;
  int64_t row_stride;  // elements

  // dimensions: of a new array.
  Output(const py::object& out_, const py::dtype& dtype, int64_t m, int64_t n, std::initializer_list<py::handle> inputs, int dimensions = 2)
      : out(out_), written(target(out_, dtype, m, n, inputs, dimensions)) {
    data = written.mutable_data();
    row_stride = m <= 1 ? n : written.strides(0) / written.itemsize();
  }

  // After the run.
  py::object finish() const {
    if (out.is_none() || out.is(written)) return written;
    py::reinterpret_borrow<py::array>(out)[py::ellipsis()] = written;
    return out;
  }

 private:
  static py::array target(const py::object& out, const py::dtype& dtype, int64_t m, int64_t n, std::initializer_list<py::handle> inputs,
                          int dimensions) {
    if (!out.is_none()) {
      auto array = py::cast<py::array>(out);
      check_out(array, dtype, m, n);
      const Extent extent(array);
      const bool overlaps = std::any_of(inputs.begin(), inputs.end(), [&](py::handle input) {
        return input && extent.meets(Extent(py::reinterpret_borrow<py::array>(input)));
      });
      if (!overlaps) return array;
    }
    return new_array(dtype, m, n, dimensions);
  }
};

// Throws OutOfRange.
void run(const Call& call, const Sink& sink);

void bind_quick(py::module_& m);  // bindings_quick.cpp

}  // namespace ulp::bindings
