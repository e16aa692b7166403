// PYBIND11_MODULE(_core): registers, converts numpy <-> views, releases the GIL. No arithmetic. The contract is ulp/_core.pyi.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <map>
#include <memory>
#include <optional>

#include "bindings_plan.h"
#include "gemm/cpu.h"
#include "gemm/gemm.h"
#include "gemm/threads.h"
#include "ops/finish_sink.h"
#include "ops/fused.h"

namespace py = pybind11;

#if defined(_WIN32)
#define ULP_EXPORT extern "C" __declspec(dllexport)
#else
#define ULP_EXPORT extern "C" __attribute__((visibility("default")))
#endif

// What threadpoolctl looks for in a shared object (ulp/_threadpoolctl.py).
ULP_EXPORT int ulp_get_num_threads() { return ulp::num_threads(); }
ULP_EXPORT void ulp_set_num_threads(int n) { ulp::set_num_threads(n < 1 ? 1 : n > ulp::kMaxThreads ? ulp::kMaxThreads : n); }
ULP_EXPORT const char* ulp_get_version() { return ULP_VERSION; }

namespace {

using ulp::Encoding;
using ulp::PackedMatrix;

// The Python layer words the error, with the index; here it is only noticed.
struct OutOfRange : std::runtime_error {
  using std::runtime_error::runtime_error;
};

thread_local const char* last_kernel_name = "";

std::string shape_of(const py::array& x) {
  std::string s = "(";
  for (py::ssize_t i = 0; i < x.ndim(); ++i) s += (i ? ", " : "") + std::to_string(x.shape(i));
  return s + (x.ndim() == 1 ? ",)" : ")");
}

ulp::MatrixView view_of(const py::array& x, const char* name) {
  const char kind = x.dtype().kind();
  if (x.itemsize() != 1 || (kind != 'u' && kind != 'i')) throw py::type_error(std::string(name) + " must be uint8 or int8");
  if (x.ndim() != 2) throw py::value_error(std::string(name) + " must have 2 dimensions, has shape " + shape_of(x));
  return {static_cast<const uint8_t*>(x.data()), x.shape(0), x.shape(1), x.strides(0), x.strides(1), kind == 'i'};
}

Encoding encoding_of(int bits, bool is_signed, const char* name) {
  if (!ulp::valid_bits(bits)) throw py::value_error(std::string(name) + " = " + std::to_string(bits) + " is outside [1, 8]");
  return {bits, is_signed};
}

ulp::BitpackedLayout layout_of(int64_t k, int64_t n, int bits) {
  encoding_of(bits, false, "bits");
  constexpr int64_t kMaxSide = int64_t{1} << 31;
  if (k < 0 || n < 0 || k > kMaxSide || n > kMaxSide) {
    throw py::value_error("shape (" + std::to_string(k) + ", " + std::to_string(n) + ") is outside [0, 2^31] on a side");
  }
  const double bytes = (static_cast<double>(k) + 32) * (static_cast<double>(n) + 8) * bits / 8;
  if (bytes > 1e15) throw py::value_error("shape (" + std::to_string(k) + ", " + std::to_string(n) + ") is too large");
  return {k, n, bits};
}

std::unique_ptr<PackedMatrix> pack(const py::array& b, int bits) {
  const ulp::MatrixView view = view_of(b, "b");
  const Encoding e = encoding_of(bits, view.is_signed, "bits");
  layout_of(view.rows, view.cols, bits);
  py::gil_scoped_release release;
  if (!ulp::in_range(view, e)) throw OutOfRange("b");
  return std::make_unique<PackedMatrix>(ulp::pack(view, e));
}

py::array unpack(const PackedMatrix& m) {
  py::array out(m.encoding.is_signed ? py::dtype::of<int8_t>() : py::dtype::of<uint8_t>(),
                std::vector<py::ssize_t>{m.layout.k, m.layout.n});
  uint8_t* data = static_cast<uint8_t*>(out.mutable_data());
  {
    py::gil_scoped_release release;
    ulp::unpack(m, data);
  }
  return out;
}

std::unique_ptr<PackedMatrix> from_data(const py::array_t<uint8_t, py::array::c_style>& data, int64_t k, int64_t n, int bits,
                                        bool is_signed) {
  const ulp::BitpackedLayout layout = layout_of(k, n, bits);
  if (data.ndim() != 1 || data.size() != layout.nbytes()) {
    throw py::value_error("data has " + std::to_string(data.size()) + " bytes in shape " + shape_of(data) + "; (" + std::to_string(k) +
                          ", " + std::to_string(n) + ") at " + std::to_string(bits) + " bits takes (" + std::to_string(layout.nbytes()) +
                          ",)");
  }
  const uint8_t* bytes = data.data();
  py::gil_scoped_release release;
  return std::make_unique<PackedMatrix>(ulp::repack(bytes, layout, {bits, is_signed}));
}

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
                        std::to_string(n) + ",), one value a column of b");
}

