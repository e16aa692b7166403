// The part of _core that holds plans (conv/plan.h): numpy <-> vectors, no arithmetic. The contract is ulp/_core.pyi.
#include "plan_bindings.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <array>
#include <memory>

#include "conv/plan.h"
#include "conv/steps.h"

namespace py = pybind11;

namespace {

using ulp::PackedMatrix;
using ulp::Plan;
using ulp::Slice;

using Pair = std::array<int, 2>;
using Sides = std::array<int, 4>;
template <class T>
using Dense = py::array_t<T, py::array::c_style | py::array::forcecast>;

template <size_t n>
struct Array {
  int values[n];
  explicit Array(const std::array<int, n>& from) { std::copy(from.begin(), from.end(), values); }
};

template <class T>
std::vector<T> to_vector(const Dense<T>& x) {
  return std::vector<T>(x.data(), x.data() + x.size());
}

Slice slice_of(const py::handle& x) {
  const auto pair = x.cast<Pair>();
  return {pair[0], pair[1]};
}

ulp::FinishSpec finish_of(const py::dict& d) {
  ulp::FinishSpec f;
  for (const auto& item : d) {
    const auto key = item.first.cast<std::string>();
    if (key == "scale") {
      if (!item.second.is_none()) f.scale = to_vector<float>(item.second.cast<Dense<float>>());
    } else if (key == "bias") {
      if (!item.second.is_none()) f.bias = to_vector<float>(item.second.cast<Dense<float>>());
    } else if (key == "low") {
      f.low = item.second.cast<float>();
    } else if (key == "high") {
      f.high = item.second.cast<float>();
    } else if (key == "residual") {
      if (!item.second.is_none()) f.residual = slice_of(item.second);
    } else if (key == "targets") {
      for (const py::handle& t : item.second.cast<py::sequence>()) f.targets.push_back(slice_of(t));
    } else if (key == "thresholds") {
      if (item.second.is_none()) continue;
      for (const py::handle& t : item.second.cast<py::sequence>()) {
        ulp::Thresholds thresholds;
        if (!t.is_none()) {
          const auto pair = t.cast<py::tuple>();
          if (pair.size() != 2) throw py::value_error("finish: each of the thresholds is None or (values, flip)");
          thresholds.values = to_vector<int32_t>(pair[0].cast<Dense<int32_t>>());
          for (const bool flip : to_vector<bool>(pair[1].cast<Dense<bool>>())) thresholds.flip.push_back(flip ? -1 : 0);
        }
        f.thresholds.push_back(std::move(thresholds));
      }
    } else {
      throw py::value_error("finish: unknown entry '" + key + "'");
    }
  }
  return f;
}

// A plan as Python holds it: with the weights that it points to, and what a call needs of its ports.
struct PlanHolder {
  Plan plan;
  py::list weights;
  py::object input_dtype;
  std::vector<py::object> output_dtypes;

