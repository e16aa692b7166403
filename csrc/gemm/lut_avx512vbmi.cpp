// lut on AVX-512 VBMI: vpermb as a table of 64 partial sums, tile 4 x 128, for 1-bit weights up to A3 and 2-bit weights up to A2.
//
//   An index is six bits of weights: six weights of 1 bit, or three of 2 bits. Of each column, 32 bits of the bitpacked data (32 k at 1
//   bit, 16 k at 2 bits) make a word. Two words make eleven indices, six that begin in the first one and five in the second, the last of 4
//   bits; a word that is left over makes six, the last of 2 bits. The order of k in a word is that of the data: byte i, digit f is
//   k = 4 f + i.
//
//   Panel: one byte per column and index, columns i, i + 16, i + 32 and i + 48 of 64 in the lane of 32 bits of which i is the number:
//          | word 0, index 0: columns 0 .. 63 | 64 .. 127 | index 1: ..
//   A: cut into planes of digits as wide as the weights' (1 bit: one plane per bit; 2 bits: one plane). A word of a plane makes offsets
//   into
//      64 constant tables of 64 bytes, six u16, of which the second word of two uses five:  | word 0: plane 0: 6 u16 | plane 1 .. | word 1:
//      .. A step's table is the sum of its planes' tables, made while it runs and shared by the columns.
//
// KernelAtBits. An entry of W1 is at most 6 (2^a - 1); of W2A1 3 * 3; W2A2 is centred, which narrows a product to -2 .. 4, so an entry,
// with the digit that a short index lacks, stays within 3 * 6. They gather in u8 for whole words: 255 / entry / 6 of them. u8 sums go to
// 16 bits: a K-block of 2048 adds at most 2048 * 7 = 14336, W2A1 1024 * 3, W2A2 one of 1024 32 * 11 * 18 = 6336 <= 32767.
//
// Ceiling: a shuffle and an addition for 64 columns, one shuffle per cycle on Sapphire Rapids and on Zen 4: 352 multiply-accumulates per
// cycle at W1 (eleven indices for 64 k), 186 at W2, before the tables of more planes (one addition each per row) and the spills (three
// operations per accumulator). Zen 4 gets there only if two shuffles are followed by two additions: taking turns, they reach 0.8 shuffles
// per cycle. What else was tried is in bench/NOTES.md.
#include "bitpacked_avx512.h"

namespace ulp::lut_avx512vbmi {
namespace {

constexpr int kIndexCols = 64;
constexpr int kIndexUnits = kIndexCols / kUnitCols;
constexpr int kMaxVectors = 2;  // of 64 columns
constexpr int kRows = 4;
constexpr int kIndexBits = 6;
constexpr int kIndices = 6;       // of a word, at most
constexpr int kPairIndices = 11;  // of two words
constexpr int kEntries = 64;
constexpr int kPlaneBytes = 2 * kIndices;  // of A, per word

constexpr int64_t words_of(int64_t k32, int b_bits) { return ceil_div(k32, kUnitK) * b_bits; }

constexpr int planes(int a_bits, int b_bits) { return b_bits == 1 ? a_bits : 1; }
constexpr int centre(int a_bits, int b_bits) { return a_bits == 2 && b_bits == 2 ? 2 : 0; }
constexpr int digits(int b_bits) { return kIndexBits / b_bits; }

// What an entry is raised by to be unsigned, and the largest entry.
constexpr int raise(int a_bits, int b_bits) { return centre(a_bits, b_bits) ? 2 * digits(b_bits) : 0; }
constexpr int largest(int a_bits, int b_bits) {
  return centre(a_bits, b_bits) ? 6 * digits(b_bits) : digits(b_bits) * max_product(a_bits, 0, b_bits, 0);
}

// What 32 k of 2-bit weights, two words, were raised by in sum: the digit that their last index lacks is 0 on both sides,
// (0 - 2) (0 - 2) = 4.
constexpr int unit_bias(int a_bits, int b_bits) { return centre(a_bits, b_bits) ? kPairIndices * raise(a_bits, b_bits) + 4 : 0; }

// In words.
constexpr int spill_every(int a_bits, int b_bits) { return accumulation_length(255, kIndices, largest(a_bits, b_bits)); }
static_assert(spill_every(1, 1) == 7 && spill_every(2, 1) == 2 && spill_every(3, 1) == 1, "u8 sums");
static_assert(spill_every(1, 2) == 4 && spill_every(2, 2) == 2, "u8 sums");

// Plane p, row r, entry e: the digits of r times those of e, times the weight of the plane.
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
        for (int i = 0; i < kIndexBits; i += b_bits) {
          sum += ((r >> i & ((1 << b_bits) - 1)) - kCentre) * ((e >> i & ((1 << b_bits) - 1)) - kCentre);
        }
        // A 1-bit digit of A never has the upper bit that some rows of W2A1 stand for.
        for (int p = 0; p < kPlanes; ++p) entries[p][r][e] = static_cast<uint8_t>(sum << p);
      }
    }
  }
};

