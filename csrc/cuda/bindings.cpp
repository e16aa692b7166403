// PYBIND11_MODULE(_cuda): registers, checks numbers and pointers, releases the GIL. No CUDA types and no arithmetic. The contract is
// ulp/_cuda.pyi. ULP_CUDA_MODULE names the module, so that another build of the bindings (tools/cuda_emulator) can be loaded beside it.
#include "bindings.h"
#include "bindings_classes.h"
#include "bindings_gil.h"
#include "cuda/api.h"
#include "cuda/bindings_network.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>

#ifndef ULP_CUDA_MODULE
#define ULP_CUDA_MODULE _cuda
#endif

namespace py = pybind11;

namespace {

using ulp::Encoding;
using ulp::OutputKind;
using ulp::bindings::encoding_of;
using ulp::cuda::Activations;
using ulp::cuda::Choice;
using ulp::cuda::DeviceEpilogue;
using ulp::cuda::DeviceMemory;
using ulp::cuda::Stream;
using ulp::cuda::Weights;
using Address = uintptr_t;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

Address address_of(const void* pointer) { return reinterpret_cast<Address>(pointer); }

[[noreturn]] void refuse(const std::string& message) { throw py::value_error(message); }

int64_t side(int64_t value, const char* name) {
  if (value < 0 || value > ulp::cuda::kLargestSide) refuse(std::string(name) + " = " + std::to_string(value) + " is outside [0, 2^31 - 1]");
  return value;
}

// A pointer to `count` elements of `size` bytes: not null unless count is 0, and aligned.
void check_pointer(Address address, int64_t count, size_t size, const char* name) {
  if (count > 0 && address == 0) refuse(std::string(name) + " is null");
  if (address % size != 0)
    refuse(std::string(name) + " lies at " + std::to_string(address) + ", not a multiple of " + std::to_string(size));
}

void check_stride(int64_t stride, int64_t rows, int64_t columns, const char* name) {
  if (rows > 1 && (stride < columns || stride > INT64_MAX / rows)) {
    refuse(std::string(name) + " = " + std::to_string(stride) + " does not fit " + std::to_string(rows) + " rows of " +
           std::to_string(columns));
  }
}

void check_device(int device) {
  const size_t count = ulp::cuda::devices().size();
  if (device < 0 || static_cast<size_t>(device) >= count) {
    refuse("device " + std::to_string(device) + " of " + std::to_string(count) + " does not exist");
  }
}

const char* name_or_null(const std::optional<std::string>& kernel) { return kernel ? kernel->c_str() : nullptr; }

// ---------------------------------------------------------------------------------------------------------- devices and kernels

py::dict build_info() {
  py::dict facts;
  for (const auto& [name, value] : ulp::cuda::build_facts()) facts[py::str(name)] = value;
  std::string kernels;
  for (const std::string& name : ulp::cuda::kernel_names()) kernels += (kernels.empty() ? "" : ", ") + name;
  facts["kernels"] = kernels;
  return facts;
}

py::list devices() {
  py::list list;
  for (const ulp::cuda::Device& device : ulp::cuda::devices()) {
    py::dict row;
    row["name"] = device.name;
    row["arch"] = device.machine.arch;
    row["sms"] = device.machine.sms;
    row["memory"] = device.memory;
    list.append(row);
  }
  return list;
}

py::dict pick(int64_t m, int64_t n, int64_t k, int a_bits, bool a_signed, int b_bits, int arch, int sms, bool aligned,
              const std::optional<std::string>& kernel, bool b_signed, bool b_zero_point) {
  if (sms < 1) refuse("sms = " + std::to_string(sms) + ": expected at least 1");
  const ulp::Shape shape{side(m, "m"), side(n, "n"), side(k, "k"), encoding_of(a_bits, a_signed, "a_bits"),
                         encoding_of(b_bits, b_signed, "b_bits")};
  const Choice choice = ulp::cuda::pick({shape, aligned, b_zero_point}, {arch, sms}, name_or_null(kernel));
  py::dict result;
  result["kernel"] = choice.kernel;
  result["tile"] = py::tuple(py::cast(choice.tile));
  result["grid"] = py::tuple(py::cast(choice.grid));
  result["splits"] = choice.splits;
  result["shared_bytes"] = choice.shared_bytes;
  result["workspace_bytes"] = choice.workspace_bytes;
  result["clocks"] = choice.clocks;
  result["text"] = choice.text;
  return result;
}

// ------------------------------------------------------------------------------------------------------------------------ weights

std::unique_ptr<Weights> weights_from_host(const py::array& b, int bits, int device) {
  const ulp::MatrixView view = ulp::bindings::view_of(b, "b");
  side(view.rows, "k");
  side(view.cols, "n");
  const Encoding e = encoding_of(bits, view.is_signed, "bits");
  check_device(device);
  const ulp::bindings::WithoutGil release;
  // Checked in Python, and here again, as the kernels' results for other values are undefined.
  if (!ulp::in_range(view, e)) throw ulp::cuda::OutOfRange(-1);
  return std::make_unique<Weights>(ulp::cuda::pack_on_host(view, e, device));
}

std::unique_ptr<Weights> weights_from_device(Address pointer, int64_t k, int64_t n, int64_t stride_k, int64_t stride_n, bool is_signed,
                                             int bits, int device, Address stream) {
  const Encoding e = encoding_of(bits, is_signed, "bits");
  check_pointer(pointer, side(k, "k") * side(n, "n"), 1, "b");
  if (stride_k < 0 || stride_n < 0) refuse("strides must not be negative");
  check_device(device);
  const ulp::bindings::WithoutGil release;
  const ulp::MatrixView view{at<const uint8_t>(pointer), k, n, stride_k, stride_n, is_signed};
  return std::make_unique<Weights>(ulp::cuda::pack_on_device(view, e, device, at<void>(stream)));
}

py::array unpack(const Weights& w) {
  py::array out(w.encoding.is_signed ? py::dtype::of<int8_t>() : py::dtype::of<uint8_t>(), std::vector<py::ssize_t>{w.k, w.n});
  uint8_t* host = static_cast<uint8_t*>(out.mutable_data());
  const ulp::bindings::WithoutGil release;
  ulp::cuda::unpack(w, host);
  return out;
}

template <class T>
py::array_t<T> host_copy(const DeviceMemory& memory) {
  py::array_t<T> out(static_cast<py::ssize_t>(memory.size() / sizeof(T)));
  T* host = out.mutable_data();
  const ulp::bindings::WithoutGil release;
  ulp::cuda::download(host, memory.data(), memory.size(), memory.device(), nullptr);
  return out;
}

// --------------------------------------------------------------------------------------------------------------------------- gemm

Activations new_activations(Address pointer, int64_t m, int64_t row_stride, int bits, bool is_signed, int32_t zero) {
  return {at<const void>(pointer), side(m, "m"), row_stride, encoding_of(bits, is_signed, "bits"), zero};
}

// Pointer and stride of a for m rows of k bytes.
void check_activations(const Activations& a, int64_t k) {
  check_pointer(address_of(a.data), a.m * k, 1, "a");
  check_stride(a.row_stride, a.m, k, "row_stride");
}

int64_t find_out_of_range(const Activations& a, int64_t k, int device, Address stream) {
  check_activations(a, side(k, "k"));
  check_device(device);
  const ulp::bindings::WithoutGil release;
  return ulp::cuda::find_out_of_range(a, k, device, at<void>(stream));
}

int64_t workspace(const Activations& a, const Weights& w, bool b_zero_point, const std::optional<std::string>& kernel) {
  const ulp::cuda::Situation situation{{a.m, w.n, w.k, a.encoding, w.encoding}, ulp::cuda::is_aligned(a), b_zero_point};
  return ulp::cuda::pick(situation, ulp::cuda::machine_of(w.data.device()), name_or_null(kernel)).workspace_bytes;
}

OutputKind kind_of(const std::string& kind) {
  if (kind == "int32") return OutputKind::int32;
  if (kind == "float32") return OutputKind::float32;
  if (kind == "quantized") return OutputKind::quantized;
  refuse("kind = " + kind + ": expected int32, float32 or quantized");
}

DeviceEpilogue new_epilogue(const std::string& kind, float scale, Address scales, Address bias, Address float_bias, bool relu, int out_bits,
                            bool out_signed, int out_zero) {
  DeviceEpilogue e;
  e.kind = kind_of(kind);
  e.scale = scale;
  e.scales = at<const float>(scales);
  e.bias = at<const int32_t>(bias);
  e.float_bias = at<const float>(float_bias);
  e.relu = relu;
  for (const auto& [address, name] : {std::pair(scales, "scales"), {bias, "bias"}, {float_bias, "float_bias"}}) {
    check_pointer(address, 0, 4, name);
  }
  if (e.kind == OutputKind::int32 && (scales || bias || float_bias || relu)) refuse("int32 sums have no epilogue");
  if (e.kind != OutputKind::float32 && float_bias) refuse("a float bias goes with float32 output");
  if (e.kind == OutputKind::quantized) {
    const Encoding q = ulp::bindings::result_encoding(out_bits, out_signed, out_zero);
    e.qmin = q.min();
    e.qmax = q.max();
    e.zero = out_zero;
  }
  return e;
}

void gemm(const Activations& a, const Weights& w, const DeviceEpilogue& epilogue, int32_t b_zero, Address b_zeros, Address out,
          int64_t out_stride, Address workspace_at, int64_t workspace_bytes, Address stream, const std::optional<std::string>& kernel) {
  check_activations(a, w.k);
  check_pointer(b_zeros, 0, 4, "b_zeros");
  check_pointer(out, a.m * w.n, epilogue.kind == OutputKind::quantized ? 1 : 4, "out");
  check_stride(out_stride, a.m, w.n, "out_stride");
  if (workspace_bytes < 0) refuse("workspace_bytes = " + std::to_string(workspace_bytes));
  check_pointer(workspace_at, workspace_bytes, ulp::cuda::kAlignment, "workspace");
  const ulp::cuda::DeviceProblem problem{a, &w, b_zero, at<const int32_t>(b_zeros), epilogue, at<void>(out), out_stride};
  if (a.m == 0 || w.n == 0) return;
  const ulp::bindings::WithoutGil release;
  ulp::cuda::gemm(problem, name_or_null(kernel), at<void>(workspace_at), static_cast<size_t>(workspace_bytes), at<void>(stream));
}

// ----------------------------------------------------------------------------------------------------------- arrays from elsewhere

DeviceMemory new_buffer(int64_t size, int device) {
  if (size < 0) refuse("nbytes = " + std::to_string(size));
  check_device(device);
  const ulp::bindings::WithoutGil release;
  return DeviceMemory(device, static_cast<size_t>(size));
}

DeviceMemory buffer_from_numpy(const py::array& array, int device) {
  const auto contiguous = py::array::ensure(array, py::array::c_style);
  DeviceMemory memory = new_buffer(contiguous.nbytes(), device);
  const void* host = contiguous.data();
  const ulp::bindings::WithoutGil release;
  ulp::cuda::upload(memory.data(), host, memory.size(), device);
  return memory;
}

// Of C-contiguous device memory.
py::array to_numpy(Address pointer, const std::vector<py::ssize_t>& shape, const py::dtype& dtype, int device, Address stream) {
  py::array out(dtype, shape);
  const py::ssize_t size = out.nbytes();
  check_pointer(pointer, size, 1, "pointer");
  check_device(device);
  void* host = out.mutable_data();
  const ulp::bindings::WithoutGil release;
  if (size > 0) ulp::cuda::download(host, at<const void>(pointer), static_cast<size_t>(size), device, at<void>(stream));
  return out;
}

// The ABI of DLPack 0.x (dmlc/dlpack), which producers still return unless the consumer requests a later version.
namespace dlpack {
struct Tensor {
  void* data;
  int32_t device_type;
  int32_t device_id;
  int32_t ndim;
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
  int64_t* shape;
  int64_t* strides;  // elements; null: C-contiguous
  uint64_t byte_offset;
};
constexpr int32_t kCuda = 2;
constexpr int32_t kCudaManaged = 13;
}  // namespace dlpack

// The description of a capsule's array. The capsule owns the memory, so the caller must keep it.
py::dict describe_dlpack(const py::capsule& capsule) {
  if (capsule.name() == nullptr || std::string(capsule.name()) != "dltensor") throw py::type_error("not a DLPack capsule");
  const auto& tensor = *capsule.get_pointer<dlpack::Tensor>();
  if (tensor.device_type != dlpack::kCuda && tensor.device_type != dlpack::kCudaManaged) refuse("the array is not in a GPU's memory");
  if (tensor.ndim < 0 || tensor.lanes != 1) throw py::type_error("not an array of numbers");
  // numpy's letters for DLPack's codes: int, uint, float, opaque, bfloat, complex, bool.
  constexpr char kKinds[] = "iufVVcb";
  const char kind = tensor.code < sizeof(kKinds) - 1 ? kKinds[tensor.code] : 'V';
  std::vector<int64_t> shape(tensor.shape, tensor.shape + tensor.ndim);
  std::vector<int64_t> strides(static_cast<size_t>(tensor.ndim), 1);
  for (size_t i = shape.size(); i-- > 1;) strides[i - 1] = strides[i] * shape[i];
  if (tensor.strides != nullptr) strides.assign(tensor.strides, tensor.strides + tensor.ndim);
  py::dict d;
  d["pointer"] = address_of(tensor.data) + static_cast<Address>(tensor.byte_offset);
  d["shape"] = py::tuple(py::cast(shape));
  d["strides"] = py::tuple(py::cast(strides));
  d["typestr"] = std::string("|") + kind + std::to_string(tensor.bits / 8);
  d["device"] = tensor.device_id;
  return d;
}

}  // namespace

