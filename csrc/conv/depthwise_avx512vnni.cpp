// Depthwise convolution on AVX-512 VNNI, 64 channels at a time.
//
//   vpdpbusd adds four products to each sum, so four taps are taken together: their codes are interleaved channel by channel, and so are
//   their weights. Sums are of 32 bits, which wrap as the contract says: nothing is spilled, whatever the bits.
//
//       rows y, y + 1, .. of a column   | c0 c1 .. | c0 c1 .. |   ->   | c0: y y+1 y+2 y+3 | c1: y y+1 .. | ..
//
//   Square kernels at stride 1 interleave each column of the image once, for all outputs that it is part of; 3 x 3 ones at stride 2 once
//   for two. Others take their taps as they come.
//
// Ceiling on Sapphire Rapids, 3 x 3 at stride 1: 11 shuffles on one port and 12 vpdpbusd on two give a pixel of 64 channels in 11.5 cycles.
#include "../gemm/dot_avx512vnni.h"
#include "depthwise.h"

namespace ulp::depthwise_avx512vnni {
namespace {

constexpr int kChannels = 64;
constexpr int kTogether = 4;  // taps
constexpr int kPart = 16;     // groups of taps whose weights are interleaved at a time
constexpr int kMaxSide = 5;   // of kernels that slide
constexpr int kMaxVecs = kChannels / kVecCols;

// The channels of a block, `vecs` vectors of sums: all 16 of each, or n channels.
template <int vecs_, bool whole>
struct Block {
  static constexpr int vecs = vecs_;
  __mmask64 bytes;

  explicit Block(int64_t n) : bytes(n < kChannels ? (__mmask64{1} << n) - 1 : ~__mmask64{0}) {}
  __mmask16 lanes(int v) const { return static_cast<__mmask16>(bytes >> (kVecCols * v)); }

  // Their codes, in bytes; those of 16 in lanes of 32 bits; and sums.
  ULP_INLINE Vec codes(const uint8_t* p) const { return whole && vecs == 4 ? load(p) : _mm512_maskz_loadu_epi8(bytes, p); }
  ULP_INLINE Vec wide_codes(const uint8_t* p, int v) const {
    p += kVecCols * v;
    return _mm512_cvtepu8_epi32(whole ? _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)) : _mm_maskz_loadu_epi8(lanes(v), p));
  }
  ULP_INLINE void start_from(const int32_t* p, Vec (&sum)[vecs]) const {
    ULP_UNROLL for (int v = 0; v < vecs; ++v) {
      sum[v] = whole ? _mm512_loadu_si512(p + kVecCols * v) : _mm512_maskz_loadu_epi32(lanes(v), p + kVecCols * v);
    }
  }
  ULP_INLINE void put(const Vec (&sum)[vecs], int32_t* p) const {
    ULP_UNROLL for (int v = 0; v < vecs; ++v) {
      whole ? _mm512_storeu_si512(p + kVecCols * v, sum[v]) : _mm512_mask_storeu_epi32(p + kVecCols * v, lanes(v), sum[v]);
    }
  }
};

// Up to four vectors of bytes, interleaved: lane i of x[v] has byte 16 v + i of each.
template <int vecs>
struct Quad {
  Vec x[vecs];
};

// The 32-bit groups of a row so ordered that unpacking leaves channels in their order.
template <class B>
ULP_INLINE Vec codes_of(const uint8_t* p, const B& block) {
  const Vec order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_permutexvar_epi32(order, block.codes(p));
}

// rows: at least `count` addresses, 1 .. 4.
template <int count, class B>
ULP_INLINE Quad<B::vecs> quad_of(const uint8_t* const (&rows)[kTogether], const B& block) {
  constexpr int vecs = B::vecs;
  Quad<vecs> q;
  if constexpr (count == 1) {
    ULP_UNROLL for (int v = 0; v < vecs; ++v) q.x[v] = block.wide_codes(rows[0], v);
    return q;
  }
  const Vec r0 = codes_of(rows[0], block), r1 = codes_of(rows[1], block);
  const Vec r2 = count > 2 ? codes_of(rows[2], block) : zero();
  const Vec r3 = count > 3 ? codes_of(rows[3], block) : zero();
  const Vec low = _mm512_unpacklo_epi8(r0, r1), low2 = _mm512_unpacklo_epi8(r2, r3);
  q.x[0] = _mm512_unpacklo_epi16(low, low2);
  if constexpr (vecs > 1) q.x[1] = _mm512_unpackhi_epi16(low, low2);
  if constexpr (vecs > 2) {
    const Vec high = _mm512_unpackhi_epi8(r0, r1), high2 = _mm512_unpackhi_epi8(r2, r3);
    q.x[2] = _mm512_unpacklo_epi16(high, high2);
    q.x[3] = _mm512_unpackhi_epi16(high, high2);
  }
  return q;
}

template <class B>
Quad<B::vecs> quad_of(const uint8_t* const (&rows)[kTogether], int count, const B& block) {
  switch (count) {
    case 1:
      return quad_of<1>(rows, block);
    case 2:
      return quad_of<2>(rows, block);
    case 3:
      return quad_of<3>(rows, block);
    default:
      return quad_of<4>(rows, block);
  }
}

