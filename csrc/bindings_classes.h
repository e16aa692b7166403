// Classes whose objects always hold their C++ object. Others can be made by __new__ alone, and pybind11 then hands out memory that nobody
// has filled.
#pragma once

#include <pybind11/pybind11.h>

namespace ulp::bindings {

inline PyObject* refuse_new(PyTypeObject* type, PyObject*, PyObject*) {
  PyErr_Format(PyExc_TypeError, "%s: cannot be made from Python", type->tp_name);
  return nullptr;
}

// The second call of __init__, by the class itself, does nothing.
template <class T>
PyObject* new_with_init(PyTypeObject* type, PyObject* args, PyObject* keywords) {
  namespace py = pybind11;
  try {
    auto self = py::reinterpret_steal<py::object>(py::detail::make_new_instance(type));
    const py::object none = py::type::of<T>().attr("__init__")(self, *py::reinterpret_borrow<py::args>(args),
                                                               **(keywords ? py::reinterpret_borrow<py::kwargs>(keywords) : py::kwargs()));
    return self.release().ptr();
  } catch (py::error_already_set& error) {
    error.restore();
    return nullptr;
  }
}

inline void set_new(pybind11::handle cls, newfunc make) {
  auto* type = reinterpret_cast<PyTypeObject*>(cls.ptr());
  type->tp_new = make;
  PyType_Modified(type);
}

// Of a class without an __init__.
template <class T, class... Options>
void made_in_core_only(pybind11::class_<T, Options...>& cls) {
  set_new(cls, refuse_new);
}

template <class T, class... Options>
void made_by_init(pybind11::class_<T, Options...>& cls) {
  set_new(cls, new_with_init<T>);
}

}  // namespace ulp::bindings
