// What a kernel for grouped weights is to its driver (grouped.cpp): a tile of some rows by one panel, along some groups.
#pragma once

#include "../pack/bits.h"
#include "../pack/layout.h"
#include "isa.h"

namespace ulp {

// Of a row of A and a group.
struct RowGroup {
  int32_t start;  // what the sum begins with: -(zero + bias of the kernel's bytes) * sum of a
  float sum;      // of a
  float scale;
};

struct GroupTile {
  const uint8_t* a;  // signed bytes, in the layout's padded k
  int64_t a_stride;
  const RowGroup* row_groups;  // of row r and group g at [r * row_group_stride + g]
  int64_t row_group_stride;
  int rows;          // any number
  const uint8_t* b;  // panel, at the first group
  int units;         // of the panel
  int64_t groups;
  int64_t group_blocks;  // K-blocks of 32 in a group
  const float* scales;   // of the panel from the first group on: units * 8 per group; readable up to 8 values more
  const float* zeros;    // likewise, or nullptr
  const int8_t (*table)[16];
  float* c;  // rows x kPanelCols, added to
};

// A kernel sums a * (byte - bias): of codes the byte is the code, or the code less `code_bias`; of tables it is what the table holds.
struct GroupedKernel {
  const char* name;
  Isa isa;
  int (*byte_bias)(int bits, int planes);
  void (*(*bind)(int bits, int planes))(const GroupTile&);
};

}  // namespace ulp
