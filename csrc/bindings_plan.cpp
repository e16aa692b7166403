// The part of _core that holds plans (plan/plan.h). The contract is ulp/_core.pyi.
#include "bindings_plan.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings_classes.h"
#include "bindings_gil.h"
#include "bindings_plan_fields.h"
#include "plan/plan.h"

namespace ulp::bindings {

namespace {

// A plan as Python holds it: with what a call needs of its ports.
//
// A plan that grows is guarded by the GIL, a finalized one never changes; `busy` keeps other threads away while finalize works without it.
struct PlanHolder {
  Plan plan;
  bool busy = false;
  bool ready = false;
  std::vector<py::object> input_dtypes;
  std::vector<py::object> output_dtypes;

  Plan& open() {
    if (busy) throw py::value_error("the plan is being finalized by another thread");
    return plan;
  }
  const Plan& open() const { return const_cast<PlanHolder*>(this)->open(); }

  // No Python code runs once the fields are read, so the plan stays what it is while it is checked.
  void add(const StepKind& kind, const py::dict& given) {
    std::unique_ptr<ulp::Step> step = kind.make();
    read_fields(given, step->fields(), kind.name);
    open().add(kind, std::move(step));
  }

  // tuned: a callable, or None.
  void finalize(int64_t group, bool throughput, bool tune, const py::object& tuned) {
    open();
    busy = true;
    try {
      std::optional<WithoutGil> released;
      std::function<void()> report;
      if (!tuned.is_none()) {
        report = [&] {
          released.reset();
          tuned();
          released.emplace();
        };
      }
      released.emplace();
      plan.finalize(group, throughput, tune, report);
    } catch (...) {
      busy = false;
      throw;
    }
    busy = false;
    const auto dtype = [](const ulp::Port& port) -> py::object {
      return port.is_codes ? py::dtype::of<uint8_t>() : py::dtype::of<float>();
    };
    for (const ulp::Port& port : plan.input_ports()) input_dtypes.push_back(dtype(port));
    for (const ulp::Port& port : plan.output_ports()) output_dtypes.push_back(dtype(port));
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
    throw py::value_error(std::string(name) + " has shape " + shape_of(x) + ", expected " + expected + ")");
  }
  if (!(x.flags() & py::array::c_style)) throw py::value_error(std::string(name) + " must be C-contiguous");
  if (reinterpret_cast<uintptr_t>(x.data()) % static_cast<size_t>(x.itemsize()))
    throw py::value_error(std::string(name) + " must be aligned");
}

// The arrays of a call: of a plan with one input, x itself; of one with several, the items of x.
std::vector<py::array> inputs_of(const PlanHolder& h, const py::object& x) {
  const auto& ports = h.plan.input_ports();
  const bool one = ports.size() == 1;
  if (!one && sequence_of(x, "x", "arrays").size() != ports.size()) {
    throw py::value_error("x has " + std::to_string(py::len(x)) + " arrays, expected " + std::to_string(ports.size()));
  }
  std::vector<py::array> inputs;
  for (size_t i = 0; i < ports.size(); ++i) {
    const py::object item = one ? x : py::object(x[py::int_(i)]);
    if (!py::isinstance<py::array>(item)) throw py::type_error("x: expected a numpy array, got " + type_name(item));
    inputs.push_back(py::reinterpret_borrow<py::array>(item));
    check_array(inputs[i], h.input_dtypes[i], i == 0 ? -1 : static_cast<int64_t>(inputs[0].shape(0)), ports[i].shape, "x");
  }
  return inputs;
}

py::list run(const PlanHolder& h, const py::object& x, const py::object& outputs, int64_t* step_ns) {
  if (!h.ready) throw py::value_error("the plan is not finalized");
  const std::vector<py::array> inputs = inputs_of(h, x);
  const auto& ports = h.plan.output_ports();
  const int64_t images = inputs[0].shape(0);
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
      for (const py::array& input : inputs) {
        if (share(result, input)) throw py::value_error("outputs: an array shares memory with x, which is still read when it is written");
      }
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
  std::vector<const void*> from;
  for (const py::array& input : inputs) from.push_back(input.data());
  {
    const WithoutGil release;
    h.plan.run({from.data(), images}, data.data(), step_ns);
  }
  return results;
}

// A plan with the shapes in which a network takes its inputs and gives its outputs: calls of plain arrays, with as little as possible
// between Python and the plan.
class PlanCall {
 public:
  using Shapes = std::vector<std::vector<int64_t>>;

