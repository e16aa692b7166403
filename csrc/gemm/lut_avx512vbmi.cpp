// lut on AVX-512 VBMI: vpermb as a table of 64 partial sums, tile 4 x 128, for 1-bit weights at A2 and A3.
//
//   An index is six 1-bit weights. Of each column, 32 k of the bitpacked data make a word of 32 bits, and a word makes six indices, of 6,
//   6, 5, 5, 5 and 5 bits. The order of k in a word is that of the data: byte i, bit j is k = 4 j + i.
//
//   Panel: one byte per column and index; column i and column i + 32 of 64 side by side, so that the even bytes of sums are the lower ones:
//          | word 0, index 0: columns 0 .. 63 | 64 .. 127 | index 1: ..
//   A: cut into bit planes. A word of a plane makes six offsets into 64 constant tables of 64 bytes, u16; two more are unused:
//          | word 0: plane 0: 8 u16 | plane 1 .. | word 1: ..
//      A step's table is the sum of its planes' tables, made while it runs and shared by the columns.
//
// KernelAtBits. An entry is at most 6 (2^a - 1). They gather in u8 for whole words: 255 / entry / 6 of them, 2 for A2 and 1 for A3. u8 sums
// go to u16: a K-block of 512 adds at most 512 * 7 = 3584 <= 65535.
//
// Ceiling on Sapphire Rapids: a shuffle and an addition for 64 columns, one shuffle per cycle: 341 multiply-accumulates per cycle before
// the tables of more planes (one addition each per row) and the spills (three operations per accumulator). Tables of 128 entries
// (vpermi2b) take two shuffles each. What else was tried (A1, 2-bit weights) is in bench/NOTES.md.
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
constexpr int kPlaneBytes = 16;  // of A, per word

// Where the indices of a word lie.
constexpr int index_at(int i) { return i < 3 ? 6 * i : 5 * i + 2; }
constexpr int index_width(int i) { return (i + 1 < kIndices ? index_at(i + 1) : 32) - index_at(i); }
static_assert(index_width(0) == 6 && index_width(1) == 6 && index_width(2) == 5 && index_width(5) == 5, "32 bits");

// In words.
constexpr int spill_every(int a_bits) { return accumulation_length(255, kIndices, 6 * max_product(a_bits, 0, 1, 0)); }
static_assert(spill_every(2) == 2 && spill_every(3) == 1, "u8 sums");

// Plane p, row r, entry e: how many bits r and e have in common, times 2^p.
template <int planes>
struct Tables {
  alignas(64) uint8_t entries[planes][kEntries][kEntries];

  constexpr Tables() : entries() {
    for (int r = 0; r < kEntries; ++r) {
      for (int e = 0; e < kEntries; ++e) {
        int sum = 0;
        for (int i = 0; i < 6; ++i) sum += (r & e) >> i & 1;
        for (int p = 0; p < planes; ++p) entries[p][r][e] = static_cast<uint8_t>(sum << p);
      }
    }
  }
};

template <int planes>
constexpr Tables<planes> kTables{};

// Plane `plane` of 32 codes, in the order of the bitpacked data.
uint32_t word_of(const uint8_t* codes, int plane) {
  const __m256i order = _mm256_setr_epi8(0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29, 2, 6, 10, 14, 18, 22, 26, 30, 3, 7, 11,
                                         15, 19, 23, 27, 31);
  const __m256i x = _mm256_permutexvar_epi8(order, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)));
  return _mm256_test_epi8_mask(x, _mm256_set1_epi8(static_cast<char>(1 << plane)));
}

template <int planes>
void pack_offsets(const uint8_t* codes, int64_t stride, int rows, int64_t k32, uint8_t* out, int64_t out_stride) {
  const __m256i shifts = _mm256_setr_epi32(index_at(0), index_at(1), index_at(2), index_at(3), index_at(4), index_at(5), 0, 0);
  const __m256i masks = _mm256_setr_epi32(63, 63, 31, 31, 31, 31, 0, 0);
  for (int r = 0; r < rows; ++r, codes += stride, out += out_stride) {
    uint8_t* to = out;
    for (int64_t k = 0; k < k32; k += kUnitK) {
      for (int p = 0; p < planes; ++p, to += kPlaneBytes) {
        const __m256i word = _mm256_set1_epi32(static_cast<int>(word_of(codes + k, p)));
        const __m256i offsets = _mm256_slli_epi32(_mm256_and_si256(_mm256_srlv_epi32(word, shifts), masks), 6);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtepi32_epi16(offsets));
      }
    }
  }
}

