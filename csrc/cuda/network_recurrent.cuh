// LSTM and GRU (plan/steps/recurrent.cpp, which has the formulas): a block for each sequence, which takes all steps of it. The products
// with the input's codes are made before, for all steps at once.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/network_codes.cuh"

namespace ulp::cuda {

constexpr int kMaxRecurrentThreads = 512;

// Weights less their zero point are bytes + base: K / 4 x N words of four bytes. columns: sums of the bytes.
struct WordMatrix {
  const int* words = nullptr;
  const int* columns = nullptr;
  int n = 0;
  int base = 0;
};

// What a block works with; of each image so many bytes.
struct RecurrentMemory {
  float* state;   // units
  float* cell;    // units
  float* update;  // units
  float* reset;   // units
  int* codes;     // units / 4 rounded up, of bytes less 128
  float* ranges;  // two per warp
  int64_t image;  // bytes
};

struct RecurrentWork {
  bool is_lstm;
  bool has_candidate;
  bool reverse;
  bool divide;
  int units;
  int words;  // of a row of codes
  int input_columns;
  const int* input_sums;      // time x columns per image
  const float* input_scales;  // per pixel, or null: of codes
  const int* input_zeros;
  float input_unit;
  int input_zero;
  const int* input_column_sums;
  const float* input_scale;
  WordMatrix hidden;
  WordMatrix candidate;
  const float* scale;
  const float* bias;
  const float* hidden_bias;  // or null
  int hidden_bits;
  float hidden_scale;  // 0: of each step
  int hidden_zero;
  ScaleLimit limit;
  const float* first_hidden;  // or null
  int64_t first_hidden_image;
  const float* first_cell;
  int64_t first_cell_image;
  Lengths lengths;
  int target_count;
  Elements targets[kMaxResults];
  float* final_hidden;  // or null
  int64_t final_hidden_image;
  float* final_cell;
  int64_t final_cell_image;
  RecurrentMemory memory;
  int* status;
};

// One sequence in one block.
class Sequence {
 public:
  __device__ Sequence(const RecurrentWork& work, int64_t image)
      : w_(work), image_(image), thread_(static_cast<int>(threadIdx.x)), threads_(static_cast<int>(blockDim.x)) {
    state_ = of_image(w_.memory.state);
    cell_ = of_image(w_.memory.cell);
    update_ = of_image(w_.memory.update);
    reset_ = of_image(w_.memory.reset);
    codes_ = of_image(w_.memory.codes);
    ranges_ = of_image(w_.memory.ranges);
  }

  __device__ void run() {
    const int length = w_.lengths[image_];
    if (thread_ == 0 && !w_.lengths.is_length(image_)) w_.status[1] = 1;
    for (int j = thread_; j < w_.units; j += threads_) {
      state_[j] = first(w_.first_hidden, w_.first_hidden_image, j);
      cell_[j] = first(w_.first_cell, w_.first_cell_image, j);
    }
    for (int step = 0; step < length; ++step) take(w_.reverse ? length - 1 - step : step);
    for (int j = thread_; j < w_.units; j += threads_) {
      for (int time = length; time < w_.lengths.time; ++time) put(time, j, 0);
      if (w_.final_hidden != nullptr) w_.final_hidden[image_ * w_.final_hidden_image + j] = state_[j];
      if (w_.final_cell != nullptr) w_.final_cell[image_ * w_.final_cell_image + j] = cell_[j];
    }
  }

 private:
  template <typename T>
  __device__ T* of_image(T* first) const {
    return reinterpret_cast<T*>(reinterpret_cast<unsigned char*>(first) + image_ * w_.memory.image);
  }

  __device__ float first(const float* values, int64_t image, int j) const {
    if (values == nullptr) return 0;
    const float v = values[image_ * image + j];
    if (!is_finite(v)) w_.status[0] = 1;
    return v;
  }

  __device__ void put(int time, int j, float v) const {
    for (int i = 0; i < w_.target_count; ++i) w_.targets[i].store(image_ * w_.lengths.time + time, j, v, w_.divide);
  }

  // One step, at a pixel. Each thread takes whole units, whose states no other one reads.
  __device__ void take(int time) {
    encode(state_);
    for (int j = thread_; j < w_.units; j += threads_) {
      if (w_.is_lstm) {
        const LstmState s = lstm_step(gate(time, 0, j), gate(time, 1, j), gate(time, 2, j), gate(time, 3, j), {cell_[j]});
        cell_[j] = s.cell.v;
        state_[j] = s.hidden.v;
      } else if (w_.has_candidate) {
        reset_[j] = (sigmoid16(gate(time, 0, j)) * Vector16{state_[j]}).v;
        update_[j] = sigmoid16(gate(time, 1, j)).v;
      } else {
        const Vector16 r = sigmoid16(gate(time, 0, j));
        const Vector16 z = sigmoid16(gate(time, 1, j));
        Vector16 h = hidden_value(w_.hidden, 2 * w_.units + j, 2 * w_.units + j);
        if (w_.hidden_bias != nullptr) h = h + Vector16{w_.hidden_bias[j]};
        state_[j] = between(z, tanh16(r.fma(h, input_value(time, 2, j))), {state_[j]}).v;
      }
    }
    if (w_.has_candidate) {
      encode(reset_);
      for (int j = thread_; j < w_.units; j += threads_) {
        const Vector16 n = tanh16(input_value(time, 2, j) + hidden_value(w_.candidate, j, 2 * w_.units + j));
        state_[j] = between({update_[j]}, n, {state_[j]}).v;
      }
    }
    for (int j = thread_; j < w_.units; j += threads_) put(time, j, state_[j]);
  }