// The operands of one call, checked and held: by py::object, which is empty where there is nothing, while every empty py::array is a new
// array.
struct Call {
  ulp::Problem problem;
  int32_t b_zero = 0;
  py::object b_zeros;
  const ulp::Kernel* kernel = nullptr;
};

// All of the call but the kernel. Throws where shapes disagree or a sum could leave int32.
void set_problem(Call& call, const ulp::MatrixView& a, const PackedMatrix& b, int a_bits, int32_t a_zero, const py::object& b_zero) {
  ulp::Problem& p = call.problem;
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
  ulp::validate(p);
}

void set_up(Call& call, const py::array& a, const PackedMatrix& b, int a_bits, int32_t a_zero, const py::object& b_zero,
            const std::optional<std::string>& kernel) {
  set_problem(call, view_of(a, "a"), b, a_bits, a_zero, b_zero);
  const ulp::Problem& p = call.problem;
  const ulp::Shape shape{p.a.rows, b.layout.n, p.a.cols, p.a_encoding, b.encoding};
  call.kernel = &ulp::select_kernel(shape, kernel ? kernel->c_str() : nullptr);
}

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

void check_out(const py::array& out, const py::dtype& dtype, int64_t m, int64_t n) {
  if (!out.dtype().is(dtype) && !out.dtype().equal(dtype)) {
    throw py::type_error("out has dtype " + std::string(py::str(out.dtype())) + ", expected " + std::string(py::str(dtype)));
  }
  if (out.ndim() != 2 || out.shape(0) != m || out.shape(1) != n) {
    throw py::value_error("out has shape " + shape_of(out) + ", expected (" + std::to_string(m) + ", " + std::to_string(n) + ")");
  }
  if (!out.writeable()) throw py::value_error("out is read-only");
  if (m == 0 || n == 0) return;  // then strides are whatever numpy made them
  const py::ssize_t size = out.itemsize();
  const bool adjacent = n <= 1 || out.strides(1) == size;
  const bool whole_rows = m <= 1 || out.strides(0) % size == 0;
  if (!adjacent || !whole_rows) throw py::value_error("out must have adjacent columns");
}

// Where a call writes: to `out` if that is given, else to a new array, which also stands in where an input lies in out's memory.
// Columns are adjacent; rows may lie anywhere.
struct Output {
  const py::object& out;
  py::array written;
  void* data;
  int64_t row_stride;  // elements

