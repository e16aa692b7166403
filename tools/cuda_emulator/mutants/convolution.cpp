// A convolution on the emulated GPU, checked: 3 x 3 windows in steps of 2 over padded images of M x M pixels of K channels, N channels out.
#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "cuda/network.h"
#include "mutants/convolution.h"

namespace {

using namespace ulp;
using namespace ulp::cuda;

constexpr int kImages = 3, kStride = 2, kDilation = 2, kPad = 1;

int value_of(Encoding e, uint8_t stored) { return e.is_signed ? static_cast<int8_t>(stored) : stored; }

// The weight that is stored as 0 (arguments.h).
int pad_of(Encoding e) { return e.is_signed ? 0 : 1 << (e.bits - 1); }

// Rows of weights in the order that makes a word of planes of neighbouring channels (planes.cuh).
int channel_of_row(int row) {
  constexpr int kPlace[] = {0, 2, 1, 3};
  return row / 4 % 4 * 32 + row % 4 * 8 + row / 16 % 2 * 4 + kPlace[row / 32];
}

}  // namespace

// Number of wrong sums.
int64_t check_convolution(const Shape& shape, const char* kernel) {
  const int side = static_cast<int>(shape.m), channels = static_cast<int>(shape.k), n = static_cast<int>(shape.n);
  const int out = (side + 2 * kPad - 2 * kDilation - 1) / kStride + 1;
  const int zero = std::min(5, shape.a.levels() - 1);
  std::mt19937 random(1);
  std::vector<uint8_t> codes(static_cast<size_t>(kImages * side * side * channels));
  for (uint8_t& code : codes) code = static_cast<uint8_t>(random() % static_cast<uint32_t>(shape.a.levels()));
  std::vector<uint8_t> weights(static_cast<size_t>(9 * channels * n));
  for (uint8_t& w : weights)
    w = static_cast<uint8_t>(static_cast<int>(random() % static_cast<uint32_t>(shape.b.levels())) + shape.b.offset());

  Network network(0);
  const int source = network.add({side, side, channels, true, shape.a.bits, zero, 1.0f});
  const int result = network.add({out, out, n, false, 0, 0, 1.0f});
  network.add(InputFields{{source}, 0, true, false, true});
  ConvFields conv;
  conv.source = {source, 0};
  conv.weights = std::make_shared<const Weights>(
      pack_on_host({weights.data(), 9 * channels, n, n, 1, shape.b.is_signed}, Encoding{4, shape.b.is_signed}, 0));
  if (strstr(kernel, "_b1_") != nullptr) {  // taps of whole blocks, padded by what is stored as 0
    const int blocks = (channels + 127) / 128;
    std::vector<uint8_t> padded(static_cast<size_t>(9 * blocks * 128 * n), static_cast<uint8_t>(pad_of(shape.b)));
    for (int row = 0; row < 9 * blocks * 128; ++row) {
      const int tap = row / (blocks * 128), channel = row % (blocks * 128) / 128 * 128 + channel_of_row(row % 128);
      if (channel >= channels) continue;
      const auto from = weights.begin() + (static_cast<int64_t>(tap) * channels + channel) * n;
      std::copy(from, from + n, padded.begin() + static_cast<int64_t>(row) * n);
    }
    conv.planes = std::make_shared<const Weights>(pack_on_host({padded.data(), 9 * blocks * 128, n, n, 1, shape.b.is_signed}, shape.b, 0));
  }
  conv.window = {{3, 3}, {kStride, kStride}, {kDilation, kDilation}, {kPad, kPad, kPad, kPad}, {out, out}};
  conv.finish.scale = Constants<float>(0, std::vector<float>(static_cast<size_t>(n), 1.0f));
  conv.finish.low = -1e30f;
  conv.finish.high = 1e30f;
  conv.finish.targets.emplace_back();
  conv.finish.targets[0].place = {result, 0};
  conv.kernel = kernel;
  network.add(std::move(conv));
  network.add(OutputFields{result, 0, true});
  network.finalize();

  const DeviceMemory input(0, codes.size());
  std::vector<float> sums(static_cast<size_t>(kImages * out * out * n));
  const DeviceMemory output(0, sums.size() * sizeof(float));
  upload(input.data(), codes.data(), codes.size(), 0);
  const void* const inputs[] = {input.data()};
  void* const outputs[] = {output.data()};
  network.run(kImages, inputs, outputs, nullptr);
  download(sums.data(), output.data(), sums.size() * sizeof(float), 0, nullptr);

  int64_t wrong = 0;
  for (int64_t at = 0; at < static_cast<int64_t>(sums.size()); ++at) {
    const int channel = static_cast<int>(at % n), x = static_cast<int>(at / n % out), y = static_cast<int>(at / n / out % out);
    const int image = static_cast<int>(at / n / out / out);
    int sum = 0;
    for (int tap = 0; tap < 9; ++tap) {
      const int row = y * kStride - kPad + tap / 3 * kDilation, column = x * kStride - kPad + tap % 3 * kDilation;
      if (row < 0 || row >= side || column < 0 || column >= side) continue;
      for (int c = 0; c < channels; ++c) {
        const int code = codes[static_cast<size_t>(((image * side + row) * side + column) * channels + c)];
        sum += (code - zero) * value_of(shape.b, weights[static_cast<size_t>((tap * channels + c) * n + channel)]);
      }
    }
    wrong += sums[static_cast<size_t>(at)] != static_cast<float>(sum);
  }
  return wrong;
}
