// gemm, gemm_fused and check_gemm of _core: arguments to a Problem and an Epilogue, held while the driver runs without the GIL.
#include "gemm/gemm.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>

#include "bindings_gemm.h"
#include "bindings_gil.h"

namespace ulp::bindings {

thread_local const char* last_kernel_name = "";

// Products of fewer multiply-accumulates, a microsecond or two, keep Python's lock: letting go of it and coming back takes a tenth of that.
static constexpr int64_t kUnlockMacs = int64_t{1} << 19;

void run(const Call& call, const Sink& sink) {
  const Problem& p = call.problem;
  std::optional<WithoutGil> unlocked;
  if (p.a.rows * std::max<int64_t>(p.a.cols, 1) * p.b->layout.n >= kUnlockMacs) unlocked.emplace();
  if (!in_range(p.a, p.a_encoding)) throw OutOfRange("a");
  ulp::gemm(call.problem, *call.kernel, sink);
  last_kernel_name = call.kernel->name;
}

namespace {

template <class T>
using Vector = py::array_t<T, py::array::c_style | py::array::forcecast | py::detail::npy_api::NPY_ARRAY_ALIGNED_>;

// The array itself where it can be read as it lies, which is the usual case and costs a comparison or two; else a copy.
template <class T>
Vector<T> vector_of(const py::object& x) {
  if (Vector<T>::check_(x)) {
    auto same = py::reinterpret_borrow<Vector<T>>(x);
    if (reinterpret_cast<uintptr_t>(same.data()) % alignof(T) == 0) return same;
  }
  return Vector<T>(x);
}

// ValueError unless x has shape (n,), or where allowed is one value: shape () or (1,).
void check_shape(const py::array& x, int64_t n, bool scalar_too, const char* name) {
  if (x.ndim() == 1 && x.size() == n) return;
  if (scalar_too && x.ndim() <= 1 && x.size() == 1) return;
  throw py::value_error(std::string(name) + " has shape " + shape_of(x) + ": expected " + (scalar_too ? "a scalar or (" : "(") +
                        std::to_string(n) + ",), one value per column of b");
}

// All of the call but the kernel. Throws where shapes disagree or a sum could leave int32.
void set_problem(Call& call, const MatrixView& a, const PackedMatrix& b, int a_bits, int32_t a_zero, const py::object& b_zero) {
  Problem& p = call.problem;
  p.a = a;
  p.a_encoding = encoding_of(a_bits, p.a.is_signed, "a_bits");
  p.b = &b;
  p.a_zero = a_zero;
  if (py::isinstance<py::array>(b_zero)) {
    const auto zeros = vector_of<int32_t>(b_zero);
    check_shape(zeros, b.layout.n, false, "b_zero");
    p.b_zero = zeros.data();
    call.b_zeros = zeros;
    p.b_zero_per_column = true;
  } else {
    call.b_zero = b_zero.cast<int32_t>();
    p.b_zero = &call.b_zero;
  }
  validate(p);
}

void set_up(Call& call, const py::array& a, const PackedMatrix& b, int a_bits, int32_t a_zero, const py::object& b_zero,
            const std::optional<std::string>& kernel) {
  const MatrixView view = view_of(a, "a");
  if (view.cols != b.layout.k) throw Unfit("a and b differ in K");
  set_problem(call, view, b, a_bits, a_zero, b_zero);
  const Problem& p = call.problem;
  const Shape shape{p.a.rows, b.layout.n, p.a.cols, p.a_encoding, b.encoding, b.excess};
  if (kernel && kernel->find('\0') != std::string::npos) throw std::invalid_argument("kernel: a name has no NUL character");
  call.kernel = &select_kernel(shape, kernel ? kernel->c_str() : nullptr);
}

[[noreturn]] void refuse_scale(const std::string& where, double value, const std::string& after) {
  throw py::value_error("scale " + where + std::string(py::str(py::float_(value))) + after +
                        " is not finite in float32: expected values from -3.4e38 to 3.4e38");
}

void set_scale(FusedEpilogue& f, const py::object& scale, int64_t n) {
  if (!py::isinstance<py::array>(scale)) {
    const double value = scale.cast<double>();
    f.factor = static_cast<float>(value);
    if (!std::isfinite(f.factor)) refuse_scale("= ", value, "");
    f.epilogue.scale = &f.factor;
    return;
  }
  const auto held = vector_of<float>(scale);
  check_shape(held, n, true, "scale");
  const float* factors = held.data();
  const py::ssize_t size = held.size();
  for (py::ssize_t i = 0; i < size; ++i) {
    if (std::isfinite(factors[i])) continue;
    if (held.ndim() == 0) refuse_scale("= ", factors[i], "");
    refuse_scale("holds ", factors[i], " at [" + std::to_string(i) + "], which");
  }
  f.epilogue.scale = factors;
  f.epilogue.scale_per_column = size == n && held.ndim() == 1;
  f.factors = held;
}

void set_bias(FusedEpilogue& f, const py::object& bias, Problem& problem) {
  if (bias.is_none()) return;
  const int64_t n = problem.b->layout.n;
  if (py::cast<py::array>(bias).dtype().kind() == 'f') {
    if (f.epilogue.kind == OutputKind::quantized)
      throw py::type_error("a float bias goes with float32 output; a quantized output takes an int32 bias in units of the accumulator");
    const auto held = vector_of<float>(bias);
    check_shape(held, n, false, "bias");
    f.epilogue.float_bias = held.data();
    f.bias = held;
  } else {
    const auto held = vector_of<int32_t>(bias);
    check_shape(held, n, false, "bias");
    problem.start = held.data();
    f.bias = held;
    validate_start(problem, "bias");
  }
}

// Keys of the dict that carries the epilogue's fields (ulp/_core.pyi: Epilogue). Interned once, so that a look-up compares pointers.
struct FieldNames {
  py::str scale = interned("scale");
  py::str bias = interned("bias");
  py::str relu = interned("relu");
  py::str out_bits = interned("out_bits");
  py::str out_signed = interned("out_signed");
  py::str out_zero = interned("out_zero");

