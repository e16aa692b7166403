#include "pack.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#if defined(ULP_X86)
#include <emmintrin.h>
#endif

namespace ulp {
namespace {

// With `shift` added, the bytes of a row in range have no bit outside `mask`: one addition and one OR a byte, which the compiler
// vectorises.
uint8_t stray_bits(const uint8_t* p, int64_t n, uint8_t shift, uint8_t mask) {
  uint8_t seen = 0;
  for (int64_t i = 0; i < n; ++i) seen = static_cast<uint8_t>(seen | static_cast<uint8_t>(p[i] + shift));
  return static_cast<uint8_t>(seen & ~mask);
}

// Field f of width `width` in bitpacked vector `x` <-> bits `shift`.. of code vector `v`, all 32 bytes.
void put_field(const uint8_t* v, int shift, int width, uint8_t* x, int at) {
  for (int i = 0; i < kVector; ++i) {
    x[i] = static_cast<uint8_t>(x[i] | (((v[i] >> shift) & ((1 << width) - 1)) << at));
  }
}

void get_field(const uint8_t* x, int at, int width, uint8_t* v, int shift) {
  for (int i = 0; i < kVector; ++i) {
    v[i] = static_cast<uint8_t>(v[i] | (((x[i] >> at) & ((1 << width) - 1)) << shift));
  }
}

// Walks the fields of the layout drawn in layout.h: visit(vector j of the unit, its lowest bit, width, bitpacked vector, bit in it).
template <class Visit>
void for_each_field(int bits, Visit visit) {
  if (bits == 3) {
    for (int i = 0; i < 3; ++i) {
      visit(i, 0, 3, i, 0);
      visit(3 + i, 0, 3, i, 3);
    }
    for (int j = 0; j < 2; ++j) {
      visit(6 + j, 0, 2, j, 6);
      visit(6 + j, 2, 1, 2, 6 + j);
    }
    return;
  }
  int base = 0;  // bitpacked vectors used so far
  int bit = 0;   // bits of the code stored so far
  for (int width : {8, 4, 2, 1}) {
    if ((bits & width) == 0) continue;
    const int per_vector = 8 / width;
    for (int j = 0; j < 8; ++j) visit(j, bit, width, base + j / per_vector, (j % per_vector) * width);
    base += width;
    bit += width;
  }
}

// Calls body(unit offset in bytes, first column, first k) for every unit, in memory order.
template <class Body>
void for_each_unit(const BitpackedLayout& layout, Body body) {
  int64_t offset = 0;
  for (int64_t p = 0; p < layout.panels(); ++p) {
    for (int64_t kb = 0; kb < layout.k_blocks(); ++kb) {
      for (int c = 0; c < layout.panel_units(p); ++c) {
        body(offset, p * kPanelCols + c * kUnitCols, kb * kUnitK);
        offset += layout.unit_bytes();
      }
    }
  }
}

// Where the code of local column c and local k lies in the eight vectors.
constexpr int unit_index(int c, int k) { return (k / 4) * kVector + c * 4 + k % 4; }

// Counts LaneExcess over units of codes.
class ExcessCount {
 public:
  explicit ExcessCount(int bits) : bits_(bits) {}

  void add(const uint8_t codes[kUnitCodes]) {
    if (bits_ < 7) return;
    const int limit = bits_ == 8 ? 258 : 128;
    for (int j = 0; j < 8; j += 2) {
      for (int i = 0; i < kVector; i += 2) {
        int positive = 0, negative = 0;
        for (const uint8_t* step : {codes + j * kVector + i, codes + (j + 1) * kVector + i}) {
          const int x = step[0] - (1 << (bits_ - 1)), y = step[1] - (1 << (bits_ - 1));
          one_step_ += std::abs(x + y) > 128;
          positive += std::max(x, 0) + std::max(y, 0);
          negative += std::min(x, 0) + std::min(y, 0);
        }
        two_steps_ += positive > limit || negative < -limit;
      }
    }
    lanes_ += 4 * kVector / 2;
  }

