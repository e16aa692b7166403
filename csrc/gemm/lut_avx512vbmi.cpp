// lut on AVX-512 VBMI: vpermb as a table of 64 partial sums, tile 4 x 128, for 1-bit weights up to A3 and 2-bit weights up to A2.
//
//   An index is six bits of weights: six weights of 1 bit, or three of 2 bits. Of each column, 32 bits of the bitpacked data (32 k at 1
//   bit, 16 k at 2 bits) make a word, and a word makes six indices, of the widths below. The order of k in a word is that of the data: byte
//   i, digit f is k = 4 f + i.
//
//   Panel: one byte per column and index; column i and column i + 32 of 64 side by side, so that the even bytes of sums are the lower ones:
//          | word 0, index 0: columns 0 .. 63 | 64 .. 127 | .. | index 1: ..
//   A: cut into planes of digits as wide as the weights' (1 bit: a plane per bit; 2 bits: one plane). A word of a plane makes six offsets
//      into 64 constant tables of 64 bytes, u16; two more are unused:  | word 0: plane 0: 8 u16 | plane 1 .. | word 1: ..
//      A step's table is the sum of its planes' tables, made while it runs and shared by the columns.
//
// KernelAtBits. An entry of W1 is at most 6 (2^a - 1); of W2A1 3 * 3; W2A2 is centred, which narrows a product to -2 .. 4, so an entry,
// with the phantom digit of a narrow index, stays within 3 * 6. They gather in u8 for whole words: 255 / entry / 6 of them. u8 sums go to
// u16: a K-block of 512 makes 192 steps of at most 18, or 96 of 42, 4032 <= 65535.
//
// Ceiling on Sapphire Rapids: a shuffle and an addition for 64 columns, one shuffle a cycle: 341 multiply-accumulates a cycle at W1 and 171
// at W2, before the tables of more planes and the spills (three operations per accumulator). Tables of 128 entries (vpermi2b) take two
// shuffles each.
#include "bitpacked_avx512.h"

namespace ulp::lut_avx512vbmi {
namespace {

constexpr int kIndexCols = 64;
constexpr int kIndexUnits = kIndexCols / kUnitCols;
constexpr int kMaxVectors = 2;  // of 64 columns
constexpr int kRows = 4;
constexpr int kMaxKc = 512;
constexpr int kIndices = 6;  // per word
constexpr int kEntries = 64;

// Where the indices of a word lie. Digits are not cut: at 2 bits the narrow ones have two digits.
constexpr int index_at(int b_bits, int i) { return b_bits == 1 ? (i < 3 ? 6 * i : 5 * i + 2) : (i < 5 ? 6 * i : 28); }
constexpr int index_width(int b_bits, int i) { return (i + 1 < kIndices ? index_at(b_bits, i + 1) : 32) - index_at(b_bits, i); }
static_assert(index_width(1, 1) == 6 && index_width(1, 2) == 5 && index_width(1, 5) == 5, "32 bits");
static_assert(index_width(2, 3) == 6 && index_width(2, 4) == 4 && index_width(2, 5) == 4, "16 digits");

constexpr int planes(int a_bits, int b_bits) { return b_bits == 1 ? a_bits : 1; }
constexpr int centre(int a_bits, int b_bits) { return a_bits == 2 && b_bits == 2 ? 2 : 0; }
constexpr int digits(int b_bits) { return 6 / b_bits; }

// What an entry is raised by to be unsigned, and the largest entry.
constexpr int raise(int a_bits, int b_bits) { return centre(a_bits, b_bits) ? 2 * digits(b_bits) : 0; }
constexpr int largest(int a_bits, int b_bits) {
  return centre(a_bits, b_bits) ? 6 * digits(b_bits) : digits(b_bits) * max_product(a_bits, 0, b_bits, 0);
}

// A word's six entries were raised by this in sum; the digit that a narrow index of W2 lacks is 0 on both sides, (0 - 2)(0 - 2) = 4.
constexpr int word_bias(int a_bits, int b_bits) { return kIndices * raise(a_bits, b_bits) + (centre(a_bits, b_bits) ? 2 * 4 : 0); }

// In words.
constexpr int spill_every(int a_bits, int b_bits) { return accumulation_length(255, kIndices, largest(a_bits, b_bits)); }
static_assert(spill_every(1, 1) == 7 && spill_every(2, 1) == 2 && spill_every(3, 1) == 1, "u8 sums");
static_assert(spill_every(1, 2) == 4 && spill_every(2, 2) == 2, "u8 sums");

// Row r, entry e: the digits of r times those of e, times the weight of the plane.
template <int a_bits, int b_bits>
struct Tables {
  static constexpr int kPlanes = planes(a_bits, b_bits);
  alignas(64) uint8_t entries[kPlanes][kEntries][kEntries];

