#pragma once

#include <cstdint>

#include "gemm/shape.h"

int64_t check_convolution(const ulp::Shape& shape, const char* kernel);
