// What the steps of sequences are made of on a GPU (plan/steps: rows, product, attention, dynamic_linear, grouped_linear, recurrent).
#pragma once

#include "cuda/network.h"
#include "ops/rows.h"

namespace ulp::cuda {

struct RowsFields {
  std::vector<Place> operands;
  int channels = 0, groups = 1;
  RowFunction function = RowFunction::identity;
  Constants<float> gamma, beta;
  float epsilon = 0;
  std::vector<Place> targets;
  bool divide = false;
};

// sizes: batch, rows, depth, columns. steps: elements from an index to the next, three indices for each tensor (plan/steps/product.cpp).
struct ProductFields {
  Place a, b, target;
  std::array<int, 4> sizes{};
  std::array<int, 9> steps{};
  float scale = 1;
  bool in_units = false;
};

struct AttentionFields {
  Place q, k, v, target;
  std::optional<Place> mask;
  std::array<int, 4> sizes{};
  int values = 0;
  std::array<int, 12> steps{};
  float scale = 1;
};

// Weights whose product with codes of rows is made by `gemm`, and per column the sum of them less their zero point.
struct RowProduct {
  std::shared_ptr<const Weights> weights;  // K x N; K: the channels
  int zero = 0;
  Constants<int> columns;
};

struct DynamicLinearFields {
  int source = -1;
  RowProduct product;
  int bits = 8;
  bool per_row = false;
  Constants<float> scale, bias;
  float largest_scale = 0;
  RowFunction function = RowFunction::identity;
  float low = 0, high = 0;
  std::vector<Place> targets;
  int outlier_count = 0;
  Constants<int> outliers;
  Constants<unsigned char> zeroed;  // per channel, where it is an outlier
  Constants<float> outlier_weights;
  std::string kernel;  // empty: the best
};

struct GroupedFields {
  int source = -1;
  Place target;
  Constants<int> words;  // of codes (network_grouped.cuh)
  int n = 0;
  int k = 0;
  int group = 0;
  bool nibbles = false;
  Constants<float> scales, zeros;  // groups x N
  int zero = 0;
  Constants<int> table;
  Constants<float> bias;
  bool per_group = false;
  int centre = 0;  // of codes
};

// Weights that a block multiplies by itself (network_recurrent.cuh): four k of a column in a word, K / 4 x N words.
struct WordProduct {
  Constants<int> words;
  Constants<int> columns;  // sums of the bytes
  int base = 0;            // what the bytes lack to be weights less their zero point
};

struct RecurrentFields {
  int source = -1;
  bool is_lstm = false, reverse = false, per_row = false, divide = false;
  int units = 0;
  RowProduct input;
  WordProduct hidden, candidate;
  bool has_candidate = false;
  Constants<float> input_scale, scale, bias, hidden_bias;
  float largest_input = 0, largest_hidden = 0, largest_bias = 0;
  int input_bits = 0, hidden_bits = 8;
  float hidden_scale = 0;
  int hidden_zero = 0;
  // In elements from a tensor's first.
  std::optional<Place> first_hidden, first_cell, lengths;
  std::vector<Place> targets;
  std::optional<Place> final_hidden, final_cell;
};

std::unique_ptr<DeviceStep> make_step(RowsFields fields, const Place2D& at);
std::unique_ptr<DeviceStep> make_step(ProductFields fields, const Place2D& at);
std::unique_ptr<DeviceStep> make_step(AttentionFields fields, const Place2D& at);
std::unique_ptr<DeviceStep> make_step(DynamicLinearFields fields, const Place2D& at);
std::unique_ptr<DeviceStep> make_step(GroupedFields fields, const Place2D& at);
std::unique_ptr<DeviceStep> make_step(RecurrentFields fields, const Place2D& at);

}  // namespace ulp::cuda