  void finalize(int64_t group, bool throughput, bool tune) {
    {
      py::gil_scoped_release release;
      plan.finalize(group, throughput, tune);
    }
    const auto dtype = [](const Plan::Port& port) -> py::object {
      return port.is_codes ? py::dtype::of<uint8_t>() : py::dtype::of<float>();
    };
    input_dtype = dtype(plan.input_port());
    for (const Plan::Port& port : plan.output_ports()) output_dtypes.push_back(dtype(port));
  }
};

std::string shape_text(const py::array& x) { return std::string(py::str(x.attr("shape"))); }

// x must be a C-contiguous array of dtype and shape (images, *shape).
void check_array(const py::array& x, const py::object& dtype, int64_t images, const std::vector<int64_t>& shape, const char* name) {
  if (!x.dtype().is(dtype) && !x.dtype().equal(dtype)) {
    throw py::type_error(std::string(name) + " has dtype " + std::string(py::str(x.dtype())) + ", expected " + std::string(py::str(dtype)));
  }
  bool fits = x.ndim() == static_cast<py::ssize_t>(shape.size()) + 1 && (images < 0 || x.shape(0) == images);
  for (size_t i = 0; fits && i < shape.size(); ++i) fits = x.shape(static_cast<py::ssize_t>(i) + 1) == shape[i];
  if (!fits) {
    std::string expected = images < 0 ? "(N" : "(" + std::to_string(images);
    for (const int64_t s : shape) expected += ", " + std::to_string(s);
    throw py::value_error(std::string(name) + " has shape " + shape_text(x) + ", expected " + expected + ")");
  }
  if (!(x.flags() & py::array::c_style)) throw py::value_error(std::string(name) + " must be C-contiguous");
  if (reinterpret_cast<uintptr_t>(x.data()) % static_cast<size_t>(x.itemsize()))
    throw py::value_error(std::string(name) + " must be aligned");
}

py::list run(const PlanHolder& h, const py::array& x, const py::object& outputs, int64_t* step_ns) {
  if (!h.plan.finalized()) throw py::value_error("the plan is not finalized");
  check_array(x, h.input_dtype, -1, h.plan.input_port().shape, "x");
  const auto& ports = h.plan.output_ports();
  const int64_t images = x.shape(0);
  py::list results;
  std::vector<void*> data;
  const bool given = !outputs.is_none();
  if (given && py::len(outputs) != ports.size()) {
    throw py::value_error("outputs has " + std::to_string(py::len(outputs)) + " arrays, expected " + std::to_string(ports.size()));
  }
  for (size_t i = 0; i < ports.size(); ++i) {
    py::array result;
    if (given) {
      const py::object item = outputs[py::int_(i)];
      result = py::cast<py::array>(item);
      check_array(result, h.output_dtypes[i], images, ports[i].shape, "outputs");
      if (!result.writeable()) throw py::value_error("outputs: an array is read-only");
      const auto* begin = static_cast<const uint8_t*>(result.data());
      const auto* input = static_cast<const uint8_t*>(x.data());
      if (begin < input + x.nbytes() && input < begin + result.nbytes()) {
        throw py::value_error("outputs: an array shares memory with x, which is still read when it is written");
      }
    } else {
      std::vector<py::ssize_t> shape{images};
      shape.insert(shape.end(), ports[i].shape.begin(), ports[i].shape.end());
      result = py::array(py::reinterpret_borrow<py::dtype>(h.output_dtypes[i]), shape);
    }
    data.push_back(result.mutable_data());
    results.append(result);
  }
  const void* from = x.data();
  {
    py::gil_scoped_release release;
    h.plan.run({from, images}, data.data(), step_ns);
  }
  return results;
}

py::dict step_of(const Plan& plan, const ulp::StepInfo& s) {
  py::dict d;
  d["name"] = s.name;
  d["method"] = s.method;
  d["source"] = s.source;
  d["targets"] = s.targets;
  d["macs"] = s.macs;
  d["a_bits"] = s.a_bits;
  d["w_bits"] = s.w_bits;
  const int shown = s.targets.empty() ? s.source : s.targets[0];
  const ulp::Tensor& t = plan.tensors()[static_cast<size_t>(shown)];
  d["out_shape"] = py::make_tuple(t.height, t.width, t.channels);
  return d;
}

}  // namespace

