// Products of weights in groups: every group of `group` k of a column has a scale, and a zero point, of its own.
//
//     P[m][g][n] = sum over k in group g of a[m][k] * (w[k][n] - zero)              exact, int32
//     y[m][n]    = sum over g of  float(P[m][g][n] - A[m][g] * zeros[g][n]) * (scales[g][n] * a_scale[m][g])  + bias[n]
//
// with A[m][g] the sum of a over the group. w is a code u of 1 to 8 bits, or what a table of 16 entries makes of it (a codebook). Zero
// points are one integer for all, `zero`, or floats, `zeros`, integers or fractions.
//
// In float32, from left to right: the difference is rounded once, and not at all where zero points are integers, since a group has at most
// kMaxGroup k: |a| <= 128 and |w - zero| <= 255 keep it below 2^24. The two scales are multiplied, rounded. y starts at 0 and each group
// is added by one fused multiply-add, in the order of g; the bias is added last. The result is the same on every ISA and for every number
// of threads.
#pragma once

#include <memory>
#include <vector>

#include "../pack/packed_matrix.h"

namespace ulp {

inline constexpr int64_t kMaxGroup = 512;
inline constexpr int kMaxTable = 16;
static_assert(128 * 255 * kMaxGroup < 1 << 24, "float32 holds the sum of a group");
// Entries of a table of two bytes: a sum of a group fits int32.
inline constexpr int kMaxEntry = 32512;
static_assert(int64_t{128} * kMaxEntry * kMaxGroup <= INT64_C(2147483647), "the sum of a group");

// Groups as they lie in K: each begins at a multiple of 32, and the codes behind its end stand for nothing.
struct GroupedLayout {
  int64_t k = 0;      // of the matrix
  int64_t group = 0;  // k of a group; the last one may have fewer

  constexpr int64_t groups() const { return ceil_div(k, group); }
  constexpr int64_t padded_group() const { return round_up(group, kUnitK); }
  constexpr int64_t padded_k() const { return groups() * padded_group(); }
};

struct GroupedMatrix {
  GroupedLayout layout;
  std::shared_ptr<const PackedMatrix> codes;  // padded_k x N, unsigned
  int32_t zero = 0;
  // One panel of 32 columns behind the other, in each group by group: 32 values, in a narrow last panel 8 for each unit.
  AlignedBytes scales;
  AlignedBytes zeros;  // empty: there are none
  // Of the table's bytes, 16 each: entry = table[0], or table[0] * 256 + table[1]. planes 0: there is none.
  int planes = 0;
  int8_t table[2][kMaxTable] = {};

  int64_t n() const { return codes->layout.n; }
  int64_t nbytes() const { return static_cast<int64_t>(codes->data.size() + scales.size() + zeros.size()); }
};

// scales, zeros: groups x N, row by row; zeros may be nullptr. table: `entries` of them, one for each code, or nullptr; zero is then 0 and
// there are no zeros. Throws std::invalid_argument for what does not fit, says which and what does.
GroupedMatrix make_grouped(GroupedLayout layout, std::shared_ptr<const PackedMatrix> codes, const float* scales, const float* zeros,
                           int32_t zero, const int32_t* table, int64_t entries);

struct GroupedProblem {
  const GroupedMatrix* b = nullptr;
  // Rows of bytes, k side by side; a = byte - centre, centre 0 (of bytes below 128) or 128.
  const uint8_t* a = nullptr;
  int64_t rows = 0;
  int64_t a_stride = 0;
  int centre = 128;
  const float* a_scales = nullptr;  // of row m and group g at [m * a_scale_row + g * a_scale_group]
  int64_t a_scale_row = 0;
  int64_t a_scale_group = 0;
  const float* bias = nullptr;  // N, or nullptr
  float* out = nullptr;
  int64_t out_stride = 0;
};

// Name of the kernel that grouped() runs now.
const char* grouped_kernel_name();

void grouped(const GroupedProblem& problem);

}  // namespace ulp
