#include "row_product.h"

#include "matrix_rows.h"
#include "threads.h"

namespace ulp {
namespace {

Problem problem_of(const PackedMatrix& weights, const int32_t& b_zero, int a_bits) {
  Problem p;
  p.a_encoding = {a_bits, false};
  p.b = &weights;
  p.b_zero = &b_zero;
  return p;
}

const Kernel& kernel_for(const PackedMatrix& w, int a_bits, int64_t rows) {
  return select_kernel({rows, w.layout.n, w.layout.k, {a_bits, false}, w.encoding, w.excess}, nullptr);
}

}  // namespace

RowProduct::RowProduct(const PackedMatrix& weights, const int32_t& b_zero, int a_bits, int64_t rows)
    : problem_(problem_of(weights, b_zero, a_bits)),
      kernel_(&kernel_for(weights, a_bits, rows)),
      loop_(problem_, *kernel_),
      stride_(round_up(weights.layout.n, kUnitCols)),
      column_terms_(static_cast<size_t>(stride_)),
      direct_(!loop_.kernel().expand && !loop_.kernel().find_excess && loop_.k_blocks() == 1) {
  for (int64_t n0 = 0; n0 < weights.layout.n; n0 += kPanelCols) {
    const int64_t cols = std::min<int64_t>(kPanelCols, weights.layout.n - n0);
    make_col_terms(problem_, loop_.zero_points(), loop_.kernel(), {n0, cols, static_cast<int>(ceil_div(cols, kUnitCols))},
                   column_terms_.data() + n0);
  }
}

void RowProduct::run(const uint8_t* codes, int64_t row_stride, int64_t rows, int32_t* sums) const {
  const BitpackedLayout& layout = problem_.b->layout;
  Problem p = problem_;
  p.a = {codes, rows, layout.k, row_stride, 1, false};
  const bool few = rows <= kernel_->mr && (rows * layout.n * layout.k < kParallelMacs || num_threads() == 1);
  if (!direct_ || !few) return gemm(p, *kernel_, PlainSink(sums, stride_));
  thread_local Scratch scratch;
  MatrixRows a(p.a, p.a_encoding, loop_, rows, scratch);
  a.pack({0, rows});
  const Rows packed = a.rows({0, rows});
  const KernelAtBits& kernel = loop_.kernel();
  Tile t{};
  t.a = packed.data;
  t.a_stride = packed.stride;
  t.rows = static_cast<int>(rows);
  t.k = layout.k;
  t.spill_every = kernel.spill_every;
  t.table = kernel.table;
  t.step_bias = kernel.step_bias;
  t.ldc = stride_;
  t.row = packed.terms;
  t.shift = loop_.zero_points().shift;
  for (int64_t panel = 0; panel < layout.panels(); ++panel) {
    const int64_t n0 = panel * kPanelCols;
    t.units = static_cast<int>(ceil_div(std::min<int64_t>(kPanelCols, layout.n - n0), kUnitCols));
    t.b = problem_.b->data.data() + layout.unit_offset(panel, 0, 0);
    t.c = sums + n0;
    t.col = column_terms_.data() + n0;
    kernel.run(t);
  }
}

}  // namespace ulp