  Output(const py::object& out_, const py::dtype& dtype, int64_t m, int64_t n, std::initializer_list<py::handle> inputs)
      : out(out_), written(target(out_, dtype, m, n, inputs)) {
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
  static py::array target(const py::object& out, const py::dtype& dtype, int64_t m, int64_t n, std::initializer_list<py::handle> inputs) {
    if (!out.is_none()) {
      auto array = py::cast<py::array>(out);
      check_out(array, dtype, m, n);
      const Extent extent(array);
      const bool overlaps = std::any_of(inputs.begin(), inputs.end(), [&](py::handle input) {
        return input && extent.meets(Extent(py::reinterpret_borrow<py::array>(input)));
      });
      if (!overlaps) return array;
    }
    return py::array(dtype, std::vector<py::ssize_t>{m, n});
  }
};

void run(const Call& call, const ulp::Sink& sink) {
  py::gil_scoped_release release;
  if (!ulp::in_range(call.problem.a, call.problem.a_encoding)) throw OutOfRange("a");
  ulp::gemm(call.problem, *call.kernel, sink);
  last_kernel_name = call.kernel->name;
}

py::object gemm(const py::array& a, const PackedMatrix& b, int a_bits, int32_t a_zero, const py::object& b_zero,
                const std::optional<std::string>& kernel, const py::object& out) {
  static const py::object& int32 = *new py::object(py::dtype::of<int32_t>());
  Call call;
  set_up(call, a, b, a_bits, a_zero, b_zero, kernel);
  Output output(out, py::reinterpret_borrow<py::dtype>(int32), call.problem.a.rows, b.layout.n, {a, call.b_zeros});
  run(call, ulp::PlainSink(static_cast<int32_t*>(output.data), output.row_stride));
  return output.finish();
}

// The epilogue of one call, checked and held. Not copied: `epilogue` points into it.
struct FusedEpilogue {
  ulp::Epilogue epilogue;
  float factor = 0;
  py::object factors;
  py::object bias;
};

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

void set_bias(FusedEpilogue& f, const py::object& bias, ulp::Problem& problem, int out_bits) {
  if (bias.is_none()) return;
  const int64_t n = problem.b->layout.n;
  if (py::cast<py::array>(bias).dtype().kind() == 'f') {
    if (out_bits != 0)
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
    ulp::validate_start(problem, "bias");
  }
}

void set_epilogue(FusedEpilogue& f, ulp::Problem& problem, const py::object& scale, const py::object& bias, bool relu, int out_bits,
                  bool out_signed, int out_zero) {
  ulp::Epilogue& e = f.epilogue;
  set_scale(f, scale, problem.b->layout.n);
  set_bias(f, bias, problem, out_bits);
  e.relu = relu;
  e.kind = ulp::OutputKind::float32;
  if (out_bits != 0) {
    const Encoding q = encoding_of(out_bits, out_signed, "out_bits");
    if (q.bipolar()) throw py::value_error("out_bits = 1 with out_signed: a bipolar output has no zero point; take 1 bit unsigned");
    if (out_zero < q.min() || out_zero > q.max()) {
      throw py::value_error("out_zero=" + std::to_string(out_zero) + ": expected a zero point of the result from " +
                            std::to_string(q.min()) + " to " + std::to_string(q.max()));
    }
    e.kind = ulp::OutputKind::quantized;
    e.quantized = q;
    e.zero = out_zero;
  }
}

py::object gemm_fused(const py::array& a, const PackedMatrix& b, int a_bits, int32_t a_zero, const py::object& b_zero,
                      const std::optional<std::string>& kernel, const py::object& out, const py::object& scale, const py::object& bias,
                      bool relu, int out_bits, bool out_signed, int out_zero) {
  static const py::object& float32 = *new py::object(py::dtype::of<float>());
  static const py::object& uint8 = *new py::object(py::dtype::of<uint8_t>());
  static const py::object& int8 = *new py::object(py::dtype::of<int8_t>());
  Call call;
  set_up(call, a, b, a_bits, a_zero, b_zero, kernel);
  FusedEpilogue f;
  set_epilogue(f, call.problem, scale, bias, relu, out_bits, out_signed, out_zero);
  const auto dtype = py::reinterpret_borrow<py::dtype>(out_bits == 0 ? float32 : out_signed ? int8 : uint8);
  Output output(out, dtype, call.problem.a.rows, b.layout.n, {a, call.b_zeros, f.factors, f.bias});
  const ulp::Output epilogue = ulp::fused_output(f.epilogue, output.data, output.row_stride);
  run(call, ulp::FinishSink(epilogue, 0, call.problem.a.rows));
  return output.finish();
}

// Refuses what gemm and gemm_fused refuse before they look at a's values, in the same words, for a product that runs on a GPU.
void check_gemm(int64_t k, int64_t n, int a_bits, bool a_signed, int b_bits, bool b_signed, int32_t a_zero, const py::object& b_zero,
                const py::object& scale, const py::object& bias, int out_bits, bool out_signed, int out_zero) {
  PackedMatrix b;
  b.layout = layout_of(k, n, b_bits);
  b.encoding = {b_bits, b_signed};
  Call call;
  set_problem(call, {nullptr, 0, k, k, 1, a_signed}, b, a_bits, a_zero, b_zero);
  if (scale.is_none()) return;
  FusedEpilogue f;
  set_epilogue(f, call.problem, scale, bias, false, out_bits, out_signed, out_zero);
}

py::list kernels() {
  py::list table;
  for (const ulp::Kernel& k : ulp::kernel_table()) {
    py::list pairs;
    py::dict spill_every;
    for (int a = 1; a <= 8; ++a) {
      for (int b = 1; b <= 8; ++b) {
        if (!k.supports(a, b)) continue;
        pairs.append(py::make_tuple(a, b));
        spill_every[py::make_tuple(a, b)] = k.bind(a, b).spill_every;
      }
    }
    py::dict row;
    row["name"] = k.name;
    row["technique"] = k.technique;
    row["isa"] = ulp::isa_name(k.isa);
    row["mr"] = k.mr;
    row["nr"] = k.nr;
    row["available"] = k.isa <= ulp::current_isa();
    row["pairs"] = pairs;
    row["spill_every"] = spill_every;
    table.append(row);
  }
  return table;
}

py::list rank(int64_t m, int64_t n, int64_t k, int a_bits, bool a_signed, int b_bits, bool b_signed) {
  py::list ranking;
  const ulp::Shape shape{m, n, k, encoding_of(a_bits, a_signed, "a_bits"), encoding_of(b_bits, b_signed, "b_bits")};
  for (const ulp::Ranked& r : ulp::rank_kernels(shape))
    ranking.append(py::make_tuple(r.kernel->name, r.why_not.empty(), r.why_not, r.estimate.seconds, ulp::basis_name(r.estimate.basis)));
  return ranking;
}

void set_tuned(int64_t m, int64_t n, int64_t k, int a_bits, int b_bits, const std::map<std::string, double>& seconds) {
  ulp::set_tuned({m, n, k, encoding_of(a_bits, false, "a_bits"), encoding_of(b_bits, false, "b_bits")}, seconds);
}

py::dict build_info() {
  py::dict d;
  d["compiler"] = ULP_COMPILER;
  d["flags"] = ULP_FLAGS;
  d["build_type"] = ULP_BUILD_TYPE;
  d["version"] = ULP_VERSION;
  return d;
}

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "Native core of ulp; see ulp/_core.pyi.";
  py::register_exception<OutOfRange>(m, "OutOfRange", PyExc_ValueError);

