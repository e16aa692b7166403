// Bit planes, for the 1-bit tensor cores: they count the bits of AND over k, and products of wider values are sums over pairs of planes,
//
//     sum_k w' a'  =  sum over planes i of w, j of a of  s_i t_j 2^(i+j) P_ij,      P_ij = sum_k (bit i of w and bit j of a)
//
// with s_i = -1 for the top plane of two's complement (weights are stored so, unsigned ones minus 2^(bits-1)) and else 1, t_j likewise for
// signed activations. A bipolar operand's bit u is 1 for -1: its value minus 1 is -2u, a factor of -2 at the end (arguments.h has the
// offset of 1).
//
// One accumulator is enough: pairs go from the largest i + j to 0, and between two of them the sum is doubled where i + j falls, and
// negated where the sign of the pair differs (Horner's rule). The accumulators' bound, at any time: |sum| <= K (2^w_bits - 1) (2^a_bits -
// 1) < 2^31, as pick.cpp splits K (max_split_k).
//
// *Activations* are packed for each product, to rows of bits in the workspace, [plane][row][blocks of k][16 bytes]: a block of 128 k of
// layout.h has 16 bytes per row and plane, four words. K within a block is permuted as the words of packed weights have it, so that a
// register of weights takes few instructions and no second copy of the weights is needed: word t of a block holds
//
//     bit 8 j + 4 u + d(s)   ->   k = 32 s + 16 u + 4 t + j        s, j in 0..3, u in 0..1, d(s) = 0, 2, 1, 3
//
// As lanes 4 g + t of mma.m16n8k256 and wgmma m64nNk256 have 32 consecutive bits of a row each, 32 t ... and 128 + 32 t ..., words of two
// neighbouring blocks are the registers of a fragment. K is padded to whole blocks with zeros.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/arguments.h"
#include "cuda/layout.h"
#include "cuda/unpack.cuh"

namespace ulp::cuda {

// ---------------------------------------------------------------------------------------------------------------------------- pairs

// The pairs of planes in the order of Horner's rule.
struct PlanePairs {
  int w;  // the current pair
  int a;
  bool negative;

  __device__ explicit PlanePairs(const Planes& p) : w(p.w_bits - 1), a(p.a_bits - 1), negative(is_negative(p)) {}

  // Goes to the next pair. Returns what the sum so far must be multiplied by; after the last pair, by which it becomes sum_k w' a'.
  __device__ int next(const Planes& p) {
    const bool before = negative;
    int factor = 1;
    if (w > 0 && a + 1 < p.a_bits) {
      --w;
      ++a;
    } else if (w + a > 0) {
      const int exponent = w + a - 1;
      w = min(exponent, p.w_bits - 1);
      a = exponent - w;
      factor = 2;
    } else {
      return negative ? -p.factor : p.factor;
    }
    negative = is_negative(p);
    return negative == before ? factor : -factor;
  }

 private:
  __device__ bool is_negative(const Planes& p) const { return (p.w_negative && w == p.w_bits - 1) != (p.a_negative && a == p.a_bits - 1); }
};

// -------------------------------------------------------------------------------------------------------------------------- weights

__host__ __device__ inline uint32_t rotate_left(uint32_t x, int by) { return by == 0 ? x : x << by | x >> (32 - by); }

// Plane `plane` of a block's weights in the order above: rows g and g + 8 of the strip.
template <int kBits>
__host__ __device__ inline void plane_of(const Words<kBits>& words, int plane, uint32_t (&rows)[2]) {
  static_assert(kBits <= 4);
  for (int h = 0; h < 2; ++h) {
    if ((kBits & 1) != 0 && (kBits == 1 || plane == 0)) {
      constexpr int kOne = Words<kBits>::kOne;  // byte bit 2 (s % 2) + h + 4 u of word s / 2
      rows[h] = (words.word[kOne] >> h & 0x55555555u) | (words.word[kOne + 1] >> h & 0x55555555u) << 1;
    } else if constexpr (kBits != 1) {
      // 2-bit plane: byte bit 2 h + 4 u + bit of word s; 4-bit plane: byte bit 4 u + bit of word [s][h].
      constexpr bool kNibbles = kBits == 4;
      const int bit = kNibbles ? plane : 2 * h + plane - kBits % 2;
      const uint32_t mask = 0x11111111u << bit;
      const uint32_t* const from = words.word + (kNibbles ? h : 0);
      constexpr int kStep = kNibbles ? 2 : 1;
      uint32_t row = from[3 * kStep] & mask;
      row = rotate_left(row, 1) | (from[kStep] & mask);
      row = rotate_left(row, 1) | (from[2 * kStep] & mask);
      row = rotate_left(row, 1) | (from[0] & mask);
      rows[h] = row >> bit | (bit > 0 ? row << (32 - bit) : 0);
    }
  }
}

}  // namespace ulp::cuda
