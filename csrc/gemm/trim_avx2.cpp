// trim on AVX2: vpmaddubsw for 8-bit operands, tile 2 x 32. What its lanes cannot hold is trimmed off the weights and multiplied beside.
//
//   A: the codes themselves, u8. Panel: code - 2^(b-1), s8, in steps of 4 k as for mul8. At W8A8 every step is widened to int32 by vpmaddwd
//   with ones; below, two steps are added in 16 bits before.
//
//   Bound: a lane adds the products of the weights at k and k + 1 of a column; of two steps, those at k + 4 and k + 5 as well. It holds
//   them, up to 32767, where the positive ones of these weights sum up to L = floor(32767 / (2^a - 1)) at most, and the negative ones to -L
//   at least: L is 128 at A8, 258 at A7. What exceeds it is taken off the weights one by one (Excess, kernel.h). At W8A8 1 to 4 % of the
//   lanes have some if the weights are distributed normally with the largest at 127, and 25 % if uniformly; at W7A8 and W8A7 hardly any
//   have, and at W7A7, W6A8 and W8A6 none.
//
//   The excess of a column is added up for 64 rows of A at a time, from A's transpose: two entries per vpmaddubsw where they fit (a pair's
//   positive values sum to 128 at most, and its negative ones to -128 at least), two pairs per vpmaddwd; then it is transposed into rows of
//   C. That is 20 operations for 128 products.
//
//   Ceiling: 3 vector operations for 32 products at W8A8, as int8 libraries take that saturate, and 2.5 below; vpmaddwd on 16 bits (mul16)
//   takes 4. At the three vector operations per cycle of Zen 3 and of Intel's cores, 32 and 38 multiply-accumulates per cycle.
#include "multiply_avx2.h"
#include "tile_multiply.h"

namespace ulp::trim_avx2 {
namespace {

constexpr int limit_of(int a_bits) { return accumulation_length(32767, 1, (1 << a_bits) - 1); }
static_assert(limit_of(8) == 128 && limit_of(7) == 258 && limit_of(6) == 520, "weights in a lane");

constexpr int kPairSum = 128;  // of the positive entries of a pair, and of the negative ones
static_assert(255 * kPairSum <= 32767, "entries of an excess in a lane");

// `steps` steps, each of 4 bytes of packed A and a vector of panel per unit, and their sums to int32.
template <int steps>
struct Steps {
  using Acc = Vec;
  static constexpr int kRows = 2;
  static constexpr int kVecs = kPanelUnits;
  static constexpr bool kSpills = false;
  static constexpr bool kAdds = false;
  static constexpr int kStepK = 4 * steps;

  // acc += sums over kStepK of a row, whose codes are in x, and of 8 columns from b on, the steps `stride` apart.
  static ULP_INLINE void multiply_add(Vec& acc, const Vec (&x)[steps], const uint8_t* b, int64_t stride, Vec ones) {
#if defined(__GNUC__)
    Vec sums, next;
    if constexpr (steps == 1) {
      __asm__ volatile("vpmaddubsw %3, %2, %1\n\tvpmaddwd %4, %1, %1\n\tvpaddd %1, %0, %0"
                       : "+x"(acc), "=&x"(sums)
                       : "x"(x[0]), "m"(*reinterpret_cast<const Vec*>(b)), "x"(ones));
    } else {
      __asm__ volatile("vpmaddubsw %5, %3, %1\n\tvpmaddubsw %6, %4, %2\n\tvpaddw %2, %1, %1\n\tvpmaddwd %7, %1, %1\n\tvpaddd %1, %0, %0"
                       : "+x"(acc), "=&x"(sums), "=&x"(next)
                       : "x"(x[0]), "x"(x[1]), "m"(*reinterpret_cast<const Vec*>(b)), "m"(*reinterpret_cast<const Vec*>(b + stride)),
                         "x"(ones));
    }
#else
    Vec sums = _mm256_maddubs_epi16(x[0], load(b));
    if constexpr (steps == 2) sums = _mm256_add_epi16(sums, _mm256_maddubs_epi16(x[1], load(b + stride)));
    acc = _mm256_add_epi32(acc, _mm256_madd_epi16(sums, ones));
#endif
  }