template <int a_bits, int b_bits>
constexpr Tables<a_bits, b_bits> kTables{};

// The word of a plane: digits of 32 / b_bits codes, in the order of the bitpacked data.
template <int b_bits>
uint64_t word_of(const uint8_t* codes, int plane) {
  if constexpr (b_bits == 1) {
    const __m256i order = _mm256_setr_epi8(0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29, 2, 6, 10, 14, 18, 22, 26, 30, 3, 7, 11,
                                           15, 19, 23, 27, 31);
    const __m256i x = _mm256_permutexvar_epi8(order, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)));
    return _mm256_test_epi8_mask(x, _mm256_set1_epi8(static_cast<char>(1 << plane)));
  } else {
    const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m128i x = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)), order);
    x = _mm_madd_epi16(_mm_maddubs_epi16(_mm_and_si128(x, _mm_set1_epi8(3)), _mm_set1_epi16(1 | 4 << 8)), _mm_set1_epi32(1 | 16 << 16));
    return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_cvtepi32_epi8(x)));
  }
}

template <int a_bits, int b_bits>
void pack_offsets(const uint8_t* codes, int64_t stride, int rows, int64_t k32, uint8_t* out, int64_t out_stride) {
  constexpr int kPlanes = planes(a_bits, b_bits);
  constexpr int kWordK = kUnitK / b_bits;
  // The indices of the first word in the lower half, those of the second one in the upper half, of which the last has 4 bits. Whatever the
  // codes are by now (another thread may write to them), the masks let no offset pass the last table.
  const __m128i shifts = _mm_setr_epi8(0, 6, 12, 18, 24, 30, 0, 0, 36, 42, 48, 54, 60, 0, 0, 0);
  const __m128i masks = _mm_setr_epi8(63, 63, 63, 63, 63, 63, 0, 0, 63, 63, 63, 63, 15, 0, 0, 0);
  const auto store_six = [](uint8_t* to, __m128i offsets) {
    const int32_t last = _mm_extract_epi32(offsets, 2);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), offsets);
    __builtin_memcpy(to + 8, &last, 4);
  };
  for (int r = 0; r < rows; ++r, codes += stride, out += out_stride) {
    uint8_t* to = out;
    for (int64_t k = 0; k < k32; k += 2 * kWordK, to += 2 * kPlanes * kPlaneBytes) {
      const bool both = k + kWordK < k32;
      for (int p = 0; p < kPlanes; ++p) {
        const uint64_t words = word_of<b_bits>(codes + k, p) | (both ? word_of<b_bits>(codes + k + kWordK, p) << 32 : 0);
        const __m128i at = _mm_multishift_epi64_epi8(shifts, _mm_set1_epi64x(static_cast<int64_t>(words)));
        const __m256i offsets = _mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_and_si128(at, masks)), 6);
        store_six(to + p * kPlaneBytes, _mm256_castsi256_si128(offsets));
        if (both) store_six(to + (kPlanes + p) * kPlaneBytes, _mm256_extracti128_si256(offsets, 1));
      }
    }
  }
}

// Two words of 16 columns, shifted right by `by` bits, or left; the lower 32 bits.
template <int by>
Vec shifted(const Vec (&x)[2]) {
  if constexpr (by < 0) return _mm512_slli_epi32(x[0], -by);
  if constexpr (by >= 32) return _mm512_srli_epi32(x[1], by - 32);
  return _mm512_shrdi_epi32(x[0], x[1], by & 31);
}

// `count` words of 64 columns, one or two. vpermb ignores the upper two bits of a byte, so that other bits may lie there.
ULP_INLINE void expand_words(const Vec (&x)[4][2], int count, uint8_t* panel, int64_t step_bytes) {
  unrolled<kPairIndices>([&](auto i) {
    constexpr int kAt = kIndexBits * i.value;
    if (i.value >= kIndices && count == 1) return;
    const Vec low = _mm512_mask_blend_epi8(0x2222222222222222, shifted<kAt>(x[0]), shifted<kAt - 8>(x[1]));
    const Vec high = _mm512_mask_blend_epi8(0x8888888888888888, shifted<kAt - 16>(x[2]), shifted<kAt - 24>(x[3]));
    store(panel + i.value * step_bytes, _mm512_mask_blend_epi8(0xCCCCCCCCCCCCCCCC, low, high));
  });
}