template <int vecs>
ULP_INLINE void multiply(Vec (&sum)[vecs], const Quad<vecs>& q, const uint8_t* weights) {
  ULP_UNROLL for (int v = 0; v < vecs; ++v) dot_add(sum[v], q.x[v], weights + v * kVecBytes);
}

// The weights of `count` taps, from tap `first` on and each `apart` from the next, interleaved.
template <class B>
void put_weights(const Depthwise& d, const B& block, int64_t c, int first, int apart, int count, uint8_t* out) {
  const uint8_t* rows[kTogether] = {};
  for (int i = 0; i < count; ++i) rows[i] = reinterpret_cast<const uint8_t*>(d.weights) + (first + i * apart) * d.weight_stride + c;
  const Quad<B::vecs> q = quad_of(rows, count, block);
  for (int v = 0; v < B::vecs; ++v) store(out + v * kVecBytes, q.x[v]);
}

// Groups of the rows of a column of a kernel of `side` rows: all but the last are of four.
template <int side>
constexpr int kGroups = (side + kTogether - 1) / kTogether;
template <int side, int g>
constexpr int kGroupRows = side - g * kTogether < kTogether ? side - g * kTogether : kTogether;

// Group g of a column of the image.
template <int g, int side, class B>
ULP_INLINE Quad<B::vecs> group_of(const uint8_t* column, const int64_t (&row)[side], const B& block) {
  const uint8_t* rows[kTogether] = {};
  ULP_UNROLL for (int i = 0; i < kGroupRows<side, g>; ++i) rows[i] = column + row[g * kTogether + i];
  return quad_of<kGroupRows<side, g>>(rows, block);
}

template <int side, class B>
void put_square_weights(const Depthwise& d, const B& block, int64_t c, uint8_t* weights) {
  for (int x = 0; x < side; ++x) {
    for (int g = 0; g < kGroups<side>; ++g, weights += B::vecs * kVecBytes) {
      const int left = side - g * kTogether;
      put_weights(d, block, c, g * kTogether * side + x, side, left < kTogether ? left : kTogether, weights);
    }
  }
}

// Stride 1: outputs whose windows a column is in take turns with `side` sets of sums. Those of an output begin at its first column, in the
// set that its number says. No lambdas: gcc 12 would keep the sums in memory.
template <int side, class B>
struct Slide {
  static constexpr int vecs = B::vecs;
  static constexpr int kGroupBytes = vecs * kVecBytes;

  B block;
  const int32_t* start;
  const uint8_t* weights;
  int64_t step;
  int64_t ld;
  int64_t row[side];

  template <int turn, int g>
  ULP_INLINE void add_groups(const uint8_t* column, Vec (&sum)[side][vecs]) const {
    const Quad<vecs> quad = group_of<g>(column, row, block);
    ULP_UNROLL for (int x = 0; x < side; ++x) {
      const uint8_t* w = weights + (x * kGroups<side> + g) * kGroupBytes;
      ULP_UNROLL for (int v = 0; v < vecs; ++v) dot_add(sum[(turn - x + side) % side][v], quad.x[v], w + v * kVecBytes);
    }
    if constexpr (g + 1 < kGroups<side>) add_groups<turn, g + 1>(column, sum);
  }

  // Column q, with q % side == turn, to the sums of the outputs q - side + 1 .. q.
  template <int turn>
  ULP_INLINE void add_column(const uint8_t* column, Vec (&sum)[side][vecs]) const {
    block.start_from(start, sum[turn]);
    add_groups<turn, 0>(column, sum);
  }

  template <int turn>
  ULP_INLINE void lead_in(const uint8_t*& column, Vec (&sum)[side][vecs]) const {
    add_column<turn>(column, sum);
    column += step;
    if constexpr (turn + 2 < side) lead_in<turn + 1>(column, sum);
  }

  // The outputs of sets i .. side - 1. False after the last of the row.
  template <int i>
  ULP_INLINE bool outputs(const uint8_t*& column, int64_t& left, int32_t*& acc, Vec (&sum)[side][vecs]) const {
    add_column<(side - 1 + i) % side>(column, sum);
    block.put(sum[i], acc);
    column += step;
    acc += ld;
    if (--left == 0) return false;
    if constexpr (i + 1 < side) return outputs<i + 1>(column, left, acc, sum);
    return true;
  }

  static void run_row(const Slide& args, const uint8_t* column, int64_t pixels, int32_t* acc) {
    const Slide s = args;  // a copy that no store can alias
    Vec sum[side][vecs];
    ULP_UNROLL for (int x = 0; x < side; ++x) { ULP_UNROLL for (int v = 0; v < vecs; ++v) sum[x][v] = zero(); }
    s.template lead_in<0>(column, sum);
    while (s.template outputs<0>(column, pixels, acc, sum)) {
    }
  }
};