  constexpr Tables() : entries() {
    constexpr int kRaise = raise(a_bits, b_bits);
    constexpr int kCentre = centre(a_bits, b_bits);
    for (int r = 0; r < kEntries; ++r) {
      for (int e = 0; e < kEntries; ++e) {
        int sum = kRaise;
        for (int i = 0; i < 6; i += b_bits) {
          sum += ((r >> i & ((1 << b_bits) - 1)) - kCentre) * ((e >> i & ((1 << b_bits) - 1)) - kCentre);
        }
        // A 1-bit digit of A never has the upper bit that the other rows of W2A1 stand for.
        for (int p = 0; p < kPlanes; ++p) entries[p][r][e] = static_cast<uint8_t>(sum << (p * b_bits));
      }
    }
  }
};

template <int a_bits, int b_bits>
constexpr Tables<a_bits, b_bits> kTables{};

template <int b_bits>
__m256i index_shifts() {
  return _mm256_setr_epi32(index_at(b_bits, 0), index_at(b_bits, 1), index_at(b_bits, 2), index_at(b_bits, 3), index_at(b_bits, 4),
                           index_at(b_bits, 5), 0, 0);
}
template <int b_bits>
__m256i index_masks() {
  const auto mask = [](int i) { return (1 << index_width(b_bits, i)) - 1; };
  return _mm256_setr_epi32(mask(0), mask(1), mask(2), mask(3), mask(4), mask(5), 0, 0);
}

// The word of a plane: digits of 32 / b_bits codes, in the order of the bitpacked data.
template <int b_bits>
uint32_t word_of(const uint8_t* codes, int plane) {
  if constexpr (b_bits == 1) {
    const __m256i order = _mm256_setr_epi8(0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29, 2, 6, 10, 14, 18, 22, 26, 30, 3, 7, 11,
                                           15, 19, 23, 27, 31);
    const __m256i x = _mm256_permutexvar_epi8(order, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)));
    return _mm256_test_epi8_mask(x, _mm256_set1_epi8(static_cast<char>(1 << plane)));
  } else {
    const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m128i x = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)), order);
    // The codes were in range when they were checked. If another thread has changed A since, no table beyond the last may be read.
    x = _mm_and_si128(x, _mm_set1_epi8(3));
    x = _mm_madd_epi16(_mm_maddubs_epi16(x, _mm_set1_epi16(1 | 4 << 8)), _mm_set1_epi32(1 | 16 << 16));
    return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_cvtepi32_epi8(x)));
  }
}

template <int a_bits, int b_bits>
void pack_offsets(const uint8_t* codes, int64_t stride, int rows, int64_t k32, uint8_t* out, int64_t out_stride) {
  constexpr int kWordK = kUnitK / b_bits;
  const __m256i shifts = index_shifts<b_bits>();
  const __m256i masks = index_masks<b_bits>();
  for (int r = 0; r < rows; ++r, codes += stride, out += out_stride) {
    uint8_t* to = out;
    for (int64_t k = 0; k < k32; k += kWordK) {
      for (int p = 0; p < planes(a_bits, b_bits); ++p, to += 16) {
        const __m256i word = _mm256_set1_epi32(static_cast<int>(word_of<b_bits>(codes + k, p)));
        const __m256i rows64 = _mm256_slli_epi32(_mm256_and_si256(_mm256_srlv_epi32(word, shifts), masks), 6);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtepi32_epi16(rows64));
      }
    }
  }
}

