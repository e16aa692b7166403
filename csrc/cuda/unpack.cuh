// From packed words to the registers of the tensor cores and back, on host and device; tested on the host against the picture in layout.h.
//
// A b-bit weight becomes a signed byte with its bits at the top, w << (8 - b): for two's complement that is a mask, without sign extension.
// The sum over k is then 2^(8 - b) times too large, and shifted back exactly at the end. The bound: an accumulator holds
// |sum| <= K * 128 * max|a| < 2^31, so K <= 65793 for activations up to 255 and K <= 131071 for signed ones; longer K is split
// (kMaxSplitK). The 4-bit units get w << (4 - b) in nibbles in the same way.
//
// Bipolar weights (1 bit: 0 means +1, 1 means -1) become 0x40 or 0xC0 = +-64: the caller's mask `bipolar` sets the bit 0x40.
//
// Arithmetic instructions per 8 weights, without shifts by zero and compile-time constants: 4 bits 3, 2 bits 3.5, 1 bit 4, 3 bits 6,
// 5 and 7 bits 9 to 11, 6 bits 8, 8 bits 0.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/layout.h"

namespace ulp::cuda {

// The words of one lane for one strip and block.
template <int kBits>
struct Words {
  static constexpr int kCount = 2 * kBits;
  static constexpr int kTwo = (kBits & 4) ? 8 : 0;           // where the 2-bit plane begins
  static constexpr int kOne = kTwo + ((kBits & 2) ? 4 : 0);  // where the 1-bit plane begins
  uint32_t word[kCount];
};

// Bits of x where mask is 1, of y where it is 0: one LOP3.
__host__ __device__ inline uint32_t select(uint32_t mask, uint32_t x, uint32_t y) { return (x & mask) | (y & ~mask); }

__host__ __device__ inline uint32_t shift_left(uint32_t x, int by) { return by >= 0 ? x << by : x >> -by; }

// Registers h (low nibbles) and h + 2 (high nibbles) of a step: the low b & 3 bits of the weights at the top of each nibble. The bits below
// them are undefined.
template <int kBits>
__host__ __device__ inline uint32_t low_nibbles(const Words<kBits>& words, int step, int h) {
  const int place = 2 * (step % 2) + h;  // of the low nibble's bit in the 1-bit plane
  if constexpr ((kBits & 3) == 1) {
    return words.word[Words<kBits>::kOne + step / 2] << (3 - place);
  } else if constexpr ((kBits & 3) == 2) {
    return words.word[Words<kBits>::kTwo + step] << (2 - 2 * h);
  } else {
    static_assert((kBits & 3) == 3);
    const uint32_t two = words.word[Words<kBits>::kTwo + step] << (2 - 2 * h);
    const uint32_t one = shift_left(words.word[Words<kBits>::kOne + step / 2], 1 - place);
    return select(0xCCCCCCCCu, two, one);
  }
}

// The weights of up to 4 bits at the top of each nibble; the bits below them are undefined.
template <int kBits>
__host__ __device__ inline uint32_t top_nibbles(const Words<kBits>& words, int step, int h) {
  static_assert(kBits <= 4);
  if constexpr (kBits == 4) {
    return words.word[2 * step + h];
  } else {
    return low_nibbles(words, step, h);
  }
}

// Masks of the top `bits` of every byte of a word, and of every nibble.
constexpr uint32_t top_of_bytes(int bits) { return ((0xFFu << (8 - bits)) & 0xFFu) * 0x01010101u; }
constexpr uint32_t top_of_nibbles(int bits) { return ((0xFu << (4 - bits)) & 0xFu) * 0x11111111u; }

// The A fragment of a step of mma.m16n8k32, signed bytes. `bipolar` is 0x40404040 for 1-bit bipolar weights, else 0.
template <int kBits>
__host__ __device__ inline void unpack_bytes(const Words<kBits>& words, int step, uint32_t bipolar, uint32_t (&a)[4]) {
  if constexpr (kBits == 8) {
    for (int i = 0; i < 4; ++i) a[i] = words.word[4 * step + i];
  } else if constexpr (kBits <= 4) {
    constexpr uint32_t kTop = top_of_bytes(kBits);
    for (int h = 0; h < 2; ++h) {
      const uint32_t nibbles = top_nibbles(words, step, h);
      a[h] = (nibbles << 4) & kTop;
      a[h + 2] = nibbles & kTop;
      if constexpr (kBits == 1) {
        a[h] |= bipolar;
        a[h + 2] |= bipolar;
      }
    }
  } else {
    constexpr uint32_t kTop = top_of_bytes(kBits);
    for (int h = 0; h < 2; ++h) {
      const uint32_t high = words.word[2 * step + h];
      const uint32_t low = low_nibbles(words, step, h);
      a[h] = select(0xF0F0F0F0u, high << 4, low) & kTop;
      a[h + 2] = select(0xF0F0F0F0u, high, low >> 4) & kTop;
    }
  }
}

// The A fragment of two steps (2 pair, 2 pair + 1), one mma.m16n8k64 of signed nibbles. `bipolar` is 0x44444444 for 1-bit bipolar weights.
template <int kBits>
__host__ __device__ inline void unpack_nibbles(const Words<kBits>& words, int pair, uint32_t bipolar, uint32_t (&a)[4]) {
  for (int i = 0; i < 4; ++i) {
    a[i] = top_nibbles(words, 2 * pair + i / 2, i % 2);
    if constexpr (kBits < 4) a[i] &= top_of_nibbles(kBits);
    if constexpr (kBits == 1) a[i] |= bipolar;
  }
}

// Four bytes each of b0 and b1 (k and k + 16) as eight nibbles in the order of unpack_nibbles.
__host__ __device__ inline uint32_t interleave_nibbles(uint32_t b0, uint32_t b1) { return select(0x0F0F0F0Fu, b0, b1 << 4); }

// The words of lane 4 g + t from its 64 weights; value(fragment row 0..15, k 0..127) returns a stored, signed one.
template <int kBits, typename Value>
__host__ __device__ inline Words<kBits> pack_lane(int lane, const Value& value) {
  Words<kBits> words{};
  const int g = lane / 4;
  const int t = lane % 4;
  for (int s = 0; s < 4; ++s) {
    for (int i = 0; i < 4; ++i) {
      for (int j = 0; j < 4; ++j) {
        const int w = value(g + 8 * (i & 1), 32 * s + 16 * (i >> 1) + 4 * t + j);
        const uint32_t code = static_cast<uint32_t>(w) & ((1u << kBits) - 1);
        const int h = i & 1;
        const int upper = i >> 1;
        if constexpr (kBits == 8) {
          words.word[4 * s + i] |= code << (8 * j);
        } else {
          if constexpr ((kBits & 4) != 0) words.word[2 * s + h] |= (code >> (kBits - 4)) << (8 * j + 4 * upper);
          if constexpr ((kBits & 2) != 0) words.word[Words<kBits>::kTwo + s] |= ((code >> (kBits & 1)) & 3) << (8 * j + 2 * i);
          if constexpr ((kBits & 1) != 0) words.word[Words<kBits>::kOne + s / 2] |= (code & 1) << (8 * j + 2 * (s % 2) + h + 4 * upper);
        }
      }
    }
  }
  return words;
}

// The offset of word `index` of a lane's Words within the strip and block, in bytes.
template <int kBits>
__host__ __device__ constexpr int word_offset(int lane, int index) {
  if constexpr ((kBits & 1) != 0) {
    if (index >= Words<kBits>::kOne) return Words<kBits>::kOne * 128 + lane * 8 + (index - Words<kBits>::kOne) * 4;
  }
  return index / 4 * 512 + lane * 16 + index % 4 * 4;
}

}  // namespace ulp::cuda
