// Kernels of steps on rows and of products of activations (plan/steps: rows, product, attention).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/row_lanes.cuh"

namespace ulp::cuda {

constexpr int kMaxRowOperands = 4;

// One of the matrices, or of the rows, that an image holds.
struct RowPlace {
  int64_t image;
  int64_t group;
  int64_t row;
};

// Elements of a tensor, or of scratch memory, by image, group and row: each is so many elements from the next.
struct RowSide {
  Elements e;  // with 1 as its `pixel`
  int64_t image = 0;
  int64_t group = 0;
  int64_t row = 0;
  float factor = 1;  // of the values

  __device__ int64_t at(const RowPlace& p) const { return p.image * image + p.group * group + p.row * row; }
  __device__ float value(int64_t first, int64_t c) const { return __fmul_rn(e.value(first + c, 0), factor); }
  // Clears `numbers` where a code is made of a NaN.
  __device__ void store(int64_t first, int64_t c, float v, bool divide, bool* numbers) const {
    *numbers = *numbers && (e.codes == nullptr || v == v);
    e.store(first + c, 0, v, divide);
  }
};

struct RowsWork {
  int64_t rows;    // of all images and groups, the groups of a row side by side
  Divisor groups;  // of a row
  Divisor image_rows;
  int channels;  // of a group
  int operand_count;
  RowSide operands[kMaxRowOperands];
  RowFunction function;
  const float* gamma;  // or null: 1
  const float* beta;   // or null: 0
  float epsilon;
  bool divide;
  int target_count;
  RowSide targets[kMaxResults];
  int* status;
};

// What becomes of the elements of one row and group. Sums are made anew in each pass, from what lies in the caches: no target is an
// operand, but for one row in place, whose elements the lanes that wrote them read.
class RowPass {
 public:
  // Loops are unrolled, which keeps both arrays in registers.
  __device__ RowPass(const RowsWork& work, const RowPlace& p) : w_(work) {
#pragma unroll
    for (int i = 0; i < kMaxRowOperands; ++i) from_[i] = w_.operands[i].at(p);
#pragma unroll
    for (int i = 0; i < kMaxResults; ++i) to_[i] = w_.targets[i].at(p);
  }

  __device__ float operator[](int c) const {
    float v = w_.operands[0].value(from_[0], c);
#pragma unroll
    for (int i = 1; i < kMaxRowOperands; ++i) {
      if (i < w_.operand_count) v = __fadd_rn(v, w_.operands[i].value(from_[i], c));
    }
    return v;
  }

  __device__ void store(int c, float v) {
#pragma unroll
    for (int i = 0; i < kMaxResults; ++i) {
      if (i < w_.target_count) w_.targets[i].store(to_[i], c, v, w_.divide, &numbers_);
    }
  }

  __device__ bool numbers() const { return numbers_; }

 private:
  const RowsWork& w_;
  int64_t from_[kMaxRowOperands];
  int64_t to_[kMaxResults];
  bool numbers_ = true;
};

// gamma and beta of a normalized element.
__device__ inline float scaled_row(const RowsWork& w, int c, float y) {
  if (w.gamma != nullptr && w.beta != nullptr) return __fmaf_rn(y, w.gamma[c], w.beta[c]);
  if (w.gamma != nullptr) return __fmul_rn(y, w.gamma[c]);
  return w.beta != nullptr ? __fadd_rn(y, w.beta[c]) : y;
}

// Each row has 16 threads. Those behind the last row compute it again and store nothing, as shuffles need all lanes of a warp.
__global__ void __launch_bounds__(kWorkThreads) each_row(const __grid_constant__ RowsWork w) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * (kWorkThreads / kRowLanes) + threadIdx.x / kRowLanes;
  const int lane = static_cast<int>(threadIdx.x) % kRowLanes;
  const bool stores = at < w.rows;
  const int row = static_cast<int>(stores ? at : w.rows - 1);
  const int whole = w.groups.quotient(row);
  const int image = w.image_rows.quotient(whole);
  RowPass x(w, {image, w.groups.remainder(row, whole), w.image_rows.remainder(whole, image)});
  float less = 0, factor = 1;
  if (w.function == RowFunction::softmax) {
    float top = -3.4028235e38f;
    for (int c = lane; c < w.channels; c += kRowLanes) {
      const float v = x[c];
      top = v > top ? v : top;
    }
    less = largest_of_lanes(top);
    float sum = 0;
    for (int c = lane; c < w.channels; c += kRowLanes) sum = __fadd_rn(sum, exp_of(__fsub_rn(x[c], less)));
    factor = __fdiv_rn(1.0f, sum_of_lanes(sum));
  } else if (w.function == RowFunction::layer_norm || w.function == RowFunction::rms_norm) {
    const float count = __int2float_rn(w.channels);
    const bool centred = w.function == RowFunction::layer_norm;
    if (centred) {
      float sum = 0;
      for (int c = lane; c < w.channels; c += kRowLanes) sum = __fadd_rn(sum, x[c]);
      less = __fdiv_rn(sum_of_lanes(sum), count);
    }
    float squares = 0;
    for (int c = lane; c < w.channels; c += kRowLanes) {
      const float d = centred ? __fsub_rn(x[c], less) : x[c];
      squares = __fmaf_rn(d, d, squares);
    }
    factor = __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(__fdiv_rn(sum_of_lanes(squares), count), w.epsilon)));
  }
  for (int c = lane; stores && c < w.channels; c += kRowLanes) {
    float v = x[c];
    switch (w.function) {
      case RowFunction::softmax:
        v = __fmul_rn(exp_of(__fsub_rn(v, less)), factor);
        break;
      case RowFunction::layer_norm:
        v = scaled_row(w, c, __fmul_rn(__fsub_rn(v, less), factor));
        break;
      case RowFunction::rms_norm:
        v = scaled_row(w, c, __fmul_rn(v, factor));
        break;
      default:
        v = element_function(w.function, v);
    }
    x.store(c, v);
  }
  if (!x.numbers()) w.status[0] = 1;
}

// An element of a product of activations: the sum over k, in its order, of fma(a, b); of two operands of codes that of integers.
struct ProductWork {
  int64_t count;  // images x batch x rows x columns
  Divisor columns;
  Divisor rows;
  Divisor batch;
  int depth;
  bool exact;
  RowSide a;       // group: of the batch
  RowSide b;       // row: 0
  int64_t a_step;  // elements from a k to the next
  int64_t b_step;
  int64_t b_column;
  RowSide target;  // its channels are the columns
  float scale;
  bool divide;
  int* status;

  __device__ void operator()(int at) const {
    const PixelChannel column(columns, at);
    const PixelChannel row(rows, column.pixel);
    const PixelChannel matrix(batch, row.pixel);
    const RowPlace place{matrix.pixel, matrix.channel, row.channel};
    const int64_t from_a = a.at(place);
    const int64_t from_b = b.at(place) + column.channel * b_column;
    float sum = 0;
    if (exact) {
      int whole = 0;
      for (int k = 0; k < depth; ++k) whole += (a.e.codes[from_a + k * a_step] - a.e.zero) * (b.e.codes[from_b + k * b_step] - b.e.zero);
      sum = __int2float_rn(whole);
    } else {
      for (int k = 0; k < depth; ++k) sum = __fmaf_rn(a.e.value(from_a + k * a_step, 0), b.e.value(from_b + k * b_step, 0), sum);
    }
    bool numbers = true;
    target.store(target.at(place), column.channel, __fmul_rn(sum, scale), divide, &numbers);
    if (!numbers) status[0] = 1;
  }
};

}  // namespace ulp::cuda
