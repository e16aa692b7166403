// Methods of the class Network that add the steps of sequences.
#include "cuda/bindings_fields.h"
#include "cuda/bindings_network.h"
#include "cuda/network_rows.h"
#include "ops/row_names.h"

namespace ulp::bindings {
namespace {

using namespace ulp::cuda;

RowFunction function_of(const Fields& f) {
  const std::string name = f.get<std::string>("function");
  if (const auto found = find_row_function(name)) return *found;
  throw py::value_error("no function is called '" + name + "'");
}

RowsFields rows_of(const Fields& f) {
  RowsFields r;
  r.operands = f.places("operands");
  r.channels = f.get<int>("channels");
  r.groups = f.get<int>("groups");
  r.function = function_of(f);
  r.gamma = f.constants<float>("gamma");
  r.beta = f.constants<float>("beta");
  r.epsilon = f.get<float>("epsilon");
  r.targets = f.places("targets");
  r.divide = f.get<bool>("divide");
  return r;
}

ProductFields product_of(const Fields& f) {
  return {f.place("a"),
          f.place("b"),
          f.place("target"),
          f.get<std::array<int, 4>>("sizes"),
          f.get<std::array<int, 9>>("steps"),
          f.get<float>("scale"),
          f.get<bool>("in_units")};
}

AttentionFields attention_of(const Fields& f) {
  return {f.place("q"),          f.place("k"),
          f.place("v"),          f.place("target"),
          f.maybe_place("mask"), f.get<std::array<int, 4>>("sizes"),
          f.get<int>("values"),  f.get<std::array<int, 12>>("steps"),
          f.get<float>("scale")};
}

RowProduct row_product_of(const Fields& f, int64_t channels) {
  RowProduct p{f.weights("weights"), f.get<int>("zero"), f.constants<int>("columns")};
  if (p.weights == nullptr) throw py::value_error("weights: expected Weights");
  if (p.weights->k != channels)
    throw py::value_error("weights of K = " + std::to_string(p.weights->k) + " do not fit " + std::to_string(channels) + " channels");
  return p;
}

DynamicLinearFields dynamic_linear_of(const Fields& f) {
  DynamicLinearFields d;
  d.source = f.tensor("source");
  d.product = row_product_of(f.part("product"), f.shape(d.source).channels);
  d.bits = f.get<int>("bits");
  d.per_row = f.get<bool>("per_row");
  d.scale = f.constants<float>("scale");
  d.bias = f.constants<float>("bias");
  d.largest_scale = f.get<float>("largest_scale");
  d.function = function_of(f);
  d.low = f.get<float>("low");
  d.high = f.get<float>("high");
  d.targets = f.places("targets");
  d.outlier_count = f.get<int>("outlier_count");
  d.outliers = f.constants<int>("outliers");
  d.zeroed = f.constants<unsigned char>("zeroed");
  d.outlier_weights = f.constants<float>("outlier_weights");
  d.kernel = f.get<std::string>("method");
  return d;
}

GroupedFields grouped_of(const Fields& f) {
  GroupedFields g;
  g.source = f.tensor("source");
  g.target = f.place("target");
  g.words = f.constants<int>("words");
  g.n = f.get<int>("n");
  g.k = f.shape(g.source).channels;
  g.group = f.get<int>("group");
  g.nibbles = f.get<bool>("nibbles");
  g.scales = f.constants<float>("scales");
  g.zeros = f.constants<float>("zeros");
  g.zero = f.get<int>("zero");
  g.table = f.constants<int>("table");
  g.bias = f.constants<float>("bias");
  g.per_group = f.get<bool>("per_group");
  g.centre = f.get<int>("centre");
  return g;
}

WordProduct word_product_of(const Fields& f) { return {f.constants<int>("words"), f.constants<int>("columns"), f.get<int>("base")}; }

RecurrentFields recurrent_of(const Fields& f) {
  RecurrentFields r;
  r.source = f.tensor("source");
  r.is_lstm = f.get<bool>("is_lstm");
  r.reverse = f.get<bool>("reverse");
  r.per_row = f.get<bool>("per_row");
  r.divide = f.get<bool>("divide");
  r.units = f.get<int>("units");
  r.input = row_product_of(f.part("input"), f.shape(r.source).channels);
  r.hidden = word_product_of(f.part("hidden_product"));
  r.has_candidate = f.get<bool>("has_candidate");
  if (r.has_candidate) r.candidate = word_product_of(f.part("candidate"));
  r.input_scale = f.constants<float>("input_scale");
  r.scale = f.constants<float>("scale");
  r.bias = f.constants<float>("bias");
  r.hidden_bias = f.constants<float>("hidden_bias");
  r.largest_input = f.get<float>("largest_input");
  r.largest_hidden = f.get<float>("largest_hidden");
  r.largest_bias = f.get<float>("largest_bias");
  r.input_bits = f.get<int>("input_bits");
  r.hidden_bits = f.get<int>("hidden_bits");
  r.hidden_scale = f.get<float>("hidden_scale");
  r.hidden_zero = f.get<int>("hidden_zero");
  r.first_hidden = f.maybe_floats("hidden", r.units);
  r.first_cell = f.maybe_floats("cell", r.units);
  r.lengths = f.maybe_floats("lengths", 1);
  r.targets = f.places("targets", 0);
  r.final_hidden = f.maybe_floats("final_hidden", r.units);
  r.final_cell = f.maybe_floats("final_cell", r.units);
  return r;
}

}  // namespace

void bind_sequences(py::class_<Network>& network) {
  network.def("rows", adder(rows_of))
      .def("product", adder(product_of))
      .def("attention", adder(attention_of))
      .def("dynamic_linear", adder(dynamic_linear_of))
      .def("grouped_linear", adder(grouped_of))
      .def("recurrent", adder(recurrent_of));
}

}  // namespace ulp::bindings