template <int b_bits>
void expand(const BitpackedSlice& s, uint8_t* panel) {
  const int vectors = static_cast<int>(ceil_div(s.units, kIndexUnits));
  for (int64_t kb = 0; kb < s.k_blocks; ++kb) {
    for (int word = 0; word < b_bits; ++word, panel += int64_t{kIndices} * vectors * kIndexCols) {
      for (int q = 0; q < vectors; ++q) {
        Vec x[4];  // 16 columns each
        ULP_UNROLL for (int i = 0; i < 4; ++i) {
          const int unit = q * kIndexUnits + i * kVecUnits;
          x[i] = unit < s.units ? stored(units_of(s, kb, unit), word) : zero();
        }
        unrolled<kIndices>([&](auto i) {
          constexpr int at = index_at(b_bits, i.value);
          const Vec mask = same_sums((1 << index_width(b_bits, i.value)) - 1);
          const auto pair = [&](Vec low, Vec high) {
            low = _mm512_and_si512(_mm512_srli_epi32(low, at), mask);
            high = _mm512_and_si512(_mm512_srli_epi32(high, at), mask);
            return _mm512_cvtepi32_epi16(_mm512_or_si512(low, _mm512_slli_epi32(high, 8)));
          };
          __m256i* to = reinterpret_cast<__m256i*>(panel + (i.value * vectors + q) * kIndexCols);
          _mm256_storeu_si256(to, pair(x[0], x[2]));
          _mm256_storeu_si256(to + 1, pair(x[1], x[3]));
        });
      }
    }
  }
}

// acc[v] += table[index[v]]. In assembly, and volatile, because gcc 12 otherwise stores every sum in every step.
ULP_INLINE void look_up_add(Vec& acc, Vec table, Vec index) {
#if defined(__GNUC__)
  Vec entry;
  __asm__ volatile("vpermb %2, %3, %1\n\tvpaddb %1, %0, %0" : "+v"(acc), "=&v"(entry) : "v"(table), "v"(index));
#else
  acc = _mm512_add_epi8(acc, _mm512_permutexvar_epi8(index, table));
#endif
}

// u16 sums of a row and 64 columns: `all` holds even and odd bytes together modulo 2^16, even = all - (odd << 8).
struct Wide {
  Vec all;
  Vec odd;
};

// Joins bytes, which start again from zero.
ULP_INLINE void spill(Wide& wide, Vec& bytes) {
#if defined(__GNUC__)
  __asm__ volatile("vpaddw %2, %0, %0\n\tvpsrlw $8, %2, %2\n\tvpaddw %2, %1, %1\n\tvpxor %x2, %x2, %x2"
                   : "+v"(wide.all), "+v"(wide.odd), "+x"(bytes));
#else
  wide.all = _mm512_add_epi16(wide.all, bytes);
  wide.odd = _mm512_add_epi16(wide.odd, _mm512_srli_epi16(bytes, 8));
  bytes = zero();
#endif
}