  PlanCall(py::object plan, Shapes inputs, Shapes outputs)
      : plan_(std::move(plan)), holder_(plan_.cast<PlanHolder*>()), inputs_(std::move(inputs)), outputs_(std::move(outputs)) {
    if (!holder_->ready) throw py::value_error("the plan is not finalized");
    check(inputs_, holder_->plan.input_ports(), "input_shapes");
    check(outputs_, holder_->plan.output_ports(), "output_shapes");
  }

  // None where an argument is no plain array of its input's dtype and shape, or arguments are missing: the general path says what is wrong.
  py::object call(const py::args& given) const {
    if (given.size() != inputs_.size()) return py::none();
    std::vector<const void*> from(inputs_.size());
    int64_t images = 0;
    for (size_t i = 0; i < inputs_.size(); ++i) {
      const auto* array = plain(PyTuple_GET_ITEM(given.ptr(), static_cast<py::ssize_t>(i)), holder_->input_dtypes[i], inputs_[i]);
      if (!array || array->dimensions[0] < 1 || (i > 0 && array->dimensions[0] != images)) return py::none();
      images = array->dimensions[0];
      from[i] = array->data;
    }
    py::list results(outputs_.size());
    std::vector<void*> data(outputs_.size());
    std::vector<py::ssize_t> shape;
    for (size_t i = 0; i < outputs_.size(); ++i) {
      shape.assign(1, images);
      shape.insert(shape.end(), outputs_[i].begin(), outputs_[i].end());
      py::array result(py::reinterpret_borrow<py::dtype>(holder_->output_dtypes[i]), shape);
      data[i] = result.mutable_data();
      PyList_SET_ITEM(results.ptr(), static_cast<py::ssize_t>(i), result.release().ptr());
    }
    const WithoutGil release;
    holder_->plan.run({from.data(), images}, data.data(), nullptr);
    return results;
  }

 private:
  static void check(const Shapes& shapes, const std::vector<ulp::Port>& ports, const char* name) {
    const auto elements = [](const std::vector<int64_t>& shape) {
      int64_t count = 1;
      for (const int64_t side : shape) count = side < 0 || side > (int64_t{1} << 40) / std::max<int64_t>(count, 1) ? -1 : count * side;
      return count;
    };
    bool fits = shapes.size() == ports.size();
    for (size_t i = 0; fits && i < ports.size(); ++i) fits = elements(shapes[i]) == elements(ports[i].shape);
    if (!fits) throw py::value_error(std::string(name) + " do not have the sizes of the plan's");
  }

  // As an array of numpy's own type, C-contiguous and aligned; nullptr where it is none.
  static const py::detail::PyArray_Proxy* plain(PyObject* x, const py::object& dtype, const std::vector<int64_t>& shape) {
    constexpr int kFlags = py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
    if (Py_TYPE(x) != py::detail::npy_api::get().PyArray_Type_) return nullptr;
    const auto* array = py::detail::array_proxy(x);
    const auto sides = static_cast<size_t>(array->nd);
    if (array->descr != dtype.ptr() || (array->flags & kFlags) != kFlags || sides != shape.size() + 1) return nullptr;
    return std::equal(shape.begin(), shape.end(), array->dimensions + 1) ? array : nullptr;
  }

