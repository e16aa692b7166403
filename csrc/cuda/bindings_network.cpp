// The class Network of the module, and the steps that images have; those of sequences are in bindings_sequences.cpp.
#include "cuda/bindings_network.h"

#include "bindings_gil.h"
#include "cuda/bindings_fields.h"
#include "cuda/conv_pick.h"

namespace ulp::bindings {
namespace {

using namespace ulp::cuda;

int add_codes(Network& n, int height, int width, int channels, int bits, int zero, float scale) {
  return n.add({height, width, channels, true, bits, zero, scale});
}

int add_floats(Network& n, int height, int width, int channels) { return n.add({height, width, channels, false, 0, 0, 1.0f}); }

ConvFields conv_of(const Fields& f) {
  ConvFields c;
  c.source = f.place("source");
  c.weights = f.weights("weights");
  c.weight_zero = f.get<int>("weight_zero");
  c.planes = f.weights("planes");
  c.plane_zero = f.get<int>("plane_zero");
  c.window = f.window();
  c.finish = f.finish();
  c.kernel = f.get<std::string>("method");
  const int64_t taps = int64_t{c.window.kernel[0]} * c.window.kernel[1];
  if (c.weights == nullptr) throw py::value_error("weights: expected Weights");
  if (c.weights->encoding.bits != 4 && c.weights->encoding.bits != 8) throw py::value_error("weights of convolutions have 4 or 8 bits");
  if (taps < 1 || c.weights->k < 1 || c.weights->k % (4 * taps) != 0) {
    throw py::value_error("weights of K = " + std::to_string(c.weights->k) + " do not fit " + std::to_string(taps) + " taps");
  }
  return c;
}

DepthwiseFields depthwise_of(const Fields& f) { return {f.tensor("source"), f.constants<signed char>("weights"), f.window(), f.finish()}; }

MaxPoolFields max_pool_of(const Fields& f) {
  return {f.tensor("source"),          f.place("target"),       f.constants<int>("rows"),
          f.constants<int>("columns"), f.get<Pair>("dilation"), f.constants<unsigned char>("masks")};
}

MeanFields mean_of(const Fields& f) {
  return {f.tensor("source"), f.constants<int>("rows"), f.constants<int>("columns"), f.constants<float>("scales"),
          f.finish(),         f.get<Pair>("out")};
}

RescaleFields rescale_of(const Fields& f) { return {f.tensor("source"), f.get<float>("scale"), f.finish()}; }

MoveFields move_of(const Fields& f) {
  return {f.place("source"),  f.place("target"), f.constants<int>("rows"), f.constants<int>("columns"), f.constants<int>("channels"),
          f.get<int>("count")};
}

LookupFields lookup_of(const Fields& f) {
  return {f.tensor("source"), f.place("target"), f.constants<unsigned char>("codes"), f.constants<float>("values"),
          f.get<bool>("per_channel")};
}

LinearFloatsFields linear_floats_of(const Fields& f) {
  return {f.tensor("source"), f.place("target"), f.constants<float>("weights"), f.constants<float>("bias"),
          static_cast<int>(py::len(f.get<py::object>("bias")))};
}

CombineFields combine_of(const Fields& f) {
  return {f.places("operands"), f.places("targets"),  f.get<int>("channels"), f.get<bool>("multiply"),
          f.get<float>("low"),  f.get<float>("high"), f.get<bool>("divide")};
}

InputFields input_of(const Fields& f) {
  InputFields i{f.get<std::vector<int>>("targets"), f.get<int>("port"), f.get<bool>("codes"), f.get<bool>("divide"), f.get<bool>("nhwc")};
  if (i.targets.empty() || i.targets.size() > 4) throw py::value_error("targets: expected 1..4");
  return i;
}

OutputFields output_of(const Fields& f) { return {f.tensor("tensor"), f.get<int>("port"), f.get<bool>("nhwc")}; }

template <typename T>
std::vector<T> pointers(const std::vector<uintptr_t>& addresses) {
  std::vector<T> all;
  for (const uintptr_t address : addresses) {
    if (address == 0) throw py::value_error("an array is null");
    all.push_back(reinterpret_cast<T>(address));
  }
  return all;
}

void run(Network& n, int64_t images, const std::vector<uintptr_t>& inputs, const std::vector<uintptr_t>& outputs, uintptr_t stream) {
  size_t ins = 0, outs = 0;
  for (const auto& step : n.steps()) {
    ins += step->input >= 0;
    outs += step->output >= 0;
  }
  if (inputs.size() != ins || outputs.size() != outs) {
    throw py::value_error("expected " + std::to_string(ins) + " inputs and " + std::to_string(outs) + " outputs");
  }
  if (images < 0) throw py::value_error("images = " + std::to_string(images));
  const auto from = pointers<const void*>(inputs);
  const auto to = pointers<void*>(outputs);
  const WithoutGil release;
  n.run(images, from.data(), to.data(), reinterpret_cast<Stream>(stream));
}

}  // namespace

void bind_network(py::module_& m) {
  py::class_<Network> network(m, "Network", py::module_local());
  made_by_init(network);
  network.def(py::init<int>(), py::arg("device"))
      .def("codes", add_codes, py::kw_only(), py::arg("height"), py::arg("width"), py::arg("channels"), py::arg("bits"), py::arg("zero"),
           py::arg("scale"))
      .def("floats", add_floats, py::kw_only(), py::arg("height"), py::arg("width"), py::arg("channels"))
      .def("conv", adder(conv_of))
      .def("depthwise", adder(depthwise_of))
      .def("max_pool", adder(max_pool_of))
      .def("window_mean", adder(mean_of))
      .def("rescale", adder(rescale_of))
      .def("move", adder(move_of))
      .def("lookup", adder(lookup_of))
      .def("linear_floats", adder(linear_floats_of))
      .def("combine", adder(combine_of))
      .def("input", adder(input_of))
      .def("output", adder(output_of))
      .def("finalize", &Network::finalize)
      .def("run", run, py::kw_only(), py::arg("images"), py::arg("inputs"), py::arg("outputs"), py::arg("stream"))
      .def(
          "start_step",
          [](const Network& n, size_t step, int64_t images, uintptr_t stream) {
            n.start_step(step, images, reinterpret_cast<Stream>(stream));
          },
          py::arg("step"), py::arg("images"), py::arg("stream"))
      .def(
          "status", [](const Network& n, uintptr_t stream) { return n.status(reinterpret_cast<Stream>(stream)); }, py::arg("stream"))
      .def("methods", &Network::methods, py::arg("images"))
      .def_property_readonly("arena_bytes", &Network::arena_bytes)
      .def_property_readonly("device", &Network::device);
  bind_sequences(network);
  m.def("conv_kernels", conv_kernel_names);
  m.def(
      "planes_pay", [](int a_bits, int b_bits, int device) { return planes_pay(a_bits, b_bits, machine_of(device)); }, py::kw_only(),
      py::arg("a_bits"), py::arg("b_bits"), py::arg("device"));
}

}  // namespace ulp::bindings
