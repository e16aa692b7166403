// The part of _core that holds plans (plan/plan.h): numpy <-> vectors, no arithmetic. The contract is ulp/_core.pyi.
#include "plan_bindings.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <string>
#include <vector>

#include "plan/plan.h"
#include "plan/steps.h"

namespace py = pybind11;

namespace {

using ulp::PackedMatrix;
using ulp::Plan;
using ulp::Slice;

std::string type_name(const py::handle& x) { return Py_TYPE(x.ptr())->tp_name; }

std::string shape_text(const py::array& x) { return std::string(py::str(x.attr("shape"))); }

// Arguments come as objects, so that what is wrong with one can be said in words.

int int_of(const py::handle& x, const std::string& name) {
  if (!PyIndex_Check(x.ptr()) || PyBool_Check(x.ptr())) throw py::type_error(name + ": expected an integer, got " + type_name(x));
  const auto number = py::reinterpret_steal<py::object>(PyNumber_Index(x.ptr()));
  if (!number) throw py::error_already_set();
  int overflow = 0;
  const int64_t value = PyLong_AsLongLongAndOverflow(number.ptr(), &overflow);
  if (overflow || value < INT32_MIN || value > INT32_MAX) {
    throw py::value_error(name + " = " + std::string(py::str(number)) + " is outside the range of int32");
  }
  return static_cast<int>(value);
}

py::sequence sequence_of(const py::handle& x, const std::string& name, const char* of) {
  if (!PySequence_Check(x.ptr()) || PyUnicode_Check(x.ptr())) {
    throw py::type_error(name + ": expected a sequence of " + of + ", got " + type_name(x));
  }
  return py::reinterpret_borrow<py::sequence>(x);
}

template <size_t n>
struct Ints {
  int values[n];

