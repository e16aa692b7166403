// One block of memory holds the buffers of all steps; those that are not in use at the same time share it.
#pragma once

#include "plan.h"

namespace ulp {

// Sets the addresses of all tensors, has the steps bind to them and finds a place for their scratch memory. Returns the bytes of the arena.
// Throws std::invalid_argument where it would be beyond any memory. May be repeated.
int64_t lay_out(std::vector<Tensor>& tensors, std::vector<PlannedStep>& steps, int64_t group);

// Fills what lies around the images, behind the last one, and behind the channels where pixels are padded, with the code of zero.
void fill_border(const Tensor& t, uint8_t* arena, int64_t images);

}  // namespace ulp