  py::object plan_;  // keeps the holder
  const PlanHolder* holder_;
  Shapes inputs_, outputs_;
};

py::dict info_of(const Plan& plan, const ulp::PlannedStep& s) {
  const ulp::Effects& e = s.effects;
  const int source = e.reads.empty() ? -1 : e.reads[0];
  std::vector<int> targets;
  for (const ulp::Slice& target : e.writes) targets.push_back(target.tensor);
  const ulp::Tensor& shown = plan.tensors()[static_cast<size_t>(targets.empty() ? source : targets[0])];
  py::dict d;
  d["kind"] = s.kind->name;
  d["name"] = s.kind->shown;
  d["method"] = s.step->method();
  d["source"] = source;
  d["targets"] = targets;
  d["macs"] = e.macs;
  d["a_bits"] = e.a_bits;
  d["w_bits"] = e.w_bits;
  d["out_shape"] = py::make_tuple(shown.height, shown.width, shown.channels);
  return d;
}

// The names of the fields of each kind of step.
py::dict plan_steps() {
  py::dict kinds;
  for (const StepKind& kind : ulp::step_kinds()) {
    py::list names;
    for (const ulp::Field& field : kind.make()->fields()) names.append(field.name);
    kinds[kind.name] = py::tuple(names);
  }
  return kinds;
}

}  // namespace

void bind_plan(py::module_& m) {
  py::register_exception<ulp::NotFinite>(m, "NotFinite", PyExc_ValueError);
  py::register_exception<ulp::CodeOutOfRange>(m, "CodeOutOfRange", PyExc_ValueError);
  m.def("plan_steps", &plan_steps);

  using Object = const py::object&;
  py::class_<PlanHolder> plan(m, "Plan");
  made_by_init(plan);
  plan.def(py::init<>())
      .def(
          "codes",
          [](PlanHolder& h, Object height, Object width, Object channels, Object bits, Object zero, Object scale) {
            const int size[] = {int_of(height, "height"), int_of(width, "width"), int_of(channels, "channels")};
            const int b = int_of(bits, "bits"), z = int_of(zero, "zero");
            const float s = float_of(scale, "scale");
            return h.open().codes(size[0], size[1], size[2], b, z, s);
          },
          py::arg("height"), py::arg("width"), py::arg("channels"), py::arg("bits"), py::arg("zero"), py::arg("scale"))
      .def(
          "floats",
          [](PlanHolder& h, Object height, Object width, Object channels) {
            const int size[] = {int_of(height, "height"), int_of(width, "width"), int_of(channels, "channels")};
            return h.open().floats(size[0], size[1], size[2]);
          },
          py::arg("height"), py::arg("width"), py::arg("channels"))
      .def(
          "finalize",
          [](PlanHolder& h, Object group, Object throughput, Object tune, const py::object& tuned) {
            h.finalize(int_of(group, "group"), flag_of(throughput, "throughput"), flag_of(tune, "tune"), tuned);
          },
          py::arg("group"), py::arg("throughput"), py::arg("tune") = py::bool_(false), py::arg("tuned") = py::none())
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
             for (const ulp::PlannedStep& s : h.open().steps()) steps.append(info_of(h.plan, s));
             return steps;
           })
      .def_property_readonly("arena_bytes", [](const PlanHolder& h) { return h.open().arena_bytes(); })
      .def_property_readonly("weight_bytes", [](const PlanHolder& h) { return h.open().weight_bytes(); });
  py::class_<PlanCall> call(m, "PlanCall");
  made_by_init(call);
  call.def(py::init<py::object, PlanCall::Shapes, PlanCall::Shapes>(), py::arg("plan"), py::arg("input_shapes"), py::arg("output_shapes"))
      .def("__call__", &PlanCall::call);
  // One method per kind of step, whose arguments are its fields.
  for (const StepKind& kind : ulp::step_kinds()) {
    plan.def(kind.name, [&kind](PlanHolder& h, const py::kwargs& given) { h.add(kind, given); });
  }
}

}  // namespace ulp::bindings