  template <int rows, int units>
  static ULP_INLINE void multiply(const uint8_t* const (&a)[rows], const uint8_t*& b, int64_t stride, const Piece* piece, int64_t,
                                  Vec (&acc)[rows][units]) {
    const Vec ones = _mm256_set1_epi16(1);
    ULP_UNROLL for (int r = 0; r < rows; ++r) { ULP_UNROLL for (int u = 0; u < units; ++u) acc[r][u] = _mm256_setzero_si256(); }
    for (int64_t at = 0; at < kStepK * piece->steps; at += kStepK, b += steps * stride) {
      Vec x[rows][steps];
      ULP_UNROLL for (int r = 0; r < rows; ++r) { ULP_UNROLL for (int i = 0; i < steps; ++i) x[r][i] = broadcast4(a[r] + at + 4 * i); }
      ULP_UNROLL for (int u = 0; u < units; ++u) {
        ULP_UNROLL for (int r = 0; r < rows; ++r) multiply_add(acc[r][u], x[r], b + u * kVector, stride, ones);
      }
    }
  }

  static Vec widen(Vec acc) { return acc; }
};

Vec low_bytes(Vec x) { return _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8); }
Vec high_bytes(Vec x) { return _mm256_srai_epi16(x, 8); }

// Takes off the weights w (16 bits each) what is in excess, or all of them; what was taken.
Vec take(Vec w, Vec& above, Vec& below) {
  const Vec zero = _mm256_setzero_si256();
  const Vec positive = _mm256_min_epi16(above, _mm256_max_epi16(w, zero));
  const Vec negative = _mm256_max_epi16(below, _mm256_min_epi16(w, zero));
  above = _mm256_sub_epi16(above, positive);
  below = _mm256_sub_epi16(below, negative);
  return _mm256_or_si256(positive, negative);
}

Vec bytes_of(Vec low, Vec high) { return _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi16(0xFF)), _mm256_slli_epi16(high, 8)); }

Vec sums_of(Vec bytes) { return _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes); }

// What must be taken off the weights v so that lanes hold the sums of one step. False where that is nothing.
bool excess_of(const Vec (&v)[1], int limit, Vec (&taken)[1]) {
  const Vec sum = sums_of(v[0]);  // beyond a limit both weights have its sign, and the first is no smaller than the excess
  const Vec most = _mm256_set1_epi16(static_cast<int16_t>(limit)), least = _mm256_set1_epi16(static_cast<int16_t>(-limit));
  const Vec excess = _mm256_sub_epi16(sum, _mm256_min_epi16(_mm256_max_epi16(sum, least), most));
  taken[0] = _mm256_and_si256(excess, _mm256_set1_epi16(0xFF));
  return !_mm256_testz_si256(excess, excess);
}

// The same for two steps.
bool excess_of(const Vec (&v)[2], int limit, Vec (&taken)[2]) {
  const Vec zero = _mm256_setzero_si256();
  const Vec most = _mm256_set1_epi16(static_cast<int16_t>(limit));
  const Vec positive = _mm256_add_epi16(sums_of(_mm256_max_epi8(v[0], zero)), sums_of(_mm256_max_epi8(v[1], zero)));
  const Vec negative = _mm256_add_epi16(sums_of(_mm256_min_epi8(v[0], zero)), sums_of(_mm256_min_epi8(v[1], zero)));
  Vec above = _mm256_max_epi16(_mm256_sub_epi16(positive, most), zero);
  Vec below = _mm256_min_epi16(_mm256_add_epi16(negative, most), zero);
  const Vec any = _mm256_or_si256(above, below);
  if (_mm256_testz_si256(any, any)) return false;
  ULP_UNROLL for (int i = 0; i < 2; ++i) {
    const Vec low = take(low_bytes(v[i]), above, below);
    taken[i] = bytes_of(low, take(high_bytes(v[i]), above, below));
  }
  return true;
}