  py::class_<PackedMatrix>(m, "Packed")
      .def_property_readonly("k", [](const PackedMatrix& p) { return p.layout.k; })
      .def_property_readonly("n", [](const PackedMatrix& p) { return p.layout.n; })
      .def_property_readonly("bits", [](const PackedMatrix& p) { return p.encoding.bits; })
      .def_property_readonly("signed", [](const PackedMatrix& p) { return p.encoding.is_signed; })
      .def_property_readonly("nbytes", [](const PackedMatrix& p) { return p.data.size(); })
      .def_property_readonly("data",
                             [](const py::object& self) {
                               const PackedMatrix& p = self.cast<const PackedMatrix&>();
                               py::array_t<uint8_t> view(static_cast<py::ssize_t>(p.data.size()), p.data.data(), self);
                               view.attr("setflags")(py::arg("write") = false);
                               return view;
                             })
      .def_property_readonly("column_sums", [](const PackedMatrix& p) {
        py::array_t<int32_t> sums(static_cast<py::ssize_t>(p.code_sums.size()));
        for (size_t i = 0; i < p.code_sums.size(); ++i) sums.mutable_data()[i] = p.value_sum(i);
        return sums;
      });

  m.def("pack", pack, py::arg("b"), py::arg("bits"));
  m.def("unpack", unpack, py::arg("packed"));
  m.def(
      "packed_nbytes", [](int64_t k, int64_t n, int bits) { return layout_of(k, n, bits).nbytes(); }, py::arg("k"), py::arg("n"),
      py::arg("bits"));
  m.def("from_data", from_data, py::arg("data"), py::arg("k"), py::arg("n"), py::arg("bits"), py::arg("signed"));
  m.def("gemm", gemm, py::arg("a"), py::arg("packed"), py::arg("a_bits"), py::arg("a_zero"), py::arg("b_zero"),
        py::arg("kernel").none(true), py::arg("out").none(true));
  m.def("gemm_fused", gemm_fused, py::arg("a"), py::arg("packed"), py::arg("a_bits"), py::arg("a_zero"), py::arg("b_zero"),
        py::arg("kernel").none(true), py::arg("out").none(true), py::arg("scale"), py::arg("bias").none(true), py::arg("relu"),
        py::arg("out_bits"), py::arg("out_signed"), py::arg("out_zero"));
  m.def("check_gemm", check_gemm, py::arg("k"), py::arg("n"), py::arg("a_bits"), py::arg("a_signed"), py::arg("b_bits"),
        py::arg("b_signed"), py::arg("a_zero"), py::arg("b_zero"), py::arg("scale").none(true), py::arg("bias").none(true),
        py::arg("out_bits"), py::arg("out_signed"), py::arg("out_zero"));
  m.def("kernels", kernels);
  m.def("rank", rank, py::arg("m"), py::arg("n"), py::arg("k"), py::arg("a_bits"), py::arg("a_signed"), py::arg("b_bits"),
        py::arg("b_signed"));
  m.def("set_tuned", set_tuned, py::arg("m"), py::arg("n"), py::arg("k"), py::arg("a_bits"), py::arg("b_bits"), py::arg("seconds"));
  m.def("forget_tuned", ulp::forget_tuned);
  m.def("cpu_core", [] { return ulp::cpu_core().name; });
  m.def("last_kernel", [] { return last_kernel_name; });
  m.def("isas", ulp::known_isas);
  m.def("available_isas", ulp::available_isas);
  m.def("isa", [] { return ulp::isa_name(ulp::current_isa()); });
  m.def("set_isa", ulp::set_isa, py::arg("name"));
  m.def("num_threads", ulp::num_threads);
  m.def("set_num_threads", ulp::set_num_threads, py::arg("n"));
  m.def("build_info", build_info);
  bind_plan(m);
}
