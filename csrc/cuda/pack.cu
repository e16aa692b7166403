// Packing of weights on host and device, unpacking, and the check of ranges.
#include "cuda/pack.cuh"

#include <memory>

#include "cuda/api.h"
#include "cuda/check.h"
#include "cuda/with_bits.h"

namespace ulp::cuda {
namespace {

Source source(const MatrixView& b) { return {b.data, b.rows, b.cols, b.row_stride, b.col_stride, b.is_signed}; }

cudaLaunchConfig_t config(int64_t grid, cudaStream_t stream) {
  cudaLaunchConfig_t launch{};
  launch.gridDim = dim3(static_cast<unsigned>(grid));
  launch.blockDim = dim3(kPackThreads);
  launch.stream = stream;
  return launch;
}

Weights allocate(const MatrixView& b, Encoding e, int device) {
  const Layout layout{b.rows, b.cols, e.bits};
  Weights weights;
  weights.k = b.rows;
  weights.n = b.cols;
  weights.encoding = e;
  weights.data = DeviceMemory(device, static_cast<size_t>(layout.bytes()));
  weights.sums = DeviceMemory(device, static_cast<size_t>(b.cols) * sizeof(int));
  return weights;
}

int64_t first_outside(const MatrixView& a, Encoding e, int device, cudaStream_t stream) {
  if (a.rows * a.cols == 0 || (e.bits == 8)) return -1;
  constexpr unsigned long long kNone = ~0ULL;
  unsigned long long first = kNone;
  const DeviceMemory memory(device, sizeof first);
  unsigned long long* found = static_cast<unsigned long long*>(memory.data());
  upload(found, &first, sizeof first, device);
  constexpr int64_t kMaxBlocks = 4096;
  const int64_t blocks = ceil_div(a.rows * a.cols, kPackThreads);
  const auto launch = config(blocks < kMaxBlocks ? blocks : kMaxBlocks, stream);
  check(cudaLaunchKernelEx(&launch, find_outside, source(a), e, found), "starting find_outside");
  download(&first, found, sizeof first, device, stream);
  return first == kNone ? -1 : static_cast<int64_t>(first);
}

}  // namespace

Weights pack_on_host(const MatrixView& b, Encoding e, int device) {
  const CurrentDevice current(device);
  Weights weights = allocate(b, e, device);
  const Layout layout{b.rows, b.cols, e.bits};
  if (layout.bytes() > 0) {
    // uint32_t for the alignment; not initialised, as every word is written.
    const std::unique_ptr<uint32_t[]> words(new uint32_t[static_cast<size_t>(layout.bytes() / 4)]);
    unsigned char* packed = reinterpret_cast<unsigned char*>(words.get());
    with_bits(e.bits, [&](auto bits) {
      for (int64_t strip = 0; strip < layout.strips(); ++strip) {
        for (int64_t block = 0; block < layout.blocks(); ++block) {
          for (int lane = 0; lane < 32; ++lane) pack_words<bits()>(source(b), e, layout, strip, block, lane, packed);
        }
      }
    });
    upload(weights.data.data(), packed, static_cast<size_t>(layout.bytes()), device);
  }
  if (b.cols > 0) {
    std::vector<int32_t> sums(static_cast<size_t>(b.cols));
    for (int64_t row = 0; row < b.rows; ++row) {
      for (int64_t column = 0; column < b.cols; ++column) {
        const int value = b.value(row, column);
        int32_t& sum = sums[static_cast<size_t>(column)];
        sum = static_cast<int32_t>(static_cast<uint32_t>(sum) + static_cast<uint32_t>(e.bipolar() ? value : stored_value(e, value)));
      }
    }
    upload(weights.sums.data(), sums.data(), sums.size() * sizeof(int32_t), device);
  }
  return weights;
}

Weights pack_on_device(const MatrixView& b, Encoding e, int device, Stream stream) {
  const CurrentDevice current(device);
  cudaStream_t queue = static_cast<cudaStream_t>(stream);
  if (const int64_t index = first_outside(b, e, device, queue); index >= 0) throw OutOfRange(index);
  Weights weights = allocate(b, e, device);
  const Layout layout{b.rows, b.cols, e.bits};
  unsigned char* packed = static_cast<unsigned char*>(weights.data.data());
  if (layout.bytes() > 0) {
    with_bits(e.bits, [&](auto bits) {
      const auto launch = config(ceil_div(layout.strips() * layout.blocks(), kPackThreads / 32), queue);
      check(cudaLaunchKernelEx(&launch, pack_weights<bits()>, source(b), e, layout, packed), "starting pack_weights");
    });
  }
  if (b.cols > 0) {
    const auto launch = config(ceil_div(b.cols, kPackThreads), queue);
    check(cudaLaunchKernelEx(&launch, sum_columns, source(b), e, static_cast<int*>(weights.sums.data())), "starting sum_columns");
  }
  check(cudaStreamSynchronize(queue), "packing");  // products on other streams may read the weights from now on
  return weights;
}

void unpack(const Weights& weights, uint8_t* host) {
  const Encoding e = weights.encoding;
  const Layout layout{weights.k, weights.n, e.bits};
  if (layout.bytes() == 0) return;
  const std::unique_ptr<uint32_t[]> packed(new uint32_t[static_cast<size_t>(layout.bytes() / 4)]);
  download(packed.get(), weights.data.data(), static_cast<size_t>(layout.bytes()), weights.data.device(), nullptr);
  with_bits(e.bits, [&](auto bits) {
    constexpr int kBits = bits();
    for (int64_t strip = 0; strip < layout.strips(); ++strip) {
      for (int64_t block = 0; block < layout.blocks(); ++block) {
        const uint32_t* from = packed.get() + strip_offset(layout, strip, block) / 4;
        for (int lane = 0; lane < 32; ++lane) {
          Words<kBits> words;
          for (int i = 0; i < Words<kBits>::kCount; ++i) words.word[i] = from[word_offset<kBits>(lane, i) / 4];
          for (int place = 0; place < 64; ++place) {  // step, register and byte
            uint32_t a[4];
            unpack_bytes(words, place / 16, e.bipolar() ? 0x40404040u : 0, a);
            const int i = place / 4 % 4;
            const int j = place % 4;
            const int stored = static_cast<int8_t>(a[i] >> (8 * j)) >> (e.bipolar() ? 6 : 8 - kBits);
            const int row = lane / 4 + 8 * (i & 1);
            const int64_t channel = strip * kStrip + 2 * (row % 8) + row / 8;
            const int64_t k = block * kBlock + 32 * (place / 16) + 16 * (i >> 1) + 4 * (lane % 4) + j;
            if (channel >= weights.n || k >= weights.k) continue;
            host[k * weights.n + channel] = static_cast<uint8_t>(e.is_signed ? stored : stored + (1 << (kBits - 1)));
          }
        }
      }
    }
  });
}

int64_t find_out_of_range(const Activations& a, int64_t k, int device, Stream stream) {
  const CurrentDevice current(device);
  const MatrixView view{static_cast<const uint8_t*>(a.data), a.m, k, a.row_stride, 1, a.encoding.is_signed};
  return first_outside(view, a.encoding, device, static_cast<cudaStream_t>(stream));
}

}  // namespace ulp::cuda