  LaneExcess share() const {
    if (lanes_ == 0) return {};
    return {static_cast<double>(one_step_) / static_cast<double>(2 * lanes_),
            static_cast<double>(two_steps_) / static_cast<double>(lanes_)};
  }

 private:
  int bits_;
  int64_t one_step_ = 0, two_steps_ = 0, lanes_ = 0;
};

PackedMatrix empty_like(BitpackedLayout layout, Encoding e) {
  PackedMatrix m;
  m.layout = layout;
  m.encoding = e;
  m.data = AlignedBytes(static_cast<size_t>(layout.nbytes()));
  m.code_sums.assign(static_cast<size_t>(layout.n), 0);
  return m;
}

}  // namespace

bool in_range(const MatrixView& view, Encoding e) {
  if (view.cols == 0) return true;  // there may be any number of such rows
  const uint8_t shift = static_cast<uint8_t>(e.bipolar() ? 1 : -e.offset());
  const uint8_t mask = static_cast<uint8_t>(e.bipolar() ? 2 : e.levels() - 1);  // bipolar: -1 + 1 = 0, 1 + 1 = 2
  if (mask == 0xFF) return true;
  if (view.col_stride == 1 && view.row_stride == view.cols) return !stray_bits(view.data, view.rows * view.cols, shift, mask);
  for (int64_t r = 0; r < view.rows; ++r) {
    const uint8_t* row = view.data + r * view.row_stride;
    if (view.col_stride == 1) {
      if (stray_bits(row, view.cols, shift, mask)) return false;
    } else {
      for (int64_t c = 0; c < view.cols; ++c) {
        if (stray_bits(row + c * view.col_stride, 1, shift, mask)) return false;
      }
    }
  }
  return true;
}

void encode_rows(const MatrixView& view, Encoding e, int64_t row, int64_t rows, uint8_t* out, int64_t stride, uint8_t pad) {
  for (int64_t r = 0; r < rows; ++r, out += stride) {
    const uint8_t* in = view.data + (row + r) * view.row_stride;
    if (view.col_stride != 1) {
      for (int64_t c = 0; c < view.cols; ++c) out[c] = static_cast<uint8_t>(e.code(view.value(row + r, c)));
    } else if (!e.is_signed) {
      std::memcpy(out, in, static_cast<size_t>(view.cols));
    } else if (e.bipolar()) {
      for (int64_t c = 0; c < view.cols; ++c) out[c] = static_cast<uint8_t>((in[c] >> 7) ^ 1);  // 0xFF -> 0, 0x01 -> 1
    } else {
      const uint8_t shift = static_cast<uint8_t>(-e.offset());
      for (int64_t c = 0; c < view.cols; ++c) out[c] = static_cast<uint8_t>(in[c] + shift);
    }
    std::memset(out + view.cols, pad, static_cast<size_t>(stride - view.cols));
  }
}

int64_t sum_bytes(const uint8_t* p, int64_t count) {
#if defined(ULP_X86)  // SSE2 is part of every x86-64
  __m128i sums = _mm_setzero_si128();
  int64_t done = 0;
  for (; count - done >= 16; done += 16) {
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + done));
    sums = _mm_add_epi64(sums, _mm_sad_epu8(x, _mm_setzero_si128()));
  }
  int64_t halves[2];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(halves), sums);
  int64_t sum = halves[0] + halves[1];
  for (; done < count; ++done) sum += p[done];
  return sum;