// Calls visit(kb, u, j, v) with the centred weights v of steps j .. of each unit of the slice.
template <int bits, int steps, class Visit>
void for_steps(const BitpackedSlice& s, Visit visit) {
  for (int64_t kb = 0; kb < s.k_blocks; ++kb) {
    for (int u = 0; u < s.units; ++u) {
      Vec codes[8];
      decode<bits>(bitpacked_unit(s, kb, u), codes);
      ULP_UNROLL for (int j = 0; j < 8; j += steps) {
        Vec v[steps];
        ULP_UNROLL for (int i = 0; i < steps; ++i) v[i] = subtract_bytes(codes[j + i], 1 << (bits - 1));
        visit(kb, u, j, v);
      }
    }
  }
}

template <int bits, int steps, int limit>
void expand(const BitpackedSlice& s, uint8_t* panel) {
  for_steps<bits, steps>(s, [&](int64_t kb, int u, int j, Vec(&v)[steps]) {
    Vec taken[steps];
    const bool any = excess_of(v, limit, taken);
    ULP_UNROLL for (int i = 0; i < steps; ++i) {
      store(panel + ((kb * 8 + j + i) * s.units + u) * kVector, any ? _mm256_sub_epi8(v[i], taken[i]) : v[i]);
    }
  });
}

int above(int value) { return value > 0 ? value : 0; }
int below(int value) { return value < 0 ? value : 0; }

// Whether vpmaddubsw holds what the two entries give with two codes of A.
bool fit(int x, int y) { return above(x) + above(y) <= kPairSum && below(x) + below(y) >= -kPairSum; }

// The entries of the columns on their way into pairs.
class Pairs {
 public:
  explicit Pairs(Excess& excess) : excess_(excess) {
    for (int& count : excess_.count) count = 0;
  }

  void list(Vec taken, int64_t k, int column) {
    uint32_t left = ~static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(taken, _mm256_setzero_si256())));
    alignas(kVector) int8_t values[kVector];
    _mm256_store_si256(reinterpret_cast<Vec*>(values), taken);
    for (; left != 0; left &= left - 1) {
      const int i = __builtin_ctz(left);
      add(column + i / 4, Excess::entry(k + i % 4, values[i]));
    }
  }

  // Groups of two pairs, the last one filled up.
  void finish(int columns) {
    for (int c = 0; c < columns; ++c) {
      while (excess_.count[c] % 4 != 0) put(c, 0);
    }
  }

 private:
  void add(int column, int32_t entry) {
    const int count = excess_.count[column];
    if (count % 2 == 1 && !fit(Excess::value(excess_.entries[column * excess_.capacity + count - 1]), Excess::value(entry))) put(column, 0);
    put(column, entry);
  }

  void put(int column, int32_t entry) { excess_.entries[column * excess_.capacity + excess_.count[column]++] = entry; }

  Excess& excess_;
};

template <int bits, int steps, int limit>
bool find(const BitpackedSlice& s, Excess& excess) {
  bool any = false;
  Pairs pairs(excess);
  for_steps<bits, steps>(s, [&](int64_t kb, int u, int j, const Vec(&v)[steps]) {
    Vec taken[steps];
    if (!excess_of(v, limit, taken)) return;
    any = true;
    for (int i = 0; i < steps; ++i) pairs.list(taken[i], kb * kUnitK + 4 * (j + i), u * kUnitCols);
  });
  pairs.finish(s.units * kUnitCols);
  return any;
}

