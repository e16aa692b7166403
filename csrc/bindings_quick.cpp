// quick_gemm of _core: the usual calls of ulp.gemm in one step.
#include <cstring>

#include "bindings_gemm.h"
#include "gemm/threads.h"

namespace ulp::bindings {

namespace {

// Whether x is an int (a bool is none) in [low, high].
bool plain_int(PyObject* x, long low, long high, int& value) {
  if (!PyLong_CheckExact(x)) return false;
  int overflow;
  const long found = PyLong_AsLongAndOverflow(x, &overflow);
  value = static_cast<int>(found);
  return overflow == 0 && low <= found && found <= high;
}

bool plain_flag(PyObject* x, bool& value) {
  value = x == Py_True;
  return value || x == Py_False;
}

// The bits of a: those of b where they are left out. False where bits of b are given that are not its own.
bool plain_bits(PyObject* bits, int b_bits, int& a_bits) {
  a_bits = b_bits;
  if (bits == Py_None) return true;
  int same;
  if (!PyTuple_CheckExact(bits)) return plain_int(bits, b_bits, b_bits, same);
  return PyTuple_GET_SIZE(bits) == 2 && plain_int(PyTuple_GET_ITEM(bits, 0), 1, 8, a_bits) &&
         plain_int(PyTuple_GET_ITEM(bits, 1), b_bits, b_bits, same);
}

// Arrays of numpy's own type and of one of these dtypes.
bool is_plain_array(PyObject* x, std::initializer_list<const py::dtype*> dtypes) {
  if (Py_TYPE(x) != py::detail::npy_api::get().PyArray_Type_) return false;
  const PyObject* descr = py::detail::array_proxy(x)->descr;
  return std::any_of(dtypes.begin(), dtypes.end(), [descr](const py::dtype* dtype) { return dtype->ptr() == descr; });
}

// The arguments of quick_gemm, and of them those that make the epilogue.
struct QuickArguments {
  PyObject *a, *packed, *bits, *a_zero, *b_zero, *kernel, *out, *scale, *bias, *out_bits, *out_zero, *out_signed, *relu;
};
constexpr Py_ssize_t kQuickArguments = sizeof(QuickArguments) / sizeof(PyObject*);

bool plain_epilogue(const QuickArguments& x, bool& relu, std::optional<Quantization>& out) {
  const Dtypes& dtypes = Dtypes::get();
  Quantization q;
  if (!plain_flag(x.relu, relu) || !plain_flag(x.out_signed, q.is_signed) || !plain_int(x.out_zero, -128, 255, q.zero)) return false;
  const bool quantizes = x.out_bits != Py_None;
  if (!quantizes && (q.zero != 0 || q.is_signed)) return false;
  if (x.scale == Py_None) return x.bias == Py_None && !quantizes && !relu;
  const bool one_scale = PyFloat_Check(x.scale) || py::type::handle_of(x.scale).is(dtypes.float32_scalar);
  if (!one_scale && !is_plain_array(x.scale, {&dtypes.float32})) return false;
  if (x.bias != Py_None && !is_plain_array(x.bias, {&dtypes.int32}) && (quantizes || !is_plain_array(x.bias, {&dtypes.float32})))
    return false;
  if (!quantizes) return true;
  if (!plain_int(x.out_bits, q.is_signed ? 2 : 1, 8, q.bits)) return false;
  out = q;
  return true;
}

py::object quick_product(const QuickArguments& x) {
  const Dtypes& dtypes = Dtypes::get();
  static const auto* const packed_type = py::detail::get_type_info(typeid(PackedMatrix));
  if (!is_plain_array(x.a, {&dtypes.uint8, &dtypes.int8}) || Py_TYPE(x.packed) != packed_type->type) return py::none();
  const auto* b = reinterpret_cast<py::detail::instance*>(x.packed)->get_value_and_holder(packed_type).value_ptr<PackedMatrix>();
  const auto* array = py::detail::array_proxy(x.a);
  const bool is_row = array->nd == 1;
  if (!b || (x.out != Py_None && (is_row || Py_TYPE(x.out) != Py_TYPE(x.a))) || !(is_row || array->nd == 2)) return py::none();
  const int64_t m = is_row ? 1 : array->dimensions[0], n = b->layout.n;
  const auto* last = array->dimensions + array->nd - 1;
  int a_bits, a_zero;
  Call call;
  bool relu;
  std::optional<Quantization> out;
  if (*last != b->layout.k || !plain_bits(x.bits, b->encoding.bits, a_bits) || !plain_int(x.a_zero, -65535, 65535, a_zero) ||
      !plain_int(x.b_zero, -65535, 65535, call.b_zero) || !plain_epilogue(x, relu, out))
    return py::none();
  const char* kernel = nullptr;
  if (x.kernel != Py_None) {
    if (!PyUnicode_CheckExact(x.kernel)) return py::none();
    Py_ssize_t size;
    kernel = PyUnicode_AsUTF8AndSize(x.kernel, &size);
    if (!kernel) throw py::error_already_set();
    if (std::strlen(kernel) != static_cast<size_t>(size)) return py::none();
  }
  Problem& p = call.problem;
  p.a = {reinterpret_cast<const uint8_t*>(array->data),
         m,
         *last,
         is_row ? 0 : array->strides[0],
         array->strides[array->nd - 1],
         array->descr == dtypes.int8.ptr()};
  p.a_encoding = {a_bits, p.a.is_signed};
  p.b = b;
  p.a_zero = a_zero;
  p.b_zero = &call.b_zero;
  validate(p);
  const Shape shape{m, n, p.a.cols, p.a_encoding, b->encoding, b->excess};
  call.kernel = &select_kernel(shape, kernel);
  FusedEpilogue f;
  const bool scales = x.scale != Py_None;
  if (scales) {
    const auto object = [](PyObject* y) { return py::reinterpret_borrow<py::object>(y); };
    set_epilogue(f, object(x.scale), object(x.bias), relu, out, p);
  }
  const py::dtype& dtype = scales ? dtypes.of(f) : dtypes.int32;
  const auto given = py::reinterpret_borrow<py::object>(x.out);
  const Output output(given, dtype, m, n, {x.a, f.factors, f.bias}, array->nd);
  if (!scales) {
    run(call, PlainSink(static_cast<int32_t*>(output.data), output.row_stride));
  } else {
    const ulp::Output epilogue = fused_output(f.epilogue, n, output.data, output.row_stride);
    run(call, FinishSink(epilogue, 0, m));
  }
  return output.finish();
}

// The usual call of ulp.gemm, with as little as possible between Python and the product: a plain array against packed weights, with or
// without an epilogue of plain arguments. None for all other calls, and for those that fail: the general path does them, or says why not.
PyObject* quick_gemm(PyObject*, PyObject* const* args, Py_ssize_t count) {
  if (count != kQuickArguments) {
    PyErr_Format(PyExc_TypeError, "quick_gemm takes %zd arguments", kQuickArguments);
    return nullptr;
  }
  QuickArguments x;
  std::copy_n(args, count, &x.a);
  try {
    return quick_product(x).release().ptr();
  } catch (const Interrupted&) {  // the signal handler's exception is set
    return nullptr;
  } catch (...) {
    Py_RETURN_NONE;
  }
}

}  // namespace

void bind_quick(py::module_& m) {
  static PyMethodDef quick = {"quick_gemm", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(quick_gemm)), METH_FASTCALL,
                              nullptr};
  m.attr("quick_gemm") = py::reinterpret_steal<py::object>(PyCFunction_NewEx(&quick, nullptr, m.attr("__name__").ptr()));
}

}  // namespace ulp::bindings