#else
  constexpr uint64_t kEven = 0x00FF00FF00FF00FFu;
  constexpr int64_t kWords = 128;  // each adds at most 510 to a field of 16 bits: 65280
  int64_t total = 0;
  int64_t i = 0;
  while (count - i >= 8) {
    const int64_t words = std::min((count - i) / 8, kWords);
    uint64_t fields = 0;
    for (int64_t w = 0; w < words; ++w) {
      uint64_t eight;
      std::memcpy(&eight, p + i + 8 * w, 8);
      fields += (eight & kEven) + (eight >> 8 & kEven);
    }
    for (int f = 0; f < 64; f += 16) total += static_cast<int64_t>(fields >> f & 0xFFFF);
    i += 8 * words;
  }
  for (; i < count; ++i) total += p[i];
  return total;
#endif
}

void encode_unit(const uint8_t codes[kUnitCodes], int bits, uint8_t* bitpacked) {
  std::memset(bitpacked, 0, static_cast<size_t>(kVector * bits));
  for_each_field(
      bits, [&](int j, int shift, int width, int x, int at) { put_field(codes + j * kVector, shift, width, bitpacked + x * kVector, at); });
}

void decode_unit(const uint8_t* bitpacked, int bits, uint8_t codes[kUnitCodes]) {
  std::memset(codes, 0, kUnitCodes);
  for_each_field(
      bits, [&](int j, int shift, int width, int x, int at) { get_field(bitpacked + x * kVector, at, width, codes + j * kVector, shift); });
}

PackedMatrix pack(const MatrixView& b, Encoding e) {
  PackedMatrix m = empty_like({b.rows, b.cols, e.bits}, e);
  ExcessCount excess(e.bits);
  for_each_unit(m.layout, [&](int64_t offset, int64_t n0, int64_t k0) {
    uint8_t codes[kUnitCodes] = {};
    const int cols = static_cast<int>(std::min<int64_t>(kUnitCols, b.cols - n0));
    const int ks = static_cast<int>(std::min<int64_t>(kUnitK, b.rows - k0));
    for (int k = 0; k < ks; ++k) {
      for (int c = 0; c < cols; ++c) {
        const int code = e.code(b.value(k0 + k, n0 + c));
        codes[unit_index(c, k)] = static_cast<uint8_t>(code);
        m.code_sums[static_cast<size_t>(n0 + c)] += static_cast<uint32_t>(code);
      }
    }
    encode_unit(codes, e.bits, m.data.data() + offset);
    excess.add(codes);
  });
  m.excess = excess.share();
  return m;
}

PackedMatrix repack(const uint8_t* data, BitpackedLayout layout, Encoding e) {
  PackedMatrix m = empty_like(layout, e);
  ExcessCount excess(e.bits);
  for_each_unit(layout, [&](int64_t offset, int64_t n0, int64_t k0) {
    uint8_t codes[kUnitCodes];
    decode_unit(data + offset, e.bits, codes);
    for (int k = 0; k < kUnitK; ++k) {
      for (int c = 0; c < kUnitCols; ++c) {
        uint8_t& code = codes[unit_index(c, k)];
        if (k0 + k >= layout.k || n0 + c >= layout.n) {
          code = 0;
        } else {
          m.code_sums[static_cast<size_t>(n0 + c)] += code;
        }
      }
    }
    encode_unit(codes, e.bits, m.data.data() + offset);
    excess.add(codes);
  });
  m.excess = excess.share();
  return m;
}

void unpack(const PackedMatrix& m, uint8_t* out) {
  for_each_unit(m.layout, [&](int64_t offset, int64_t n0, int64_t k0) {
    uint8_t codes[kUnitCodes];
    decode_unit(m.data.data() + offset, m.encoding.bits, codes);
    const int cols = static_cast<int>(std::min<int64_t>(kUnitCols, m.layout.n - n0));
    const int ks = static_cast<int>(std::min<int64_t>(kUnitK, m.layout.k - k0));
    for (int k = 0; k < ks; ++k) {
      for (int c = 0; c < cols; ++c) {
        out[(k0 + k) * m.layout.n + n0 + c] = static_cast<uint8_t>(m.encoding.value(codes[unit_index(c, k)]));
      }
    }
  });
}

}  // namespace ulp