void expand(const BitpackedSlice& s, uint8_t* panel) {
  const int vectors = static_cast<int>(ceil_div(s.units, kIndexUnits));
  for (int64_t kb = 0; kb < s.k_blocks; ++kb, panel += int64_t{kIndices} * vectors * kIndexCols) {
    for (int q = 0; q < vectors; ++q) {
      Vec x[4];  // 16 columns each
      ULP_UNROLL for (int i = 0; i < 4; ++i) {
        const int unit = q * kIndexUnits + i * kVecUnits;
        x[i] = unit < s.units ? stored(units_of(s, kb, unit), 0) : zero();
      }
      unrolled<kIndices>([&](auto i) {
        constexpr int at = index_at(i.value);
        const Vec mask = same_sums((1 << index_width(i.value)) - 1);
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
  const Tile t = own_copy(args);
  prefetch_c<rows, vectors * kIndexUnits>(t, 0);
  const uint8_t* a[rows];
  ULP_UNROLL for (int r = 0; r < rows; ++r) a[r] = t.a + r * t.a_stride;
  const uint8_t* b = t.b;
  Wide wide[rows][vectors];
  ULP_UNROLL for (int r = 0; r < rows; ++r) { ULP_UNROLL for (int v = 0; v < vectors; ++v) wide[r][v].all = wide[r][v].odd = zero(); }
  Vec acc[rows][vectors];
  ULP_UNROLL for (int r = 0; r < rows; ++r) { ULP_UNROLL for (int v = 0; v < vectors; ++v) acc[r][v] = zero(); }
  const int64_t words = ceil_div(t.k, kUnitK);
  for (int64_t done = 0; done < words;) {
    const int64_t end = words - done < t.spill_every ? words : done + t.spill_every;
    for (; done < end; ++done) {
      const int64_t at = done * planes * kPlaneBytes;
      for (int i = 0; i < kIndices; ++i, b += vectors * kIndexCols) {
        Vec index[vectors];
        ULP_UNROLL for (int v = 0; v < vectors; ++v) index[v] = load(b + v * kIndexCols);
        ULP_UNROLL for (int r = 0; r < rows; ++r) {
          Vec table = zero();
          ULP_UNROLL for (int p = 0; p < planes; ++p) {
            uint16_t offset;
            __builtin_memcpy(&offset, a[r] + at + p * kPlaneBytes + 2 * i, 2);
            const Vec part = load(t.table + p * kEntries * kEntries + offset);
            table = p == 0 ? part : _mm512_add_epi8(table, part);
          }
          ULP_UNROLL for (int v = 0; v < vectors; ++v) look_up_add(acc[r][v], table, index[v]);
        }
      }
    }
    ULP_UNROLL for (int r = 0; r < rows; ++r) { ULP_UNROLL for (int v = 0; v < vectors; ++v) spill(wide[r][v], acc[r][v]); }
  }
  Vec base[rows];
  ULP_UNROLL for (int r = 0; r < rows; ++r) base[r] = row_term(t, r);
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

template <int planes>
KernelAtBits bind_planes() {
  KernelAtBits b;
  b.spill_every = spill_every(planes);
  b.table = kTables<planes>.entries[0][0];
  b.max_kc = kMaxKc;
  b.a_bytes = kPlaneBytes * planes;
  b.panel_bytes = kIndices * kUnitCols;
  b.pack_a = pack_offsets<planes>;
  b.expand = expand;
  b.run = tile_of_rows<planes, kRows>;
  return b;
}

}  // namespace

bool supports(int a_bits, int b_bits) { return b_bits == 1 && (a_bits == 2 || a_bits == 3); }

KernelAtBits bind(int a_bits, int) { return a_bits == 2 ? bind_planes<2>() : bind_planes<3>(); }

}  // namespace ulp::lut_avx512vbmi