PYBIND11_MODULE(ULP_CUDA_MODULE, m) {
  using namespace ulp::bindings;
  m.doc() = "Matrix products on a GPU; see ulp/_cuda.pyi.";

  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<py::object> out_of_range;
  out_of_range.call_once_and_store_result(
      [&] { return py::object(py::exception<ulp::cuda::OutOfRange>(m, "OutOfRange", PyExc_ValueError)); });
  py::register_local_exception_translator([](std::exception_ptr error) {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const ulp::cuda::OutOfRange& e) {
      PyErr_SetObject(out_of_range.get_stored().ptr(), py::int_(e.index).ptr());
    } catch (const ulp::cuda::OutOfMemory& e) {
      PyErr_SetString(PyExc_MemoryError, e.what());
    }
  });

  py::class_<Weights> weights(m, "Weights", py::module_local());
  made_in_core_only(weights);
  weights.def_static("from_host", weights_from_host, py::arg("b"), py::arg("bits"), py::arg("device"))
      .def_static("from_device", weights_from_device, py::arg("pointer"), py::arg("k"), py::arg("n"), py::arg("stride_k"),
                  py::arg("stride_n"), py::arg("signed"), py::arg("bits"), py::arg("device"), py::arg("stream"))
      .def_readonly("k", &Weights::k)
      .def_readonly("n", &Weights::n)
      .def_property_readonly("bits", [](const Weights& w) { return w.encoding.bits; })
      .def_property_readonly("signed", [](const Weights& w) { return w.encoding.is_signed; })
      .def_property_readonly("device", [](const Weights& w) { return w.data.device(); })
      .def_property_readonly("nbytes", [](const Weights& w) { return w.data.size(); })
      .def("to_host", [](const Weights& w) { return host_copy<uint8_t>(w.data); })
      .def("sums", [](const Weights& w) { return host_copy<int32_t>(w.sums); })
      .def("unpack", unpack);

  py::class_<DeviceMemory> buffer(m, "Buffer", py::module_local());
  made_by_init(buffer);
  buffer.def(py::init(&new_buffer), py::arg("nbytes"), py::arg("device"))
      .def_static("from_numpy", buffer_from_numpy, py::arg("array"), py::arg("device"))
      .def_property_readonly("pointer", [](const DeviceMemory& b) { return address_of(b.data()); })
      .def_property_readonly("nbytes", &DeviceMemory::size)
      .def_property_readonly("device", &DeviceMemory::device);

  // By name only, as most fields are integers.
  py::class_<Activations> activations(m, "Activations", py::module_local());
  made_by_init(activations);
  activations.def(py::init(&new_activations), py::kw_only(), py::arg("pointer"), py::arg("m"), py::arg("row_stride"), py::arg("bits"),
                  py::arg("signed"), py::arg("zero") = 0);
  py::class_<DeviceEpilogue> epilogue(m, "Epilogue", py::module_local());
  made_by_init(epilogue);
  epilogue.def(py::init(&new_epilogue), py::kw_only(), py::arg("kind") = "int32", py::arg("scale") = 1.0f, py::arg("scales") = 0,
               py::arg("bias") = 0, py::arg("float_bias") = 0, py::arg("relu") = false, py::arg("out_bits") = 8,
               py::arg("out_signed") = false, py::arg("out_zero") = 0);

  bind_network(m);
  m.def("build_info", build_info);
  m.def("devices", devices);
  m.def("current_device", ulp::cuda::current_device);
  m.def("kernels", ulp::cuda::kernel_names);
  m.def("pick", pick, py::arg("m"), py::arg("n"), py::arg("k"), py::arg("a_bits"), py::arg("a_signed"), py::arg("b_bits"), py::arg("arch"),
        py::arg("sms"), py::arg("aligned"), py::arg("kernel").none(true) = py::none(), py::kw_only(), py::arg("b_signed") = true,
        py::arg("b_zero_point") = false);
  m.def("check", find_out_of_range, py::arg("a"), py::arg("k"), py::arg("device"), py::arg("stream"));
  m.def("workspace", workspace, py::arg("a"), py::arg("weights"), py::kw_only(), py::arg("b_zero_point") = false,
        py::arg("kernel").none(true) = py::none());
  m.def("gemm", gemm, py::arg("a"), py::arg("weights"), py::arg("epilogue"), py::kw_only(), py::arg("b_zero") = 0, py::arg("b_zeros") = 0,
        py::arg("out"), py::arg("out_stride"), py::arg("workspace") = 0, py::arg("workspace_bytes") = 0, py::arg("stream") = 0,
        py::arg("kernel").none(true) = py::none());
  m.def("to_numpy", to_numpy, py::arg("pointer"), py::arg("shape"), py::arg("dtype"), py::arg("device"), py::arg("stream"));
  m.def("dlpack", describe_dlpack, py::arg("capsule"));
}
