// The kinds of steps. A new one is a file beside this one, its `make_...` and a row here, and its contract in ulp/_core.pyi.
#include "../step.h"

namespace ulp {

using MakeStep = std::unique_ptr<Step>();
MakeStep make_input_floats, make_input_codes, make_conv, make_depthwise, make_linear, make_max_pool, make_window_mean, make_rescale,
    make_gather, make_rearrange, make_lookup, make_combine, make_rows, make_product, make_attention, make_dynamic_linear, make_recurrent,
    make_linear_floats, make_grouped_linear, make_output;

const std::vector<StepKind>& step_kinds() {
  // Never destroyed, as threads may still run plans while the process ends.
  static const auto& kinds = *new std::vector<StepKind>{
      {"input_floats", "input", make_input_floats},
      {"input_codes", "input", make_input_codes},
      {"conv", "conv", make_conv},
      {"depthwise", "depthwise", make_depthwise},
      {"linear", "linear", make_linear},
      {"max_pool", "max_pool", make_max_pool},
      {"window_mean", "window_mean", make_window_mean},
      {"rescale", "rescale", make_rescale},
      {"gather", "gather", make_gather},
      {"rearrange", "rearrange", make_rearrange},
      {"lookup", "lookup", make_lookup},
      {"combine", "combine", make_combine},
      {"rows", "rows", make_rows},
      {"product", "product", make_product},
      {"attention", "attention", make_attention},
      {"dynamic_linear", "dynamic_linear", make_dynamic_linear},
      {"recurrent", "recurrent", make_recurrent},
      {"linear_floats", "linear", make_linear_floats},
      {"grouped_linear", "grouped_linear", make_grouped_linear},
      {"output", "output", make_output},
  };
  return kinds;
}

}  // namespace ulp
