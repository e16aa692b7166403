#include "bindings_plan_fields.h"

#include <algorithm>

namespace ulp::bindings {
namespace {

// A numpy array of exactly this dtype and so many dimensions, in C order.
py::array array_of(const py::handle& x, const py::dtype& dtype, int dimensions, const std::string& name) {
  if (!py::isinstance<py::array>(x))
    throw py::type_error(name + ": expected a numpy array of " + std::string(py::str(dtype)) + ", got " + type_name(x));
  const auto array = py::reinterpret_borrow<py::array>(x);
  if (!array.dtype().equal(dtype))
    throw py::type_error(name + " has dtype " + std::string(py::str(array.dtype())) + ", expected " + std::string(py::str(dtype)));
  if (array.ndim() != dimensions)
    throw py::value_error(name + " has shape " + shape_of(array) + ", expected " + std::to_string(dimensions) + " dimensions");
  return py::array::ensure(array, py::array::c_style | py::detail::npy_api::NPY_ARRAY_ALIGNED_);
}

// read(x, name, field): one function per type of field.

void read(const py::handle& x, const std::string& name, int& field) { field = int_of(x, name); }
void read(const py::handle& x, const std::string& name, bool& field) { field = flag_of(x, name); }
void read(const py::handle& x, const std::string& name, float& field) { field = float_of(x, name); }

void read(const py::handle& x, const std::string& name, std::string& field) {
  field.clear();
  if (x.is_none()) return;
  if (!PyUnicode_Check(x.ptr())) throw py::type_error(name + ": expected None or a name, got " + type_name(x));
  field = py::str(x);
}

template <size_t n>
void read(const py::handle& x, const std::string& name, std::array<int, n>& field) {
  const py::sequence from = sequence_of(x, name, "integers");
  if (from.size() != n) throw py::value_error(name + " has " + std::to_string(from.size()) + " elements, expected " + std::to_string(n));
  for (size_t i = 0; i < n; ++i) field[i] = int_of(py::object(from[i]), name);
}

void read(const py::handle& x, const std::string& name, ulp::Slice& field) {
  std::array<int, 2> pair;
  read(x, name, pair);
  field = {pair[0], pair[1]};
}

template <class T, int dimensions>
void read(const py::handle& x, const std::string& name, ulp::Array<T, dimensions>& field) {
  const py::array array = array_of(x, py::dtype::of<T>(), dimensions, name);
  std::copy_n(array.shape(), dimensions, field.shape.begin());
  using Stored = typename decltype(field.values)::value_type;
  static_assert(sizeof(Stored) == sizeof(T));
  const auto* data = static_cast<const Stored*>(array.data());
  field.values.assign(data, data + array.size());
}

void read(const py::handle& x, const std::string& name, ulp::Thresholds& field) {
  const py::sequence pair = sequence_of(x, name, "values and flips, or None");
  if (pair.size() != 2) throw py::value_error(name + ": each of the thresholds is None or (values, flip)");
  read(py::object(pair[0]), name + " values", field.values);
  read(py::object(pair[1]), name + " flip", field.flip);
}

// A dict of a struct's fields.
template <class T>
void read_dict(const py::handle& x, const std::string& name, T& field) {
  if (!py::isinstance<py::dict>(x)) throw py::type_error(name + ": expected a dict, got " + type_name(x));
  const auto copy = py::reinterpret_steal<py::dict>(PyDict_Copy(x.ptr()));  // code that converts a value may change the original
  if (!copy) throw py::error_already_set();
  read_fields(copy, field.fields(), name, "['", "']");
}

void read(const py::handle& x, const std::string& name, ulp::AfterSpec& field) { read_dict(x, name, field); }

template <class T>
void read(const py::handle& x, const std::string& name, std::optional<T>& field) {
  if (x.is_none()) {
    field.reset();
  } else {
    read(x, name, field.emplace());
  }
}

template <class T>
void read(const py::handle& x, const std::string& name, std::vector<T>& field) {
  const py::sequence from = sequence_of(x, name, "items");
  field.clear();
  for (size_t i = 0; i < from.size(); ++i) {
    T item{};
    read(py::object(from[i]), name, item);
    field.push_back(std::move(item));
  }
}

// The Python object lives as long as the field. Plans are made and freed under the GIL.
void read(const py::handle& x, const std::string& name, ulp::Weights& field) {
  if (!py::isinstance<ulp::PackedMatrix>(x)) throw py::type_error(name + ": expected _core.Packed, got " + type_name(x));
  const auto object = py::reinterpret_borrow<py::object>(x);
  field = ulp::Weights(&x.cast<const ulp::PackedMatrix&>(), [object](const ulp::PackedMatrix*) {});
}

void read(const py::handle& x, const std::string& name, ulp::FinishSpec& field) { read_dict(x, name, field); }

}  // namespace

std::string type_name(const py::handle& x) { return Py_TYPE(x.ptr())->tp_name; }

int int_of(const py::handle& x, const std::string& name) {
  if (!PyIndex_Check(x.ptr()) || PyBool_Check(x.ptr())) throw py::type_error(name + ": expected an integer, got " + type_name(x));
  const auto number = py::reinterpret_steal<py::object>(PyNumber_Index(x.ptr()));
  if (!number) throw py::error_already_set();
  int overflow = 0;
  const int64_t value = PyLong_AsLongLongAndOverflow(number.ptr(), &overflow);
  if (overflow || value < INT32_MIN || value > INT32_MAX)
    throw py::value_error(name + " = " + std::string(py::str(number)) + " is outside the range of int32");
  return static_cast<int>(value);
}

float float_of(const py::handle& x, const std::string& name) {
  const double value = PyFloat_AsDouble(x.ptr());
  if (value == -1.0 && PyErr_Occurred()) {
    PyErr_Clear();
    throw py::type_error(name + ": expected a float, got " + type_name(x));
  }
  return static_cast<float>(value);
}

bool flag_of(const py::handle& x, const std::string& name) {
  if (!PyBool_Check(x.ptr())) throw py::type_error(name + ": expected a bool, got " + type_name(x));
  return x.ptr() == Py_True;
}

py::sequence sequence_of(const py::handle& x, const std::string& name, const char* of) {
  if (!PySequence_Check(x.ptr()) || PyUnicode_Check(x.ptr()))
    throw py::type_error(name + ": expected a sequence of " + of + ", got " + type_name(x));
  return py::reinterpret_borrow<py::sequence>(x);
}

void read_fields(const py::dict& given, const ulp::FieldList& fields, const std::string& owner, const char* before, const char* behind) {
  for (const auto& item : given) {
    if (!PyUnicode_Check(item.first.ptr())) throw py::type_error(owner + ": keys are strings, got " + type_name(item.first));
    const std::string key = py::str(item.first);
    if (std::none_of(fields.begin(), fields.end(), [&key](const ulp::Field& f) { return key == f.name; }))
      throw py::value_error(owner + ": unknown field '" + key + "'");
  }
  for (const ulp::Field& field : fields) {
    const py::str key(field.name);
    if (!given.contains(key)) {
      if (field.optional) continue;
      throw py::value_error(owner + " lacks '" + field.name + "'");
    }
    const py::object value = given[key];
    if (field.optional && value.is_none()) continue;
    const std::string name = owner + before + field.name + behind;
    std::visit([&](auto* target) { read(value, name, *target); }, field.target);
  }
}

}  // namespace ulp::bindings
