// The class Network of the module: fields by name, as ulp/_gpu/steps.py gives them. A plan of the CPU has accepted them before, so here
// only what could reach foreign memory is checked again: tensors, channels, devices.
#include "cuda/bindings_network.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "bindings_classes.h"
#include "bindings_gil.h"
#include "cuda/conv_pick.h"
#include "cuda/network.h"

namespace py = pybind11;

namespace ulp::bindings {
namespace {

using namespace ulp::cuda;
using Pair = std::array<int, 2>;

template <typename T>
std::vector<T> values_of(const py::object& x) {
  if (x.is_none()) return {};
  const auto array = py::array_t<T, py::array::c_style | py::array::forcecast>::ensure(x);
  if (!array) throw py::error_already_set();
  return {array.data(), array.data() + array.size()};
}

// Fields of steps, checked against the network's tensors.
class Fields {
 public:
  Fields(const Network& network, const py::dict& given) : network_(network), given_(given) {}

  template <typename T>
  T get(const char* name) const {
    return given_[name].cast<T>();
  }
  template <typename T>
  Constants<T> constants(const char* name) const {
    const std::vector<T> values = given_.contains(name) ? values_of<T>(given_[name]) : std::vector<T>();
    return values.empty() ? Constants<T>() : Constants<T>(network_.device(), values);
  }
  int tensor(const char* name) const { return checked({get<int>(name), 0}).tensor; }
  Place place(const char* name) const { return place_of(given_[name]); }
  std::optional<Place> maybe_place(const char* name) const {
    if (given_[name].is_none()) return std::nullopt;
    return place(name);
  }
  std::vector<Place> places(const char* name) const {
    std::vector<Place> all;
    for (const auto& item : given_[name]) all.push_back(place_of(item));
    if (all.empty() || all.size() > 4) throw py::value_error(std::string(name) + ": expected 1..4 places");
    return all;
  }
  Window2D window() const {
    return {get<Pair>("kernel"), get<Pair>("stride"), get<Pair>("dilation"), get<std::array<int, 4>>("padding"), get<Pair>("out")};
  }
  FinishFields finish() const {
    const Fields f(network_, get<py::dict>("finish"));
    FinishFields made;
    made.scale = f.constants<float>("scale");
    made.bias = f.constants<float>("bias");
    made.start = f.constants<int>("start");
    made.unit = f.get<float>("unit");
    made.low = f.get<float>("low");
    made.high = f.get<float>("high");
    made.residual = f.maybe_place("residual");
    for (const auto& item : f.get<py::list>("targets")) {
      const Fields t(network_, item.cast<py::dict>());
      FinishFields::Target target;
      target.place = t.place("place");
      target.thresholds = t.constants<int>("thresholds");
      target.flip = t.constants<int>("flip");
      target.table = t.constants<unsigned char>("table");
      target.other = t.maybe_place("other");
      target.after_bits = t.get<int>("after_bits");
      target.after_zero = t.get<int>("after_zero");
      target.after_scale = t.get<float>("after_scale");
      made.targets.push_back(std::move(target));
    }
    if (made.targets.empty() || made.targets.size() > 4) throw py::value_error("targets: expected 1..4");
    return made;
  }
  std::shared_ptr<const Weights> weights(const char* name) const {
    const py::object object = given_[name];
    if (object.is_none()) return nullptr;
    const Weights& w = object.cast<const Weights&>();
    if (w.data.device() != network_.device()) throw py::value_error("weights on another device than the network");
    return {&w, [object](const Weights*) {}};  // made and freed under the GIL
  }

 private:
  Place place_of(const py::handle& x) const {
    const Pair pair = x.cast<Pair>();
    return checked({pair[0], pair[1]});
  }
  Place checked(Place p) const {
    const auto& tensors = network_.tensors();
    if (p.tensor < 0 || p.tensor >= static_cast<int>(tensors.size())) {
      throw py::value_error("tensor " + std::to_string(p.tensor) + " of " + std::to_string(tensors.size()) + " does not exist");
    }
    if (p.channel < 0 || p.channel >= tensors[static_cast<size_t>(p.tensor)].channels) {
      throw py::value_error("channel " + std::to_string(p.channel) + " is none of tensor " + std::to_string(p.tensor));
    }
    return p;
  }

  const Network& network_;
  py::dict given_;
};

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

// A method of Network that adds a step of these fields.
template <typename Made>
auto adder(Made (*made)(const Fields&)) {
  return [made](Network& n, const py::kwargs& given) { n.add(made(Fields(n, given))); };
}

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

py::list methods(const Network& n, int64_t images) {
  py::list all;
  for (const auto& step : n.steps()) all.append(step->method(images));
  return all;
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
      .def("methods", methods, py::arg("images"))
      .def_property_readonly("arena_bytes", &Network::arena_bytes)
      .def_property_readonly("device", &Network::device);
  m.def("conv_kernels", conv_kernel_names);
  m.def(
      "planes_pay", [](int a_bits, int b_bits, int device) { return planes_pay(a_bits, b_bits, machine_of(device)); }, py::kw_only(),
      py::arg("a_bits"), py::arg("b_bits"), py::arg("device"));
}

}  // namespace ulp::bindings