template <int b_bits>
void expand(const BitpackedSlice& s, uint8_t* panel) {
  const int vectors = static_cast<int>(ceil_div(s.units, kIndexUnits));
  const int64_t step_bytes = int64_t{vectors} * kIndexCols;
  const int64_t words = s.k_blocks * b_bits;
  for (int64_t w = 0; w < words; w += 2, panel += kPairIndices * step_bytes) {
    const bool both = w + 1 < words;
    for (int q = 0; q < vectors; ++q) {
      Vec x[4][2];  // 16 columns each
      ULP_UNROLL for (int i = 0; i < 4; ++i) {
        const int unit = q * kIndexUnits + i * kVecUnits;
        const auto word = [&](int64_t at) { return stored(units_of(s, at / b_bits, unit), static_cast<int>(at % b_bits)); };
        x[i][0] = unit < s.units ? word(w) : zero();
        x[i][1] = both && unit < s.units ? word(w + 1) : zero();
      }
      expand_words(x, both ? 2 : 1, panel + q * kIndexCols, step_bytes);
    }
  }
}

// acc[v] += table[index[v]]. In assembly, and volatile, because gcc 12 otherwise stores every sum in every step.
template <int vectors>
ULP_INLINE void look_up_add(Vec (&acc)[vectors], Vec table, const Vec (&index)[vectors]) {
#if defined(__GNUC__)
  Vec x, y;
  if constexpr (vectors == 2) {
    __asm__ volatile("vpermb %4, %5, %2\n\tvpermb %4, %6, %3\n\tvpaddb %2, %0, %0\n\tvpaddb %3, %1, %1"
                     : "+v"(acc[0]), "+v"(acc[1]), "=&v"(x), "=&v"(y)
                     : "v"(table), "v"(index[0]), "v"(index[1]));
  } else {
    __asm__ volatile("vpermb %2, %3, %1\n\tvpaddb %1, %0, %0" : "+v"(acc[0]), "=&v"(x) : "v"(table), "v"(index[0]));
  }
#else
  for (int v = 0; v < vectors; ++v) acc[v] = _mm512_add_epi8(acc[v], _mm512_permutexvar_epi8(index[v], table));
#endif
}

// Sums of a row and 64 columns in 16 bits: `all` holds even and odd bytes together modulo 2^16, even = all - (odd << 8).
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

// whole: all columns are there. One test decides for the tile, since one per store would take longer than the stores.
template <bool whole, int rows, int vectors>
ULP_INLINE void store_tile(const Tile& t, const Wide (&wide)[rows][vectors]) {
  const uint32_t bias = static_cast<uint32_t>(ceil_div(t.k, kUnitK)) * static_cast<uint32_t>(t.step_bias) << t.shift;
  const int64_t ldc = t.ldc, from_ld = t.accumulate ? ldc : 0;  // copies that no store can alias
  const int units = t.units;
  const int32_t* from = t.accumulate ? t.c : t.col;
  int32_t* c = t.c;
  // Of a lane's two sums of 16 bits the lower or the upper one, shifted and added in one operation.
  const Vec lower = same_sums(1 << t.shift), upper = same_sums(1 << (16 + t.shift));
  Vec base[rows];
  ULP_UNROLL for (int r = 0; r < rows; ++r) base[r] = add_sums(row_term(t, r), same_sums(static_cast<int32_t>(bias)));
  ULP_UNROLL for (int r = 0; r < rows; ++r, c += ldc, from += from_ld) {
    ULP_UNROLL for (int v = 0; v < vectors; ++v) {
      const Wide& w = wide[r][v];
      const Vec even = _mm512_sub_epi16(w.all, _mm512_slli_epi16(w.odd, 8));
      ULP_UNROLL for (int i = 0; i < 4; ++i) {
        const int at = v * kIndexCols + i * kVecCols;
        const int left = whole ? kVecUnits : units - at / kUnitCols;
        if (!whole && left <= 0) break;
        const Vec old = whole ? _mm512_loadu_si512(from + at) : load_columns(from + at, left);
        const Vec sums = _mm512_dpwssd_epi32(add_sums(old, base[r]), i % 2 == 0 ? even : w.odd, i < 2 ? lower : upper);
        if constexpr (whole) {
          _mm512_storeu_si512(c + at, sums);
        } else {
          store_columns(c + at, sums, left);
        }
      }
    }
  }
}

template <int rows, int vectors>
ULP_INLINE void spill(Wide (&wide)[rows][vectors], Vec (&acc)[rows][vectors]) {
  ULP_UNROLL for (int r = 0; r < rows; ++r) { ULP_UNROLL for (int v = 0; v < vectors; ++v) spill(wide[r][v], acc[r][v]); }
}

