// The class Grouped of _core: weights in groups, and their products.
#include <pybind11/stl.h>

#include <optional>

#include "bindings.h"
#include "bindings_classes.h"
#include "bindings_gil.h"
#include "ops/grouped_floats.h"

namespace ulp::bindings {

namespace {

using FloatArray = py::array_t<float, py::array::c_style>;
using IntArray = py::array_t<int32_t, py::array::c_style>;

void check_shape(const py::array& x, std::initializer_list<int64_t> shape, const char* name) {
  bool fits = x.ndim() == static_cast<py::ssize_t>(shape.size());
  std::string expected;
  py::ssize_t i = 0;
  for (const int64_t side : shape) {
    fits = fits && x.shape(i) == side;
    expected += (i++ ? ", " : "") + std::to_string(side);
  }
  if (!fits) throw py::value_error(std::string(name) + " has shape " + shape_of(x) + ": expected (" + expected + (i == 1 ? ",)" : ")"));
}

std::unique_ptr<GroupedMatrix> make(const py::object& weights, int64_t k, int64_t group, const FloatArray& scales,
                                    const std::optional<FloatArray>& zeros, int32_t zero, const std::optional<IntArray>& table) {
  const PackedMatrix& packed = weights.cast<const PackedMatrix&>();
  if (k < 1 || group < 1) throw py::value_error("k and group must be 1 or more");
  const GroupedLayout layout{k, group};
  check_shape(scales, {layout.groups(), packed.layout.n}, "scales");
  if (zeros) check_shape(*zeros, {layout.groups(), packed.layout.n}, "zeros");
  if (table && table->ndim() != 1) throw py::value_error("table has shape " + shape_of(*table) + ": expected one dimension");
  // Held by the object that owns it, whose references only a thread with the lock counts.
  const std::shared_ptr<const PackedMatrix> held(&packed, [object = new py::object(weights)](const PackedMatrix*) {
    const py::gil_scoped_acquire lock;
    delete object;
  });
  return std::make_unique<GroupedMatrix>(make_grouped(layout, held, scales.data(), zeros ? zeros->data() : nullptr, zero,
                                                      table ? table->data() : nullptr, table ? table->size() : 0));
}

const float* bias_of(const GroupedMatrix& m, const std::optional<FloatArray>& bias) {
  if (!bias) return nullptr;
  check_shape(*bias, {m.n()}, "bias");
  return bias->data();
}

FloatArray product(const GroupedMatrix& m, const py::array_t<uint8_t, py::array::c_style>& a, int centre, const FloatArray& scales,
                   const std::optional<FloatArray>& bias) {
  if (a.ndim() != 2) throw py::value_error("a has shape " + shape_of(a) + ": expected two dimensions");
  const int64_t rows = a.shape(0);
  check_shape(a, {rows, m.layout.k}, "a");
  if (centre != 0 && centre != 128) throw py::value_error("centre = " + std::to_string(centre) + ": expected 0 or 128");
  GroupedProblem p;
  p.b = &m;
  p.a = a.data();
  p.rows = rows;
  p.a_stride = m.layout.k;
  p.centre = centre;
  p.a_scales = scales.data();
  const bool per_group = scales.ndim() == 2;
  if (per_group) {
    check_shape(scales, {rows, m.layout.groups()}, "scales");
    p.a_scale_row = m.layout.groups();
    p.a_scale_group = 1;
  } else {
    check_shape(scales, {rows}, "scales");
    p.a_scale_row = 1;
  }
  p.bias = bias_of(m, bias);
  FloatArray out({rows, m.n()});
  p.out = out.mutable_data();
  p.out_stride = m.n();
  const WithoutGil release;
  grouped(p);
  return out;
}

FloatArray linear(const GroupedMatrix& m, const FloatArray& x, const std::optional<FloatArray>& bias, bool per_group) {
  if (x.ndim() != 2) throw py::value_error("x has shape " + shape_of(x) + ": expected two dimensions");
  check_shape(x, {x.shape(0), m.layout.k}, "x");
  GroupedFloats p;
  p.b = &m;
  p.x = x.data();
  p.rows = x.shape(0);
  p.x_stride = m.layout.k;
  p.per_group = per_group;
  p.bias = bias_of(m, bias);
  FloatArray out({p.rows, m.n()});
  p.out = out.mutable_data();
  p.out_stride = m.n();
  bool finite;
  {
    const WithoutGil release;
    finite = grouped_floats(p, row_ops(current_isa()));
  }
  if (!finite) throw py::value_error("x holds a NaN or an infinity");
  return out;
}

}  // namespace

void bind_grouped(py::module_& m) {
  py::class_<GroupedMatrix> cls(m, "Grouped");
  made_by_init(cls);
  cls.def(py::init(&make), py::arg("weights"), py::kw_only(), py::arg("k"), py::arg("group"), py::arg("scales"),
          py::arg("zeros").none(true), py::arg("zero"), py::arg("table").none(true))
      .def_property_readonly("nbytes", &GroupedMatrix::nbytes)
      .def("product", &product, py::arg("a"), py::kw_only(), py::arg("centre"), py::arg("scales"), py::arg("bias").none(true))
      .def("linear", &linear, py::arg("x"), py::kw_only(), py::arg("bias").none(true), py::arg("per_group"));
  m.def("grouped_kernel", &grouped_kernel_name);
}

}  // namespace ulp::bindings
