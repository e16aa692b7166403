// The module _core: packed matrices, the table of kernels, settings. The contract is ulp/_core.pyi.
// Bindings register, convert numpy <-> views by named fields and release the GIL; no arithmetic.
#include "bindings.h"

#include <pybind11/stl.h>

#include <map>
#include <memory>

#include "bindings_classes.h"
#include "bindings_gil.h"
#include "bindings_plan.h"
#include "gemm/cpu.h"
#include "gemm/gemm.h"
#include "gemm/threads.h"
#include "ops/ops.h"

#if defined(_WIN32)
#define ULP_EXPORT extern "C" __declspec(dllexport)
#else
#define ULP_EXPORT extern "C" __attribute__((visibility("default")))
#endif

// What threadpoolctl looks for in a shared object (ulp/_threadpoolctl.py).
ULP_EXPORT int ulp_get_num_threads() { return ulp::num_threads(); }
ULP_EXPORT void ulp_set_num_threads(int n) { ulp::set_num_threads(n < 1 ? 1 : n > ulp::kMaxThreads ? ulp::kMaxThreads : n); }
ULP_EXPORT const char* ulp_get_version() { return ULP_VERSION; }

namespace ulp::bindings {

namespace {

std::unique_ptr<PackedMatrix> pack(const py::array& b, int bits) {
  const MatrixView view = view_of(b, "b");
  const Encoding e = encoding_of(bits, view.is_signed, "bits");
  layout_of(view.rows, view.cols, bits);
  const WithoutGil release;
  if (!in_range(view, e)) throw OutOfRange("b");
  return std::make_unique<PackedMatrix>(ulp::pack(view, e));
}

py::array unpack(const PackedMatrix& m) {
  py::array out(m.encoding.is_signed ? py::dtype::of<int8_t>() : py::dtype::of<uint8_t>(),
                std::vector<py::ssize_t>{m.layout.k, m.layout.n});
  uint8_t* data = static_cast<uint8_t*>(out.mutable_data());
  {
    const WithoutGil release;
    ulp::unpack(m, data);
  }
  return out;
}

std::unique_ptr<PackedMatrix> from_data(const py::array_t<uint8_t, py::array::c_style>& data, int64_t k, int64_t n, int bits,
                                        bool is_signed) {
  const BitpackedLayout layout = layout_of(k, n, bits);
  if (data.ndim() != 1 || data.size() != layout.nbytes()) {
    throw py::value_error("data has " + std::to_string(data.size()) + " bytes in shape " + shape_of(data) + "; (" + std::to_string(k) +
                          ", " + std::to_string(n) + ") at " + std::to_string(bits) + " bits takes (" + std::to_string(layout.nbytes()) +
                          ",)");
  }
  const uint8_t* bytes = data.data();
  const WithoutGil release;
  return std::make_unique<PackedMatrix>(repack(bytes, layout, {bits, is_signed}));
}

py::list kernels() {
  py::list table;
  for (const Kernel& k : kernel_table()) {
    py::list pairs;
    py::dict spill_every;
    for (int a = 1; a <= 8; ++a) {
      for (int b = 1; b <= 8; ++b) {
        if (!k.supports(a, b)) continue;
        pairs.append(py::make_tuple(a, b));
        if (isa_here(k.isa)) spill_every[py::make_tuple(a, b)] = k.bind(a, b).spill_every;
      }
    }
    py::dict row;
    row["name"] = k.name;
    row["technique"] = k.technique;
    row["isa"] = isa_name(k.isa);
    row["mr"] = k.mr;
    row["nr"] = k.nr;
    row["here"] = isa_here(k.isa);
    row["available"] = isa_runs(k.isa);
    row["pairs"] = pairs;
    row["spill_every"] = spill_every;
    table.append(row);
  }
  return table;
}

py::list rank(int64_t m, int64_t n, int64_t k, int a_bits, bool a_signed, int b_bits, bool b_signed) {
  py::list ranking;
  const Shape shape{m, n, k, encoding_of(a_bits, a_signed, "a_bits"), encoding_of(b_bits, b_signed, "b_bits")};
  for (const Ranked& r : rank_kernels(shape))
    ranking.append(py::make_tuple(r.kernel->name, r.why_not.empty(), r.why_not, r.estimate.seconds, basis_name(r.estimate.basis)));
  return ranking;
}

void set_tuned(int64_t m, int64_t n, int64_t k, int a_bits, int b_bits, const std::map<std::string, double>& seconds) {
  ulp::set_tuned({m, n, k, encoding_of(a_bits, false, "a_bits"), encoding_of(b_bits, false, "b_bits")}, seconds);
}

using MeasuredRow = std::tuple<std::string, int, int, std::vector<double>>;

void set_measured(const std::vector<int64_t>& heights, const std::vector<MeasuredRow>& rows) {
  std::vector<MeasuredCost> costs;
  for (const auto& [kernel, a_bits, b_bits, fs_per_mac] : rows) costs.push_back({kernel, a_bits, b_bits, fs_per_mac});
  ulp::set_measured(heights, costs);
}

py::dict build_info() {
  py::dict d;
  d["compiler"] = ULP_COMPILER;
  d["flags"] = ULP_FLAGS;
  d["build_type"] = ULP_BUILD_TYPE;
  d["version"] = ULP_VERSION;
  return d;
}

void bind_packed(py::module_& m) {
  py::class_<PackedMatrix> packed(m, "Packed");
  made_in_core_only(packed);
  packed.def_property_readonly("k", [](const PackedMatrix& p) { return p.layout.k; })
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
}

void bind_kernels(py::module_& m) {
  m.def("kernels", kernels);
  m.def("rank", rank, py::arg("m"), py::arg("n"), py::arg("k"), py::arg("a_bits"), py::arg("a_signed"), py::arg("b_bits"),
        py::arg("b_signed"));
  m.def("set_tuned", set_tuned, py::arg("m"), py::arg("n"), py::arg("k"), py::arg("a_bits"), py::arg("b_bits"), py::arg("seconds"));
  m.def("set_measured", set_measured, py::arg("heights"), py::arg("costs"));
  m.def("forget_tuned", forget_tuned);
  m.def("cpu_core", [] { return cpu_core().name; });
  m.def("cost_core", [] { return cpu_core().model; });
}

void bind_settings(py::module_& m) {
  m.def("isas", known_isas);
  m.def("available_isas", available_isas);
  m.def("isa", [] { return isa_name(current_isa()); });
  m.def("set_isa", set_isa, py::arg("name"));
  m.def("num_threads", num_threads);
  m.def("set_num_threads", set_num_threads, py::arg("n"));
  m.def("build_info", build_info);
}

// What is made at its first use is made now: a child forked meanwhile by another thread would wait without end for it.
void warm_up() {
  ops(current_isa());
  rank_kernels({1, 1, 1, {1, false}, {1, false}});
}

unsigned long main_thread = 0;

// Whether a signal handler raised, as that of Ctrl-C does; its exception is then set. Handlers run in the main thread only, and others need
// not wait for Python's lock.
bool signal_raised() {
  if (PyThread_get_thread_ident() != main_thread) return false;
  const PyGILState_STATE state = PyGILState_Ensure();
  const bool raised = PyErr_CheckSignals() != 0;
  PyGILState_Release(state);
  return raised;
}

void fill(py::module_& m) {
  m.doc() = "Native core of ulp; see ulp/_core.pyi.";
  py::register_exception<OutOfRange>(m, "OutOfRange", PyExc_ValueError);
  bind_packed(m);
  bind_gemm(m);
  bind_grouped(m);
  bind_kernels(m);
  bind_settings(m);
  bind_plan(m);
  main_thread = py::module_::import("threading").attr("main_thread")().attr("ident").cast<unsigned long>();
  set_interrupt(signal_raised);
  py::register_local_exception_translator([](std::exception_ptr error) {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const Interrupted&) {  // the signal handler's exception is set
    }
  });
  warm_up();
}

// Py_mod_create. The module is made once; an import after its removal from sys.modules finds the same one, for types are registered once.
PyObject* create(PyObject*, PyModuleDef*) {
  if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
    PyErr_SetString(PyExc_ImportError,
                    "ulp cannot be imported in a sub-interpreter, only in the main one (under mod_wsgi: WSGIApplicationGroup %{GLOBAL})");
    return nullptr;
  }
  static PyObject* made = nullptr;
  if (!made) {
    try {
      PYBIND11_ENSURE_INTERNALS_READY
      static py::module_::module_def definition;
      auto m = py::module_::create_extension_module("ulp._core", nullptr, &definition);
      fill(m);
      made = m.release().ptr();
    }
    PYBIND11_CATCH_INIT_EXCEPTIONS
  }
  Py_INCREF(made);
  return made;
}

}  // namespace

}  // namespace ulp::bindings

// In place of PYBIND11_MODULE, whose function has Python's state prepared before it can be asked which interpreter this is, which in a
// sub-interpreter never ends. In two phases, so that `create` runs in each interpreter.
extern "C" PYBIND11_EXPORT PyObject* PyInit__core() {
  static PyModuleDef_Slot slots[] = {{Py_mod_create, reinterpret_cast<void*>(ulp::bindings::create)}, {0, nullptr}};
  static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "ulp._core", nullptr, 0, nullptr, slots, nullptr, nullptr, nullptr};
  return PyModuleDef_Init(&definition);
}
