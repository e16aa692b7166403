#pragma once

#include <pybind11/pybind11.h>

#include "cuda/network.h"

namespace ulp::bindings {

void bind_network(pybind11::module_& m);
void bind_sequences(pybind11::class_<cuda::Network>& network);

}  // namespace ulp::bindings