  static py::str interned(const char* text) {
    PyObject* name = PyUnicode_InternFromString(text);
    if (!name) throw py::error_already_set();
    return py::reinterpret_steal<py::str>(name);
  }
  static const FieldNames& get() {
    static const FieldNames& names = *new FieldNames;  // never freed: Python may be gone when statics are
    return names;
  }
};

// The value of a field, or an empty object.
py::object find(const py::dict& fields, const py::str& name) {
  PyObject* value = PyDict_GetItemWithError(fields.ptr(), name.ptr());
  if (!value && PyErr_Occurred()) throw py::error_already_set();
  return py::reinterpret_borrow<py::object>(value);
}

py::object field(const py::dict& fields, const py::str& name) {
  py::object value = find(fields, name);
  if (!value) throw py::type_error("epilogue lacks the field " + std::string(name));
  return value;
}

}  // namespace

void set_epilogue(FusedEpilogue& f, const py::object& scale, const py::object& bias, bool relu, const std::optional<Quantization>& out,
                  Problem& problem) {
  f.epilogue.kind = out ? OutputKind::quantized : OutputKind::float32;
  f.epilogue.relu = relu;
  set_scale(f, scale, problem.b->layout.n);
  set_bias(f, bias, problem);
  if (!out) return;
  f.out_signed = out->is_signed;
  f.epilogue.quantized = result_encoding(out->bits, out->is_signed, out->zero);
  f.epilogue.zero = out->zero;
}

namespace {

void epilogue_from(FusedEpilogue& f, const py::dict& fields, Problem& problem) {
  const FieldNames& names = FieldNames::get();
  const py::object scale = field(fields, names.scale);
  const py::object bias = field(fields, names.bias);
  const py::object out_bits = find(fields, names.out_bits);
  const bool relu = field(fields, names.relu).cast<bool>();
  if (fields.size() != (out_bits ? 6 : 3)) throw py::type_error("epilogue has fields that gemm_fused does not know");
  std::optional<Quantization> out;
  if (out_bits) out = {out_bits.cast<int>(), field(fields, names.out_zero).cast<int>(), field(fields, names.out_signed).cast<bool>()};
  set_epilogue(f, scale, bias, relu, out, problem);
}

py::object gemm(const py::array& a, const PackedMatrix& b, int a_bits, int32_t a_zero, const py::object& b_zero,
                const std::optional<std::string>& kernel, const py::object& out) {
  Call call;
  set_up(call, a, b, a_bits, a_zero, b_zero, kernel);
  Output output(out, Dtypes::get().int32, call.problem.a.rows, b.layout.n, {a, call.b_zeros});
  run(call, PlainSink(static_cast<int32_t*>(output.data), output.row_stride));
  return output.finish();
}

py::object gemm_fused(const py::array& a, const PackedMatrix& b, int a_bits, int32_t a_zero, const py::object& b_zero,
                      const std::optional<std::string>& kernel, const py::object& out, const py::dict& fields) {
  Call call;
  set_up(call, a, b, a_bits, a_zero, b_zero, kernel);
  FusedEpilogue f;
  epilogue_from(f, fields, call.problem);
  Output output(out, Dtypes::get().of(f), call.problem.a.rows, b.layout.n, {a, call.b_zeros, f.factors, f.bias});
  const ulp::Output epilogue = fused_output(f.epilogue, b.layout.n, output.data, output.row_stride);
  run(call, FinishSink(epilogue, 0, call.problem.a.rows));
  return output.finish();
}

// Refuses what gemm and gemm_fused refuse before they read a's values, in the same words, for a product that runs on a GPU.
void check_gemm(int64_t k, int64_t n, int a_bits, bool a_signed, int b_bits, bool b_signed, int32_t a_zero, const py::object& b_zero,
                const std::optional<py::dict>& fields) {
  PackedMatrix b;
  b.layout = layout_of(k, n, b_bits);
  b.encoding = {b_bits, b_signed};
  Call call;
  set_problem(call, {nullptr, 0, k, k, 1, a_signed}, b, a_bits, a_zero, b_zero);
  if (!fields) return;
  FusedEpilogue f;
  epilogue_from(f, *fields, call.problem);
}

}  // namespace

void bind_gemm(py::module_& m) {
  py::register_exception<Unfit>(m, "Unfit", PyExc_ValueError);
  m.def("gemm", gemm, py::arg("a"), py::arg("packed"), py::arg("a_bits"), py::arg("a_zero"), py::arg("b_zero"),
        py::arg("kernel").none(true), py::arg("out").none(true));
  m.def("gemm_fused", gemm_fused, py::arg("a"), py::arg("packed"), py::arg("a_bits"), py::arg("a_zero"), py::arg("b_zero"),
        py::arg("kernel").none(true), py::arg("out").none(true), py::arg("epilogue"));
  m.def("check_gemm", check_gemm, py::kw_only(), py::arg("k"), py::arg("n"), py::arg("a_bits"), py::arg("a_signed"), py::arg("b_bits"),
        py::arg("b_signed"), py::arg("a_zero"), py::arg("b_zero"), py::arg("epilogue").none(true));
  bind_quick(m);
  m.def("last_kernel", [] { return last_kernel_name; });
}

}  // namespace ulp::bindings
