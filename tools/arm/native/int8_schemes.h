// Two int8 kernels written after the schemes that mobile frameworks use, as peers in the model of the cores: 8 x 8 tiles, both operands
// packed ahead of time, int32 results, no epilogue.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

struct Int8Scheme {
  const char* name;
  int depth;  // bytes of a row or column that lie together
  // a: m rows, b: n columns, both as pack_rows left them; c: (m, n). m and n are multiples of 8, k of 8.
  void (*multiply)(const uint8_t* a, const uint8_t* b, int m, int n, int k, int32_t* c);
};

// nullptr for any other name, and for "sdot" where the compiler was not asked for the dot product.
const Int8Scheme* find_scheme(const std::string& name);

// `count` rows of k bytes in panels of 8: for each group of `depth` k, the group of row 0, of row 1, ...
std::vector<uint8_t> pack_rows(const uint8_t* from, int count, int k, int row_stride, int k_stride, int depth);