template <int side, class B>
void slide(const Depthwise& d, const B& block, int64_t c) {
  alignas(64) uint8_t weights[side * kGroups<side> * B::vecs * kVecBytes];
  put_square_weights<side>(d, block, c, weights);
  Slide<side, B> s{block, d.start + c, weights, d.step, d.ld, {}};
  for (int y = 0; y < side; ++y) s.row[y] = d.taps[y * side];
  for (int64_t r = 0; r < d.rows; ++r) s.run_row(s, d.a + r * d.row_step + c, d.pixels, d.acc + r * d.pixels * d.ld + c);
}

// 3 x 3 at stride 2: a window's last column is the next one's first.
template <class B>
void stride_two(const Depthwise& d, const B& args, int64_t c) {
  constexpr int side = 3;
  constexpr int vecs = B::vecs;
  constexpr int kGroupBytes = vecs * kVecBytes;
  alignas(64) uint8_t weights[side * kGroupBytes];
  put_square_weights<side>(d, args, c, weights);
  const B block = args;  // copies that no store can alias
  const int64_t row[side] = {d.taps[0], d.taps[side], d.taps[2 * side]};
  const int64_t step = d.step, half = d.step / 2, pixels = d.pixels, ld = d.ld;
  const int32_t* start = d.start + c;
  for (int64_t r = 0; r < d.rows; ++r) {
    const uint8_t* a = d.a + r * d.row_step + c;
    int32_t* acc = d.acc + r * pixels * ld + c;
    Quad<vecs> even = group_of<0>(a, row, block);
    for (int64_t p = 0; p < pixels; ++p, a += step, acc += ld) {
      Vec sum[vecs];
      block.start_from(start, sum);
      multiply(sum, even, weights);
      multiply(sum, group_of<0>(a + half, row, block), weights + kGroupBytes);
      even = group_of<0>(a + step, row, block);
      multiply(sum, even, weights + 2 * kGroupBytes);
      block.put(sum, acc);
    }
  }
}

// Any taps, in their order.
template <class B>
void any_taps(const Depthwise& d, const B& block, int64_t c) {
  constexpr int vecs = B::vecs;
  constexpr int kGroupBytes = vecs * kVecBytes;
  alignas(64) uint8_t weights[kPart * kGroupBytes];
  for (int first = 0; first < d.tap_count || first == 0; first += kPart * kTogether) {
    const int taps = d.tap_count - first < kPart * kTogether ? d.tap_count - first : kPart * kTogether;
    for (int t = 0; t < taps; t += kTogether) {
      put_weights(d, block, c, first + t, 1, taps - t < kTogether ? taps - t : kTogether, weights + t / kTogether * kGroupBytes);
    }
    for (int64_t p = 0; p < d.rows * d.pixels; ++p) {
      const uint8_t* a = d.a + p / d.pixels * d.row_step + p % d.pixels * d.step + c;
      int32_t* acc = d.acc + p * d.ld + c;
      Vec sum[vecs];
      block.start_from(first == 0 ? d.start + c : acc, sum);  // the first taps start from `start`, the others from what is there
      const uint8_t* w = weights;
      for (int t = 0; t < taps; t += kTogether, w += kGroupBytes) {
        const int count = taps - t < kTogether ? taps - t : kTogether;
        const uint8_t* rows[kTogether] = {};
        for (int i = 0; i < count; ++i) rows[i] = a + d.taps[first + t + i];
        multiply(sum, count == kTogether ? quad_of<kTogether>(rows, block) : quad_of(rows, count, block), w);
      }
      block.put(sum, acc);
    }
  }
}

// Whether the taps are those of a square kernel whose columns lie `apart` bytes from one another.
bool is_square(const Depthwise& d, int side, int64_t apart) {
  if (d.tap_count != side * side) return false;
  for (int y = 0; y < side; ++y) {
    for (int x = 1; x < side; ++x) {
      if (d.taps[y * side + x] != d.taps[y * side] + x * apart) return false;
    }
  }
  return true;
}

template <class B>
void run_block(const Depthwise& d, const B& block, int64_t c) {
  if (is_square(d, 3, d.step)) return slide<3>(d, block, c);
  if (is_square(d, kMaxSide, d.step)) return slide<kMaxSide>(d, block, c);
  if (d.step % 2 == 0 && is_square(d, 3, d.step / 2)) return stride_two(d, block, c);
  any_taps(d, block, c);
}

// n channels from c on.
template <int vecs>
void run_block(const Depthwise& d, int64_t c, int64_t n) {
  n == vecs* kVecCols ? run_block(d, Block<vecs, true>(n), c) : run_block(d, Block<vecs, false>(n), c);
}

}  // namespace

void run(const Depthwise& d);
void run(const Depthwise& d) {
  for (int64_t c = 0; c < d.channels; c += kChannels) {
    const int64_t n = d.channels - c < kChannels ? d.channels - c : kChannels;
    if (n <= kVecCols) {
      run_block<1>(d, c, n);
    } else if (n <= 2 * kVecCols) {
      run_block<2>(d, c, n);
    } else {
      run_block<kMaxVecs>(d, c, n);
    }
  }
}

}  // namespace ulp::depthwise_avx512vnni