template <int planes, int rows, int vectors>
void tile(const Tile& args) {
  const Tile t = args;  // a copy that no store to C can alias
  prefetch_c<rows, vectors * kIndexUnits>(t, 0);
  const uint8_t* a[rows];
  ULP_UNROLL for (int r = 0; r < rows; ++r) a[r] = t.a + r * t.a_stride;
  const uint8_t* b = t.b;
  Wide wide[rows][vectors];
  ULP_UNROLL for (int r = 0; r < rows; ++r) { ULP_UNROLL for (int v = 0; v < vectors; ++v) wide[r][v].all = wide[r][v].odd = zero(); }
  Vec acc[rows][vectors];
  ULP_UNROLL for (int r = 0; r < rows; ++r) { ULP_UNROLL for (int v = 0; v < vectors; ++v) acc[r][v] = zero(); }
  const int64_t words = t.k;  // counted by run
  for (int64_t done = 0; done < words;) {
    const int64_t end = words - done < t.spill_every ? words : done + t.spill_every;
    for (; done < end; ++done) {
      const int64_t at = done * planes * 16;
      for (int i = 0; i < kIndices; ++i, b += vectors * kIndexCols) {
        Vec index[vectors];
        ULP_UNROLL for (int v = 0; v < vectors; ++v) index[v] = load(b + v * kIndexCols);
        ULP_UNROLL for (int r = 0; r < rows; ++r) {
          Vec table = zero();
          ULP_UNROLL for (int p = 0; p < planes; ++p) {
            uint16_t offset;
            __builtin_memcpy(&offset, a[r] + at + p * 16 + 2 * i, 2);
            const Vec part = load(t.table + p * kEntries * kEntries + offset);
            table = p == 0 ? part : _mm512_add_epi8(table, part);
          }
          ULP_UNROLL for (int v = 0; v < vectors; ++v) look_up_add(acc[r][v], table, index[v]);
        }
      }
    }
    ULP_UNROLL for (int r = 0; r < rows; ++r) { ULP_UNROLL for (int v = 0; v < vectors; ++v) spill(wide[r][v], acc[r][v]); }
  }
  const uint32_t bias = static_cast<uint32_t>(words) * static_cast<uint32_t>(t.step_bias) << t.shift;
  Vec base[rows];
  ULP_UNROLL for (int r = 0; r < rows; ++r) base[r] = add_sums(row_term(t, r), same_sums(static_cast<int32_t>(bias)));
  ULP_UNROLL for (int r = 0; r < rows; ++r) {
    ULP_UNROLL for (int v = 0; v < vectors; ++v) {
      const Wide& w = wide[r][v];
      const Vec even = _mm512_sub_epi16(w.all, _mm512_slli_epi16(w.odd, 8));  // columns 0 .. 31
      ULP_UNROLL for (int i = 0; i < 4; ++i) {
        const int unit = v * kIndexUnits + i * kVecUnits;
        if (unit >= t.units) break;
        const Vec half = i < 2 ? even : w.odd;
        const __m256i sums = i % 2 == 0 ? _mm512_castsi512_si256(half) : _mm512_extracti64x4_epi64(half, 1);
        store_result(t, r, unit, base[r], _mm512_cvtepu16_epi32(sums));
      }
    }
  }
}

template <int planes, int rows, int vectors>
void tile_of_vectors(const Tile& t) {
  if constexpr (vectors > 1) {
    if (t.units <= (vectors - 1) * kIndexUnits) return tile_of_vectors<planes, rows, vectors - 1>(t);
  }
  tile<planes, rows, vectors>(t);
}

template <int planes, int rows>
void tile_of_rows(const Tile& t) {
  if constexpr (rows > 1) {
    if (t.rows < rows) return tile_of_rows<planes, rows - 1>(t);
  }
  tile_of_vectors<planes, rows, kMaxVectors>(t);
}

template <int planes, int b_bits>
void run(const Tile& args) {
  Tile t = args;
  t.k = ceil_div(args.k, kUnitK) * b_bits;  // words
  tile_of_rows<planes, kRows>(t);
}

template <int a_bits, int b_bits>
KernelAtBits bind_pair() {
  constexpr int kPlanes = planes(a_bits, b_bits);
  KernelAtBits b;
  b.centre_a = b.centre_b = centre(a_bits, b_bits);
  b.spill_every = spill_every(a_bits, b_bits);
  b.table = kTables<a_bits, b_bits>.entries[0][0];
  b.step_bias = -word_bias(a_bits, b_bits);
  b.max_kc = kMaxKc;
  b.a_bytes = 16 * kPlanes * b_bits;
  b.panel_bytes = kIndices * b_bits * kUnitCols;
  b.pack_a = pack_offsets<a_bits, b_bits>;
  b.expand = expand<b_bits>;
  b.run = run<kPlanes, b_bits>;
  return b;
}

}  // namespace

bool supports(int a_bits, int b_bits) { return b_bits == 1 ? a_bits <= 3 : b_bits == 2 && a_bits <= 2; }

KernelAtBits bind(int a_bits, int b_bits) {
  if (b_bits == 2) return a_bits == 1 ? bind_pair<1, 2>() : bind_pair<2, 2>();
  return a_bits == 1 ? bind_pair<1, 1>() : a_bits == 2 ? bind_pair<2, 1>() : bind_pair<3, 1>();
}

}  // namespace ulp::lut_avx512vbmi