  Ints(const py::handle& x, const std::string& name) {
    const py::sequence from = sequence_of(x, name, "integers");
    if (from.size() != n) {
      throw py::value_error(name + " has " + std::to_string(from.size()) + " elements, expected " + std::to_string(n));
    }
    for (size_t i = 0; i < n; ++i) values[i] = int_of(py::object(from[i]), name);
  }
};

Slice slice_of(const py::handle& x, const std::string& name) {
  const Ints<2> pair(x, name);
  return {pair.values[0], pair.values[1]};
}

// A numpy array of exactly this dtype and so many dimensions.
py::array array_of(const py::handle& x, const py::dtype& dtype, int dimensions, const std::string& name) {
  if (!py::isinstance<py::array>(x)) {
    throw py::type_error(name + ": expected a numpy array of " + std::string(py::str(dtype)) + ", got " + type_name(x));
  }
  const auto array = py::reinterpret_borrow<py::array>(x);
  if (!array.dtype().equal(dtype)) {
    throw py::type_error(name + " has dtype " + std::string(py::str(array.dtype())) + ", expected " + std::string(py::str(dtype)));
  }
  if (array.ndim() != dimensions) {
    throw py::value_error(name + " has shape " + shape_text(array) + ", expected " + std::to_string(dimensions) + " dimensions");
  }
  return py::array::ensure(array, py::array::c_style | py::detail::npy_api::NPY_ARRAY_ALIGNED_);
}

template <class T>
std::vector<T> vector_of(const py::handle& x, int dimensions, const std::string& name) {
  const py::array array = array_of(x, py::dtype::of<T>(), dimensions, name);
  const T* data = static_cast<const T*>(array.data());
  return std::vector<T>(data, data + array.size());
}

std::vector<bool> flags_of(const py::handle& x, const std::string& name) {
  const py::array array = array_of(x, py::dtype::of<bool>(), 1, name);
  const auto* data = static_cast<const uint8_t*>(array.data());  // numpy's bools are bytes
  return std::vector<bool>(data, data + array.size());
}

// Begin and end of windows.
std::vector<int32_t> windows_of(const py::handle& x, const std::string& name) {
  const std::vector<int32_t> edges = vector_of<int32_t>(x, 2, name);
  const auto array = py::reinterpret_borrow<py::array>(x);
  if (array.shape(1) != 2) throw py::value_error(name + " has shape " + shape_text(array) + ", expected (windows, 2)");
  return edges;
}

float float_of(const py::handle& x, const std::string& name) {
  const double value = PyFloat_AsDouble(x.ptr());
  if (value == -1.0 && PyErr_Occurred()) {
    PyErr_Clear();
    throw py::type_error(name + ": expected a float, got " + type_name(x));
  }
  return static_cast<float>(value);
}

bool flag_of(const py::handle& x, const char* name) {
  if (!PyBool_Check(x.ptr())) throw py::type_error(std::string(name) + ": expected a bool, got " + type_name(x));
  return x.ptr() == Py_True;
}

// A method's or kernel's name; empty for None.
std::string name_of(const py::handle& x, const char* name) {
  if (x.is_none()) return "";
  if (!PyUnicode_Check(x.ptr())) throw py::type_error(std::string(name) + ": expected None or a name, got " + type_name(x));
  return py::str(x);
}

ulp::Thresholds thresholds_of(const py::handle& x) {
  const std::string name = "finish['thresholds']";
  ulp::Thresholds t;
  if (x.is_none()) return t;
  const py::sequence pair = sequence_of(x, name, "values and flips, or None");
  if (pair.size() != 2) throw py::value_error(name + ": each of the thresholds is None or (values, flip)");
  t.values = vector_of<int32_t>(py::object(pair[0]), 2, name + " values");
  if (t.values.empty()) throw py::value_error(name + ": values are empty");
  for (const bool flip : flags_of(py::object(pair[1]), name + " flip")) t.flip.push_back(flip ? -1 : 0);
  return t;
}

ulp::FinishSpec finish_of(const py::handle& x) {
  if (!py::isinstance<py::dict>(x)) throw py::type_error("finish: expected a dict, got " + type_name(x));
  const auto d = py::reinterpret_steal<py::dict>(PyDict_Copy(x.ptr()));  // what converts a value may change the original
  if (!d) throw py::error_already_set();
  for (const char* key : {"residual", "low", "high", "targets", "thresholds"}) {
    if (!d.contains(key)) throw py::value_error("finish lacks '" + std::string(key) + "'");
  }
  ulp::FinishSpec f;
  for (const auto& item : d) {
    if (!PyUnicode_Check(item.first.ptr())) throw py::type_error("finish: keys are strings, got " + type_name(item.first));
    const std::string key = py::str(item.first);
    const std::string name = "finish['" + key + "']";
    if (key == "scale" || key == "bias") {
      if (!item.second.is_none()) (key == "scale" ? f.scale : f.bias) = vector_of<float>(item.second, 1, name);
    } else if (key == "start") {
      if (!item.second.is_none()) f.start = vector_of<int32_t>(item.second, 1, name);
    } else if (key == "unit") {
      f.unit = float_of(item.second, name);
    } else if (key == "low") {
      f.low = float_of(item.second, name);
    } else if (key == "high") {
      f.high = float_of(item.second, name);
    } else if (key == "residual") {
      if (item.second.is_none()) continue;
      f.residual = slice_of(item.second, name);
      if (f.residual.tensor < 0) throw py::value_error(name + ": there is no tensor " + std::to_string(f.residual.tensor));
    } else if (key == "targets") {
      const py::sequence targets = sequence_of(item.second, name, "(tensor, channel)");
      for (size_t i = 0; i < targets.size(); ++i) f.targets.push_back(slice_of(py::object(targets[i]), name));
    } else if (key == "thresholds") {
      const py::sequence all = sequence_of(item.second, name, "thresholds, one a target");
      for (size_t i = 0; i < all.size(); ++i) f.thresholds.push_back(thresholds_of(py::object(all[i])));
    } else {
      throw py::value_error("finish: unknown entry '" + key + "'");
    }
  }
  if (f.thresholds.size() != f.targets.size()) {
    throw py::value_error("finish['thresholds'] has " + std::to_string(f.thresholds.size()) + " entries, expected one for each of the " +
                          std::to_string(f.targets.size()) + " targets");
  }
  return f;
}

const PackedMatrix& weights_of(const py::handle& x) {
  if (!py::isinstance<PackedMatrix>(x)) throw py::type_error("weights: expected _core.Packed, got " + type_name(x));
  return x.cast<const PackedMatrix&>();
}

// A plan as Python holds it: with the weights that it points to, and what a call needs of its ports.
//
// A plan that grows is guarded by the GIL, a finalized one never changes; `busy` keeps other threads away while finalize works without it.
struct PlanHolder {
  Plan plan;
  std::vector<py::object> weights;
  bool busy = false;
  bool ready = false;
  py::object input_dtype;
  std::vector<py::object> output_dtypes;