// 16 x 16 bytes: column i of what lies at `from` to row i of `to`. Each round interleaves the first half of the rows with the second.
void transpose16(const uint8_t* const (&from)[16], uint8_t* to) {
  __m128i x[16], y[16];
  ULP_UNROLL for (int i = 0; i < 16; ++i) x[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from[i]));
  ULP_UNROLL for (int round = 0; round < 4; ++round) {
    ULP_UNROLL for (int i = 0; i < 8; ++i) {
      y[2 * i] = _mm_unpacklo_epi8(x[i], x[i + 8]);
      y[2 * i + 1] = _mm_unpackhi_epi8(x[i], x[i + 8]);
    }
    ULP_UNROLL for (int i = 0; i < 16; ++i) x[i] = y[i];
  }
  ULP_UNROLL for (int i = 0; i < 16; ++i) _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i * kExcessRows), x[i]);
}

void transpose(const uint8_t* codes, int64_t stride, int64_t rows, int64_t k32, uint8_t* out) {
  for (int64_t r = 0; r < rows; r += 16) {
    uint8_t* to = out + r / kExcessRows * kExcessRows * k32 + r % kExcessRows;
    const uint8_t* from[16];  // behind the last row: that one again
    for (int64_t i = 0; i < 16; ++i) from[i] = codes + (r + i < rows ? r + i : rows - 1) * stride;
    for (int64_t k = 0; k < k32; k += 16) {
      transpose16(from, to + k * kExcessRows);
      for (const uint8_t*& row : from) row += 16;
    }
  }
}

// out[r] = the sum of a column's entries times row r of A, for 64 rows. Four entries at a time: two codes of A side by side for
// vpmaddubsw, its sums of two pairs side by side for vpmaddwd.
void add_column(const int32_t* entries, int count, const uint8_t* a, int32_t* out) {
  const Vec ones = _mm256_set1_epi16(1);
  Vec sums[2][4];  // of 32 rows: 0-3 and 16-19, 4-7 and 20-23, 8-11 and 24-27, 12-15 and 28-31
  ULP_UNROLL for (int half = 0; half < 2; ++half) { ULP_UNROLL for (int i = 0; i < 4; ++i) sums[half][i] = _mm256_setzero_si256(); }
  for (const int32_t* end = entries + count; entries != end; entries += 4) {
    const uint8_t* row[4];
    ULP_UNROLL for (int i = 0; i < 4; ++i) row[i] = a + Excess::k(entries[i]) * kExcessRows;
    const Vec first = _mm256_set1_epi16(static_cast<int16_t>((entries[0] & 0xFF) | (entries[1] & 0xFF) << 8));
    const Vec second = _mm256_set1_epi16(static_cast<int16_t>((entries[2] & 0xFF) | (entries[3] & 0xFF) << 8));
    ULP_UNROLL for (int half = 0; half < 2; ++half) {
      const Vec x = load(row[0] + half * kVector), y = load(row[1] + half * kVector);
      const Vec z = load(row[2] + half * kVector), w = load(row[3] + half * kVector);
      const Vec xy0 = _mm256_maddubs_epi16(_mm256_unpacklo_epi8(x, y), first),
                xy1 = _mm256_maddubs_epi16(_mm256_unpackhi_epi8(x, y), first);
      const Vec zw0 = _mm256_maddubs_epi16(_mm256_unpacklo_epi8(z, w), second),
                zw1 = _mm256_maddubs_epi16(_mm256_unpackhi_epi8(z, w), second);
      sums[half][0] = _mm256_add_epi32(sums[half][0], _mm256_madd_epi16(_mm256_unpacklo_epi16(xy0, zw0), ones));
      sums[half][1] = _mm256_add_epi32(sums[half][1], _mm256_madd_epi16(_mm256_unpackhi_epi16(xy0, zw0), ones));
      sums[half][2] = _mm256_add_epi32(sums[half][2], _mm256_madd_epi16(_mm256_unpacklo_epi16(xy1, zw1), ones));
      sums[half][3] = _mm256_add_epi32(sums[half][3], _mm256_madd_epi16(_mm256_unpackhi_epi16(xy1, zw1), ones));
    }
  }
  ULP_UNROLL for (int half = 0; half < 2; ++half) {
    ULP_UNROLL for (int i = 0; i < 4; i += 2) {
      store_sums(out + 32 * half + 4 * i, _mm256_permute2x128_si256(sums[half][i], sums[half][i + 1], 0x20));
      store_sums(out + 32 * half + 16 + 4 * i, _mm256_permute2x128_si256(sums[half][i], sums[half][i + 1], 0x31));
    }
  }
}

