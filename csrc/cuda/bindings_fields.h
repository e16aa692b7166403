// Fields of a network's steps by name, as ulp/_gpu/steps.py gives them. A plan of the CPU has accepted them before, so here only what could
// reach foreign memory is checked again: tensors, channels, devices.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "bindings_classes.h"
#include "cuda/network.h"

namespace ulp::bindings {

namespace py = pybind11;
using ulp::cuda::Constants;
using ulp::cuda::FinishFields;
using ulp::cuda::NetTensor;
using ulp::cuda::Network;
using ulp::cuda::Place;
using ulp::cuda::Weights;
using ulp::cuda::Window2D;
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
  std::vector<Place> places(const char* name, size_t fewest = 1) const {
    std::vector<Place> all;
    for (const auto& item : given_[name]) all.push_back(place_of(item));
    if (all.size() < fewest || all.size() > 4)
      throw py::value_error(std::string(name) + ": expected " + std::to_string(fewest) + "..4 places");
    return all;
  }
  // Where `count` floats lie, in elements from a tensor's first.
  std::optional<Place> maybe_floats(const char* name, int64_t count) const {
    if (given_[name].is_none()) return std::nullopt;
    const Pair pair = get<Pair>(name);
    const NetTensor& t = network_.tensors()[static_cast<size_t>(checked({pair[0], 0}).tensor)];
    if (t.is_codes || pair[1] < 0 || pair[1] > t.pixels() * t.pixel() - count) {
      throw py::value_error(std::string(name) + ": there are not " + std::to_string(count) + " floats from element " +
                            std::to_string(pair[1]) + " on");
    }
    return Place{pair[0], pair[1]};
  }
  const NetTensor& shape(int tensor) const { return network_.tensors()[static_cast<size_t>(tensor)]; }
  Fields part(const char* name) const { return Fields(network_, get<py::dict>(name)); }
  Window2D window() const {
    return {get<Pair>("kernel"), get<Pair>("stride"), get<Pair>("dilation"), get<std::array<int, 4>>("padding"), get<Pair>("out")};
  }
  FinishFields finish() const {
    const Fields f = part("finish");
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

// A method of Network that adds a step of these fields.
template <typename Made>
auto adder(Made (*made)(const Fields&)) {
  return [made](Network& n, const py::kwargs& given) { n.add(made(Fields(n, given))); };
}

}  // namespace ulp::bindings