  __device__ Vector16 input_value(int time, int g, int j) const {
    const int column = g * w_.units + j;
    const int64_t pixel = image_ * w_.lengths.time + time;
    const float unit = w_.input_scales != nullptr ? w_.input_scales[pixel] : w_.input_unit;
    const int zero = w_.input_scales != nullptr ? w_.input_zeros[pixel] : w_.input_zero;
    const uint32_t shift = static_cast<uint32_t>(zero) * static_cast<uint32_t>(w_.input_column_sums[column]);
    const int sum = static_cast<int>(static_cast<uint32_t>(w_.input_sums[pixel * w_.input_columns + column]) - shift);
    const float value = __fmul_rn(__int2float_rn(sum), __fmul_rn(w_.input_scale[column], unit));
    return {__fadd_rn(value, w_.bias[column])};
  }

  // The sum over the units is of (byte + 128 - zero) (weight + base): of the words' bytes, and what both add.
  __device__ Vector16 hidden_value(const WordMatrix& m, int column, int scale) const {
    const int* word = m.words + column;
    int sum = 0;
    int total = 0;
    for (int k = 0; k < w_.words; ++k, word += m.n) {
      sum = __dp4a(codes_[k], *word, sum);
      if (m.base != 0) total = __dp4a(codes_[k], 0x01010101, total);
    }
    const int shift = 128 - zero_;
    sum += shift * m.columns[column] + m.base * (total + shift * w_.units);
    return {__fmul_rn(__int2float_rn(sum), __fmul_rn(w_.scale[scale], scale_))};
  }

  __device__ Vector16 gate(int time, int g, int j) const {
    const int column = g * w_.units + j;
    return input_value(time, g, j) + hidden_value(w_.hidden, column, column);
  }

  // Codes of `units` values, by a scale of their own or a known one. Before it and behind it all threads are at the same place.
  __device__ void encode(const float* h) {
    __syncthreads();
    scale_ = w_.hidden_scale;
    zero_ = w_.hidden_zero;
    if (w_.hidden_scale == 0) find_range(h);
    bool finite = is_finite(scale_) && w_.limit.allows(scale_);
    for (int k = thread_; k < w_.words; k += threads_) {
      unsigned word = 0;
      for (int i = 0; i < 4; ++i) {
        const int j = 4 * k + i;
        if (j >= w_.units) break;
        finite = finite && is_finite(h[j]);
        const float steps = w_.hidden_scale == 0 ? __fdiv_rn(h[j], scale_) : __fmul_rn(h[j], __fdiv_rn(1.0f, scale_));
        const unsigned code = static_cast<unsigned>(code_of_steps(steps, zero_, (1 << w_.hidden_bits) - 1));
        word |= (code ^ 128u) << (8 * i);
      }
      codes_[k] = static_cast<int>(word);
    }
    if (!finite) w_.status[0] = 1;
    __syncthreads();
  }

  __device__ void find_range(const float* h) {
    float least = 0;
    float largest = 0;
    for (int j = thread_; j < w_.units; j += threads_) {
      least = -h[j] > least ? -h[j] : least;
      largest = h[j] > largest ? h[j] : largest;
    }
    for (int half = 16; half > 0; half /= 2) {
      const float l = __shfl_xor_sync(0xFFFFFFFFu, least, half);
      const float g = __shfl_xor_sync(0xFFFFFFFFu, largest, half);
      least = l > least ? l : least;
      largest = g > largest ? g : largest;
    }
    if (thread_ % 32 == 0) {
      ranges_[thread_ / 16] = least;
      ranges_[thread_ / 16 + 1] = largest;
    }
    __syncthreads();
    for (int i = 0; i < threads_ / 32; ++i) {
      least = ranges_[2 * i] > least ? ranges_[2 * i] : least;
      largest = ranges_[2 * i + 1] > largest ? ranges_[2 * i + 1] : largest;
    }
    const RowQuantizer q = quantizer_of_range(-least, largest, w_.hidden_bits);
    scale_ = q.scale;
    zero_ = q.zero;
  }

  const RecurrentWork& w_;
  int64_t image_;
  int thread_;
  int threads_;
  float* state_;
  float* cell_;
  float* update_;
  float* reset_;
  int* codes_;
  float* ranges_;
  float scale_ = 1;
  int zero_ = 0;
};

// A grid of images, and whole warps.
__global__ void __launch_bounds__(kMaxRecurrentThreads) each_sequence(const __grid_constant__ RecurrentWork w) {
  Sequence(w, blockIdx.x).run();
}

}  // namespace ulp::cuda