  Plan& open() {
    if (busy) throw py::value_error("the plan is being finalized by another thread");
    return plan;
  }
  const Plan& open() const { return const_cast<PlanHolder*>(this)->open(); }

  // A method of the plan. No Python runs once its arguments are there, so nothing else happens in between.
  template <class Method, class... Args>
  decltype(auto) call(Method method, Args&&... args) {
    return (open().*method)(std::forward<Args>(args)...);
  }

  // A step that reads these weights.
  template <class Method, class... Args>
  void call_with(const py::object& packed, Method method, Args&&... args) {
    weights.reserve(weights.size() + 1);
    call(method, std::forward<Args>(args)...);
    weights.push_back(packed);
  }

  void finalize(int64_t group, bool throughput, bool tune) {
    open();
    busy = true;
    try {
      const py::gil_scoped_release release;
      plan.finalize(group, throughput, tune);
    } catch (...) {
      busy = false;
      throw;
    }
    busy = false;
    const auto dtype = [](const Plan::Port& port) -> py::object {
      return port.is_codes ? py::dtype::of<uint8_t>() : py::dtype::of<float>();
    };
    input_dtype = dtype(plan.input_port());
    for (const Plan::Port& port : plan.output_ports()) output_dtypes.push_back(dtype(port));
    ready = true;
  }
};

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

py::list run(const PlanHolder& h, const py::object& input, const py::object& outputs, int64_t* step_ns) {
  if (!h.ready) throw py::value_error("the plan is not finalized");
  if (!py::isinstance<py::array>(input)) throw py::type_error("x: expected a numpy array, got " + type_name(input));
  const auto x = py::reinterpret_borrow<py::array>(input);
  check_array(x, h.input_dtype, -1, h.plan.input_port().shape, "x");
  const auto& ports = h.plan.output_ports();
  const int64_t images = x.shape(0);
  py::list results;
  std::vector<void*> data;
  const bool given = !outputs.is_none();
  if (given && sequence_of(outputs, "outputs", "arrays").size() != ports.size()) {
    throw py::value_error("outputs has " + std::to_string(py::len(outputs)) + " arrays, expected " + std::to_string(ports.size()));
  }
  const auto share = [](const py::array& one, const py::array& other) {
    const auto* a = static_cast<const uint8_t*>(one.data());
    const auto* b = static_cast<const uint8_t*>(other.data());
    return a < b + other.nbytes() && b < a + one.nbytes();
  };
  for (size_t i = 0; i < ports.size(); ++i) {
    py::array result;
    if (given) {
      const py::object item = outputs[py::int_(i)];
      if (!py::isinstance<py::array>(item)) throw py::type_error("outputs: expected numpy arrays, got " + type_name(item));
      result = py::reinterpret_borrow<py::array>(item);
      check_array(result, h.output_dtypes[i], images, ports[i].shape, "outputs");
      if (!result.writeable()) throw py::value_error("outputs: an array is read-only");
      if (share(result, x)) throw py::value_error("outputs: an array shares memory with x, which is still read when it is written");
      for (const py::handle& other : results) {
        if (share(result, py::reinterpret_borrow<py::array>(other))) throw py::value_error("outputs: two arrays share memory");
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

  using Object = const py::object&;
  py::class_<PlanHolder>(m, "Plan")
      .def(py::init<>())
      .def(
          "codes",
          [](PlanHolder& h, Object height, Object width, Object channels, Object bits, Object zero, Object scale) {
            return h.call(&Plan::codes, int_of(height, "height"), int_of(width, "width"), int_of(channels, "channels"),
                          int_of(bits, "bits"), int_of(zero, "zero"), float_of(scale, "scale"));
          },
          py::arg("height"), py::arg("width"), py::arg("channels"), py::arg("bits"), py::arg("zero"), py::arg("scale"))
      .def(
          "floats",
          [](PlanHolder& h, Object height, Object width, Object channels) {
            return h.call(&Plan::floats, int_of(height, "height"), int_of(width, "width"), int_of(channels, "channels"));
          },
          py::arg("height"), py::arg("width"), py::arg("channels"))
      .def(
          "input_floats",
          [](PlanHolder& h, Object channels, Object height, Object width, Object targets, Object divide) {
            std::vector<int> ids;
            const py::sequence all = sequence_of(targets, "targets", "tensors");
            for (size_t i = 0; i < all.size(); ++i) ids.push_back(int_of(py::object(all[i]), "targets"));
            h.call(&Plan::input_floats, int_of(channels, "channels"), int_of(height, "height"), int_of(width, "width"), ids,
                   flag_of(divide, "divide"));
          },
          py::arg("channels"), py::arg("height"), py::arg("width"), py::arg("targets"), py::arg("divide") = false)
      .def(
          "input_codes",
          [](PlanHolder& h, Object tensor, Object nhwc) { h.call(&Plan::input_codes, int_of(tensor, "tensor"), flag_of(nhwc, "nhwc")); },
          py::arg("tensor"), py::arg("nhwc"))
      .def(
          "conv",
          [](PlanHolder& h, Object source, Object source_channel, Object weights, Object kernel, Object stride, Object padding,
             Object dilation, Object weight_zero, Object finish, Object method) {
            h.call_with(weights, &Plan::conv, Slice{int_of(source, "source"), int_of(source_channel, "source_channel")},
                        weights_of(weights), Ints<2>(kernel, "kernel").values, Ints<2>(stride, "stride").values,
                        Ints<4>(padding, "padding").values, Ints<2>(dilation, "dilation").values, int_of(weight_zero, "weight_zero"),
                        finish_of(finish), name_of(method, "method"));
          },
          py::arg("source"), py::arg("source_channel"), py::arg("weights"), py::arg("kernel"), py::arg("stride"), py::arg("padding"),
          py::arg("dilation"), py::arg("weight_zero"), py::arg("finish"), py::arg("method"))
      .def(
          "depthwise",
          [](PlanHolder& h, Object source, Object weights, Object stride, Object padding, Object dilation, Object finish) {
            const py::array array = array_of(weights, py::dtype::of<int8_t>(), 3, "weights");
            const auto* data = static_cast<const int8_t*>(array.data());
            int kernel[2];
            for (int i = 0; i < 2; ++i) kernel[i] = static_cast<int>(std::min<py::ssize_t>(array.shape(i), INT32_MAX));
            h.call(&Plan::depthwise, int_of(source, "source"), std::vector<int8_t>(data, data + array.size()), kernel,
                   Ints<2>(stride, "stride").values, Ints<4>(padding, "padding").values, Ints<2>(dilation, "dilation").values,
                   finish_of(finish));
          },
          py::arg("source"), py::arg("weights"), py::arg("stride"), py::arg("padding"), py::arg("dilation"), py::arg("finish"))
      .def(
          "linear",
          [](PlanHolder& h, Object source, Object weights, Object weight_zero, Object finish, Object kernel) {
            h.call_with(weights, &Plan::linear, int_of(source, "source"), weights_of(weights), int_of(weight_zero, "weight_zero"),
                        finish_of(finish), name_of(kernel, "kernel"));
          },
          py::arg("source"), py::arg("weights"), py::arg("weight_zero"), py::arg("finish"), py::arg("kernel"))
      .def(
          "max_pool",
          [](PlanHolder& h, Object source, Object target, Object rows, Object columns, Object dilation, Object least) {
            h.call(&Plan::max_pool, int_of(source, "source"), slice_of(target, "target"), windows_of(rows, "rows"),
                   windows_of(columns, "columns"), Ints<2>(dilation, "dilation").values,
                   least.is_none() ? std::vector<bool>{} : flags_of(least, "least"));
          },
          py::arg("source"), py::arg("target"), py::arg("rows"), py::arg("columns"), py::arg("dilation"), py::arg("least") = py::none())
      .def(
          "window_mean",
          [](PlanHolder& h, Object source, Object rows, Object columns, Object divisor, Object finish) {
            h.call(&Plan::window_mean, int_of(source, "source"), windows_of(rows, "rows"), windows_of(columns, "columns"),
                   vector_of<float>(divisor, 2, "divisor"), finish_of(finish));
          },
          py::arg("source"), py::arg("rows"), py::arg("columns"), py::arg("divisor"), py::arg("finish"))
      .def(
          "rescale",
          [](PlanHolder& h, Object source, Object finish) { h.call(&Plan::rescale, int_of(source, "source"), finish_of(finish)); },
          py::arg("source"), py::arg("finish"))
      .def(
          "gather",
          [](PlanHolder& h, Object source, Object source_channel, Object channels, Object target, Object rows, Object columns) {
            h.call(&Plan::gather, Slice{int_of(source, "source"), int_of(source_channel, "source_channel")}, int_of(channels, "channels"),
                   slice_of(target, "target"), vector_of<int32_t>(rows, 1, "rows"), vector_of<int32_t>(columns, 1, "columns"));
          },
          py::arg("source"), py::arg("source_channel"), py::arg("channels"), py::arg("target"), py::arg("rows"), py::arg("columns"))
      .def(
          "output",
          [](PlanHolder& h, Object tensor, Object nhwc) { h.call(&Plan::output, int_of(tensor, "tensor"), flag_of(nhwc, "nhwc")); },
          py::arg("tensor"), py::arg("nhwc"))
      .def(
          "finalize",
          [](PlanHolder& h, Object group, Object throughput, Object tune) {
            h.finalize(int_of(group, "group"), flag_of(throughput, "throughput"), flag_of(tune, "tune"));
          },
          py::arg("group"), py::arg("throughput"), py::arg("tune") = py::bool_(false))
      .def(
          "run", [](const PlanHolder& h, Object x, Object outputs) { return run(h, x, outputs, nullptr); }, py::arg("x"),
          py::arg("outputs") = py::none())
      .def(
          "profile",
          [](const PlanHolder& h, Object x) {
            py::array_t<int64_t> ns(static_cast<py::ssize_t>(h.open().steps().size()));
            std::fill_n(ns.mutable_data(), ns.size(), 0);
            py::list results = run(h, x, py::none(), ns.mutable_data());
            return py::make_tuple(results, ns);
          },
          py::arg("x"))
      .def("steps",
           [](const PlanHolder& h) {
             py::list steps;
             for (const ulp::StepInfo& s : h.open().steps()) steps.append(step_of(h.plan, s));
             return steps;
           })
      .def_property_readonly("arena_bytes", [](const PlanHolder& h) { return h.open().arena_bytes(); })
      .def_property_readonly("weight_bytes", [](const PlanHolder& h) { return h.open().weight_bytes(); });
}