// 8 x 8 of int32: x[i] of row i for x[i] of column i.
void transpose8(Vec (&x)[8]) {
  Vec y[8], z[8];
  ULP_UNROLL for (int i = 0; i < 8; i += 2) {
    y[i] = _mm256_unpacklo_epi32(x[i], x[i + 1]);
    y[i + 1] = _mm256_unpackhi_epi32(x[i], x[i + 1]);
  }
  ULP_UNROLL for (int i = 0; i < 8; i += 4) {
    z[i] = _mm256_unpacklo_epi64(y[i], y[i + 2]);
    z[i + 1] = _mm256_unpackhi_epi64(y[i], y[i + 2]);
    z[i + 2] = _mm256_unpacklo_epi64(y[i + 1], y[i + 3]);
    z[i + 3] = _mm256_unpackhi_epi64(y[i + 1], y[i + 3]);
  }
  ULP_UNROLL for (int i = 0; i < 4; ++i) {
    x[i] = _mm256_permute2x128_si256(z[i], z[i + 4], 0x20);
    x[i + 4] = _mm256_permute2x128_si256(z[i], z[i + 4], 0x31);
  }
}

void start_with(const Excess& excess, const uint8_t* a, const Tile& t) {
  alignas(kVector) int32_t sums[kPanelCols][kExcessRows];
  const int columns = t.units * kUnitCols;
  for (int first = 0; first < t.rows; first += kExcessRows, a += kExcessRows * t.k) {
    const int rows = t.rows - first < kExcessRows ? t.rows - first : kExcessRows;
    for (int c = 0; c < columns; ++c) add_column(excess.entries + c * excess.capacity, excess.count[c], a, sums[c]);
    for (int r = 0; r < rows; r += 8) {
      for (int u = 0; u < t.units; ++u) {
        Vec x[8];
        for (int i = 0; i < 8; ++i) x[i] = load_sums(&sums[u * kUnitCols + i][r]);
        transpose8(x);
        Tile here = t;
        here.c += (first + r) * t.ldc;
        here.row += first + r;
        for (int i = 0; i < 8 && r + i < rows; ++i) store_result(here, i, u, row_term(here, i), x[i]);
      }
    }
  }
}

template <int bits, int steps, int limit>
void bind_steps(KernelAtBits& b) {
  b.expand = expand<bits, steps, limit>;
  b.run = run<Steps<steps>>;
  if (2 * steps << (bits - 1) <= limit) return;  // no weights exceed it
  b.find_excess = find<bits, steps, limit>;
  b.start_with = start_with;
  b.transpose = transpose;
}

template <int bits>
void bind_bits(int a_bits, KernelAtBits& b) {
  if (a_bits == 8 && bits == 8) return bind_steps<bits, 1, limit_of(8)>(b);
  if (a_bits == 8) return bind_steps<bits, 2, limit_of(8)>(b);
  if (a_bits == 7) return bind_steps<bits, 2, limit_of(7)>(b);
  bind_steps<bits, 2, limit_of(6)>(b);
}

}  // namespace

// Where mul8 has to spill every second step or more often.
extern constexpr BitPairs pairs = pairs_where([](int a_bits, int b_bits) { return a_bits >= 6 && b_bits >= 6 && a_bits + b_bits >= 14; });

KernelAtBits bind(int a_bits, int b_bits) {
  KernelAtBits b;
  b.centre_b = 1 << (b_bits - 1);
  b.max_kc = 512;
  b.panel_bytes = kUnitCodes;
  if (b_bits == 6) {
    bind_bits<6>(a_bits, b);
  } else if (b_bits == 7) {
    bind_bits<7>(a_bits, b);
  } else {
    bind_bits<8>(a_bits, b);
  }
  return b;
}

}  // namespace ulp::trim_avx2