void bind_plan(py::module_& m) {
  py::register_exception<ulp::NotFinite>(m, "NotFinite", PyExc_ValueError);
  py::register_exception<ulp::CodeOutOfRange>(m, "CodeOutOfRange", PyExc_ValueError);

  py::class_<PlanHolder>(m, "Plan")
      .def(py::init<>())
      .def(
          "codes",
          [](PlanHolder& h, int64_t height, int64_t width, int64_t channels, int bits, int zero, double scale) {
            return h.plan.codes(height, width, channels, bits, zero, scale);
          },
          py::arg("height"), py::arg("width"), py::arg("channels"), py::arg("bits"), py::arg("zero"), py::arg("scale"))
      .def(
          "floats", [](PlanHolder& h, int64_t height, int64_t width, int64_t channels) { return h.plan.floats(height, width, channels); },
          py::arg("height"), py::arg("width"), py::arg("channels"))
      .def(
          "input_floats",
          [](PlanHolder& h, int64_t channels, int64_t height, int64_t width, const std::vector<int>& targets) {
            h.plan.input_floats(channels, height, width, targets);
          },
          py::arg("channels"), py::arg("height"), py::arg("width"), py::arg("targets"))
      .def(
          "input_codes", [](PlanHolder& h, int tensor, bool nhwc) { h.plan.input_codes(tensor, nhwc); }, py::arg("tensor"), py::arg("nhwc"))
      .def(
          "conv",
          [](PlanHolder& h, int source, int source_channel, const py::object& weights, const Pair& kernel, const Pair& stride,
             const Sides& padding, const Pair& dilation, int weight_zero, const py::dict& finish,
             const std::optional<std::string>& method) {
            h.plan.conv({source, source_channel}, weights.cast<const PackedMatrix&>(), Array<2>(kernel).values, Array<2>(stride).values,
                        Array<4>(padding).values, Array<2>(dilation).values, weight_zero, finish_of(finish), method.value_or(""));
            h.weights.append(weights);
          },
          py::arg("source"), py::arg("source_channel"), py::arg("weights"), py::arg("kernel"), py::arg("stride"), py::arg("padding"),
          py::arg("dilation"), py::arg("weight_zero"), py::arg("finish"), py::arg("method").none(true))
      .def(
          "depthwise",
          [](PlanHolder& h, int source, const Dense<int8_t>& weights, const Pair& stride, const Sides& padding, const Pair& dilation,
             const py::dict& finish) {
            if (weights.ndim() != 3) throw py::value_error("depthwise: weights must have 3 dimensions, have shape " + shape_text(weights));
            const int kernel[2] = {static_cast<int>(weights.shape(0)), static_cast<int>(weights.shape(1))};
            h.plan.depthwise(source, to_vector<int8_t>(weights), kernel, Array<2>(stride).values, Array<4>(padding).values,
                             Array<2>(dilation).values, finish_of(finish));
          },
          py::arg("source"), py::arg("weights"), py::arg("stride"), py::arg("padding"), py::arg("dilation"), py::arg("finish"))
      .def(
          "linear",
          [](PlanHolder& h, int source, const py::object& weights, int weight_zero, const py::dict& finish,
             const std::optional<std::string>& kernel) {
            h.plan.linear(source, weights.cast<const PackedMatrix&>(), weight_zero, finish_of(finish), kernel.value_or(""));
            h.weights.append(weights);
          },
          py::arg("source"), py::arg("weights"), py::arg("weight_zero"), py::arg("finish"), py::arg("kernel").none(true))
      .def(
          "max_pool",
          [](PlanHolder& h, int source, const Pair& target, const Dense<int32_t>& rows, const Dense<int32_t>& columns,
             const Pair& dilation) {
            h.plan.max_pool(source, {target[0], target[1]}, to_vector<int32_t>(rows), to_vector<int32_t>(columns),
                            Array<2>(dilation).values);
          },
          py::arg("source"), py::arg("target"), py::arg("rows"), py::arg("columns"), py::arg("dilation"))
      .def(
          "window_mean",
          [](PlanHolder& h, int source, const Dense<int32_t>& rows, const Dense<int32_t>& columns, const Dense<float>& divisor,
             const py::dict& finish) {
            h.plan.window_mean(source, to_vector<int32_t>(rows), to_vector<int32_t>(columns), to_vector<float>(divisor), finish_of(finish));
          },
          py::arg("source"), py::arg("rows"), py::arg("columns"), py::arg("divisor"), py::arg("finish"))
      .def(
          "rescale", [](PlanHolder& h, int source, const py::dict& finish) { h.plan.rescale(source, finish_of(finish)); },
          py::arg("source"), py::arg("finish"))
      .def(
          "gather",
          [](PlanHolder& h, int source, int source_channel, int64_t channels, const Pair& target, const Dense<int32_t>& rows,
             const Dense<int32_t>& columns) {
            h.plan.gather({source, source_channel}, channels, {target[0], target[1]}, to_vector<int32_t>(rows),
                          to_vector<int32_t>(columns));
          },
          py::arg("source"), py::arg("source_channel"), py::arg("channels"), py::arg("target"), py::arg("rows"), py::arg("columns"))
      .def(
          "output", [](PlanHolder& h, int tensor, bool nhwc) { h.plan.output(tensor, nhwc); }, py::arg("tensor"), py::arg("nhwc"))
      .def("finalize", &PlanHolder::finalize, py::arg("group"), py::arg("throughput"), py::arg("tune") = false)
      .def(
          "run", [](const PlanHolder& h, const py::array& x, const py::object& outputs) { return run(h, x, outputs, nullptr); },
          py::arg("x"), py::arg("outputs") = py::none())
      .def(
          "profile",
          [](const PlanHolder& h, const py::array& x) {
            py::array_t<int64_t> ns(static_cast<py::ssize_t>(h.plan.steps().size()));
            std::fill_n(ns.mutable_data(), ns.size(), 0);
            py::list results = run(h, x, py::none(), ns.mutable_data());
            return py::make_tuple(results, ns);
          },
          py::arg("x"))
      .def("steps",
           [](const PlanHolder& h) {
             py::list steps;
             for (const ulp::StepInfo& s : h.plan.steps()) steps.append(step_of(h.plan, s));
             return steps;
           })
      .def_property_readonly("arena_bytes", [](const PlanHolder& h) { return h.plan.arena_bytes(); })
      .def_property_readonly("weight_bytes", [](const PlanHolder& h) { return h.plan.weight_bytes(); });
}
