// Products of codes that are made in the call: what the steps that have them share.
#pragma once

#include "cuda/network_codes.cuh"
#include "cuda/network_rows.h"
#include "cuda/network_start.h"

namespace ulp::cuda {

// Rows of codes of so many bits, `stride` bytes each.
struct CodeRows {
  const unsigned char* codes;
  int64_t rows;
  int64_t stride;
  int bits;
};

inline Situation situation_of(const RowProduct& p, const CodeRows& a) {
  Situation s;
  s.shape = {a.rows, p.weights->n, p.weights->k, {a.bits, false}, p.weights->encoding};
  s.aligned = a.stride % 16 == 0;
  s.b_zero_point = p.zero != 0;
  return s;
}

// sums: rows x N, of codes times weights less their zero point.
inline void start_product(const RowProduct& p, const CodeRows& a, const std::string& kernel, int* sums, const Run& run) {
  DeviceProblem q;
  q.a = {a.codes, a.rows, a.stride, {a.bits, false}, 0};
  q.b = p.weights.get();
  q.b_zero = p.zero;
  q.out = sums;
  q.out_stride = p.weights->n;
  gemm(q, kernel.empty() ? nullptr : kernel.c_str(), run.workspace->data(), run.workspace->size(), run.stream);
}

void start_row_codes(const RowCodesWork& work, Stream stream);

// The ranges of `slots` sequences, or of the whole.
void start_ranges(const RangeWork& work, int64_t slots, Stream stream);

// Parts of a step's scratch memory, one behind the other, of all images.
class ScratchParts {
 public:
  ScratchParts(unsigned char* memory, int64_t images) : at_(memory), images_(images) {}
  template <typename T>
  T* take(int64_t per_image) {
    T* part = reinterpret_cast<T*>(at_);
    at_ += images_ * bytes<T>(per_image);
    return part;
  }
  // Per image.
  template <typename T>
  static int64_t bytes(int64_t per_image) {
    return round_up(per_image * static_cast<int64_t>(sizeof(T)), static_cast<int64_t>(kAlignment));
  }

 private:
  unsigned char* at_;
  int64_t images_;
};

}  // namespace ulp::cuda