// The `count` indices of a word, known to the compiler: a loop's end would be mispredicted as often as words are of six and five in turns.
template <int planes, int count, int rows, int vectors>
ULP_INLINE void look_up(const uint8_t* tables, const uint8_t* (&a)[rows], const uint8_t*& b, Vec (&acc)[rows][vectors]) {
  ULP_UNROLL for (int i = 0; i < count; ++i, b += vectors * kIndexCols) {
    Vec index[vectors];
    ULP_UNROLL for (int v = 0; v < vectors; ++v) index[v] = load(b + v * kIndexCols);
    ULP_UNROLL for (int r = 0; r < rows; ++r) {
      Vec table = zero();
      ULP_UNROLL for (int p = 0; p < planes; ++p) {
        uint16_t offset;
        __builtin_memcpy(&offset, a[r] + p * kPlaneBytes + 2 * i, 2);
        const Vec part = load(tables + p * kEntries * kEntries + offset);
        table = p == 0 ? part : _mm512_add_epi8(table, part);
      }
      look_up_add(acc[r], table, index);
    }
  }
  ULP_UNROLL for (int r = 0; r < rows; ++r) a[r] += planes * kPlaneBytes;
}

template <int planes, int rows, int vectors>
void tile(const Tile& args, int64_t words) {
  const Tile t = own_copy(args);
  prefetch_c<rows, vectors * kIndexUnits>(t, 0);
  const uint8_t* a[rows];
  ULP_UNROLL for (int r = 0; r < rows; ++r) a[r] = t.a + r * t.a_stride;
  const uint8_t* b = t.b;
  Wide wide[rows][vectors];
  ULP_UNROLL for (int r = 0; r < rows; ++r) { ULP_UNROLL for (int v = 0; v < vectors; ++v) wide[r][v].all = wide[r][v].odd = zero(); }
  Vec acc[rows][vectors];
  ULP_UNROLL for (int r = 0; r < rows; ++r) { ULP_UNROLL for (int v = 0; v < vectors; ++v) acc[r][v] = zero(); }
  const bool spills_words = t.spill_every < 2;
  const int64_t pairs_per_spill = spills_words ? 1 : t.spill_every / 2;
  for (int64_t left = words / 2; left > 0;) {
    const int64_t until = left < pairs_per_spill ? 0 : left - pairs_per_spill;
    for (; left > until; --left) {
      look_up<planes, kIndices>(t.table, a, b, acc);
      if (spills_words) spill(wide, acc);
      look_up<planes, kPairIndices - kIndices>(t.table, a, b, acc);
    }
    spill(wide, acc);
  }
  if (words % 2 != 0) {
    look_up<planes, kIndices>(t.table, a, b, acc);
    spill(wide, acc);
  }
  if (t.units == vectors * kIndexUnits) {
    store_tile<true>(t, wide);
  } else {
    store_tile<false>(t, wide);
  }
}

template <int planes, int rows, int vectors>
void tile_of_vectors(const Tile& t, int64_t words) {
  if constexpr (vectors > 1) {
    if (t.units <= (vectors - 1) * kIndexUnits) return tile_of_vectors<planes, rows, vectors - 1>(t, words);
  }
  tile<planes, rows, vectors>(t, words);
}

template <int planes, int rows>
void tile_of_rows(const Tile& t, int64_t words) {
  if constexpr (rows > 1) {
    if (t.rows < rows) return tile_of_rows<planes, rows - 1>(t, words);
  }
  tile_of_vectors<planes, rows, kMaxVectors>(t, words);
}

template <int planes, int b_bits>
void run(const Tile& t) {
  tile_of_rows<planes, kRows>(t, words_of(t.k, b_bits));
}

template <int a_bits, int b_bits>
KernelAtBits bind_pair() {
  constexpr int kPlanes = planes(a_bits, b_bits);
  KernelAtBits b;
  b.centre_a = b.centre_b = centre(a_bits, b_bits);
  b.spill_every = spill_every(a_bits, b_bits);
  b.table = kTables<a_bits, b_bits>.entries[0][0];
  b.step_bias = -unit_bias(a_bits, b_bits);
  b.max_kc = 2048 / b_bits;
  b.a_bytes = kPlaneBytes * kPlanes * b_bits;
  b.panel_bytes = kIndices * b_bits * kUnitCols;
  b.pack_a = pack_offsets<a_bits, b_bits>;
  b.expand = expand<b_bits>;
  b.run = run<kPlanes, b_bits>;
  return b;
}

}  // namespace

extern constexpr BitPairs pairs =
    pairs_where([](int a_bits, int b_bits) { return b_bits == 1 ? a_bits <= 3 : b_bits == 2 && a_bits <= 2; });

KernelAtBits bind(int a_bits, int b_bits) {
  if (b_bits == 2) return a_bits == 1 ? bind_pair<1, 2>() : bind_pair<2, 2>();
  return a_bits == 1 ? bind_pair<1, 1>() : a_bits == 2 ? bind_pair<2, 1>() : bind_pair<3, 1>();
}

}  // namespace ulp::lut_avx512vbmi
