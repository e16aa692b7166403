// lut on AVX2: vpshufb as a table of partial sums, tile 3 x 96, for 1- and 2-bit weights.
//
//   Sixteen entries hold what g activations contribute for every pattern of g weights: g = 4 weights of 1 bit or 2 of 2 bits, so that one
//   vpshufb and one vpaddb do 32 columns x g products.
//
//   Panel: one byte a column and step, the pattern of its g weights:  | step 0: columns 0 .. 31 | 32 .. 63 | 64 .. 95 | step 1: ...
//   A, indexed: which table a step uses. g activations of a bits have 2^(g a) values, so up to 8 bits all tables there can be are constants
//      (16 to 4096 bytes, in L1) and A holds a u16 offset a step: no table is ever built at run time.
//   A, in memory (W1A3, W1A4): 2^(g a) tables are too many, A holds the 16 bytes themselves.
//
// Bound. Entries are sum (u_a - centre_a)(u_b - centre_b) - step_bias, in [0, g * range], where range is the largest product minus the
// smallest, and gather in u8 for flush = floor(255 / (g range)) steps: 63 for W1A1, 21 for W1A2 and W2A2, 9 for W1A3 and W2A3, 4 for W1A4
// and W2A4. Centring both operands of W2A2 narrows the range of a product from 9 to 6. The u8 sums go to u16: a K-block of 512 is at most
// 256 steps of 60, 15360 <= 65535.
//
// Ceiling on Zen 3: 18 vector operations and 9 loads (and 3 scalar ones) a step. Measured from L1: 188 multiply-accumulates a cycle at g =
// 4, 94 at g = 2, before the spills, which take 3 operations and 2 stores an accumulator.
#include "dense_avx2.h"

namespace ulp::lut_avx2 {
namespace {

constexpr int kMaxVectors = 3;  // of 32 columns
constexpr int kMaxKc = 512;

constexpr int group(int b_bits) { return b_bits == 1 ? 4 : 2; }
// Centring narrows the range of a product only where both operands have two signs.
constexpr int centre(int bits, int other_bits) { return bits == 1 || other_bits == 1 ? 0 : 1 << (bits - 1); }

struct Extent {
  int lo;
  int hi;
};

// Smallest and largest product of centred codes.
constexpr Extent product_extent(int a_bits, int b_bits) {
  Extent e{0, 0};
  for (int a = 0; a < 1 << a_bits; ++a) {
    for (int b = 0; b < 1 << b_bits; ++b) {
      const int product = (a - centre(a_bits, b_bits)) * (b - centre(b_bits, a_bits));
      e.lo = product < e.lo ? product : e.lo;
      e.hi = product > e.hi ? product : e.hi;
    }
  }
  return e;
}

constexpr int step_bias(int a_bits, int b_bits) { return group(b_bits) * product_extent(a_bits, b_bits).lo; }

constexpr int local_steps(int a_bits, int b_bits) {
  const Extent e = product_extent(a_bits, b_bits);
  return accumulation_length(255, group(b_bits), e.hi - e.lo);
}
static_assert(local_steps(1, 1) == 63 && local_steps(2, 1) == 21 && local_steps(3, 1) == 9 && local_steps(4, 1) == 4, "u8 sums");
static_assert(local_steps(1, 2) == 42 && local_steps(2, 2) == 21 && local_steps(3, 2) == 9 && local_steps(4, 2) == 4, "u8 sums");

constexpr bool indexed(int a_bits, int b_bits) { return a_bits * group(b_bits) <= 8; }

// Row r: the activations are the a-bit digits of r, first one lowest. Entry e: the weights are the b-bit digits of e.
template <int a_bits, int b_bits>
struct Tables {
  static constexpr int kTables = 1 << (a_bits * group(b_bits));
  alignas(64) uint8_t entries[kTables][16];

  constexpr Tables() : entries() {
    constexpr int kGroup = group(b_bits);  // constants of their own: clang counts the steps of each evaluation
    constexpr int kBias = step_bias(a_bits, b_bits);
    constexpr int kCentreA = centre(a_bits, b_bits);
    constexpr int kCentreB = centre(b_bits, a_bits);
    for (int r = 0; r < kTables; ++r) {
      for (int e = 0; e < 16; ++e) {
        int sum = -kBias;
        for (int i = 0; i < kGroup; ++i) {
          const int a = r >> (i * a_bits) & ((1 << a_bits) - 1);
          const int b = e >> (i * b_bits) & ((1 << b_bits) - 1);
          sum += (a - kCentreA) * (b - kCentreB);
        }
        entries[r][e] = static_cast<uint8_t>(sum);
      }
    }
  }
};

template <int a_bits, int b_bits>
constexpr Tables<a_bits, b_bits> kTables{};

__m256i set_bytes(int b0, int b1, int b2, int b3) { return _mm256_set1_epi32(b0 | b1 << 8 | b2 << 16 | b3 << 24); }

// 32 codes -> 16 offsets (g = 2) or 8 (g = 4) of 16-byte tables, u16.
template <int a_bits, int b_bits>
void pack_offsets(const uint8_t* codes, int64_t stride, int rows, int64_t k32, uint8_t* out, int64_t out_stride) {
  constexpr int radix = 1 << a_bits;
  const __m256i pair = set_bytes(1, radix, 1, radix);
  // The codes were in range when they were checked. If another thread has changed A since, the sums are its own fault, but a table beyond
  // the last one must not be read.
  const __m256i code = _mm256_set1_epi8(radix - 1);
  for (int r = 0; r < rows; ++r, codes += stride, out += out_stride) {
    for (int64_t k = 0; k < k32; k += kUnitK) {
      __m256i x = _mm256_maddubs_epi16(_mm256_and_si256(load(codes + k), code), pair);
      if constexpr (group(b_bits) == 2) {
        store(out + 2 * (k / 2), _mm256_slli_epi16(x, 4));
      } else {
        x = _mm256_madd_epi16(x, _mm256_set1_epi32(1 | radix * radix << 16));
        x = _mm256_permute4x64_epi64(_mm256_packus_epi32(x, x), 0x08);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 2 * (k / 4)), _mm_slli_epi16(_mm256_castsi256_si128(x), 4));
      }
    }
  }
}

// 8 codes -> two tables of 16 bytes: entry e is the sum of the activations whose bit is set in e.
void pack_tables(const uint8_t* codes, int64_t stride, int rows, int64_t k32, uint8_t* out, int64_t out_stride) {
  alignas(32) uint8_t pick[4][32];
  alignas(32) uint8_t mask[4][32];
  for (int i = 0; i < 4; ++i) {
    for (int e = 0; e < 32; ++e) {
      pick[i][e] = static_cast<uint8_t>(e < 16 ? i : 4 + i);
      mask[i][e] = e >> i & 1 ? 0xFF : 0;
    }
  }
  for (int r = 0; r < rows; ++r, codes += stride, out += out_stride) {
    for (int64_t k = 0; k < k32; k += 8) {
      int64_t eight;
      __builtin_memcpy(&eight, codes + k, 8);
      const __m256i x = _mm256_set1_epi64x(eight);
      __m256i sum = _mm256_setzero_si256();
      ULP_UNROLL for (int i = 0; i < 4; ++i) {
        sum = _mm256_add_epi8(sum, _mm256_and_si256(_mm256_shuffle_epi8(x, load(pick[i])), load(mask[i])));
      }
      store(out + 4 * k, sum);
    }
  }
}

// Four vectors of eight 32-bit patterns (units 0 .. 3) -> 32 bytes in column order.
__m256i gather_columns(const __m256i p[4]) {
  const __m256i bytes = _mm256_packus_epi16(_mm256_packus_epi32(p[0], p[1]), _mm256_packus_epi32(p[2], p[3]));
  return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

// Patterns of one vector of 32 columns and 32 k: the fields of the dense data are taken as they lie, without the eight vectors in between.
template <int b_bits>
void expand_vector(const DenseSlice& s, int64_t kb, int first_unit, uint8_t* panel, int64_t step_stride) {
  const __m256i low = _mm256_set1_epi8((1 << b_bits) - 1);
  const __m256i high = _mm256_set1_epi32(0xFFFF);
  for (int h = 0; h < b_bits; ++h) {
    __m256i x[kPanelUnits];
    ULP_UNROLL for (int u = 0; u < kPanelUnits; ++u) {
      x[u] = first_unit + u < s.units ? load(dense_unit(s, kb, first_unit + u) + h * kVector) : _mm256_setzero_si256();
    }
    ULP_UNROLL for (int f = 0; f < 8; f += b_bits) {
      __m256i p[kPanelUnits];
      ULP_UNROLL for (int u = 0; u < kPanelUnits; ++u) {
        const __m256i codes = _mm256_and_si256(_mm256_srli_epi16(x[u], f), low);
        if constexpr (b_bits == 1) {
          p[u] = _mm256_madd_epi16(_mm256_maddubs_epi16(codes, set_bytes(1, 2, 4, 8)), _mm256_set1_epi16(1));
        } else {
          p[u] = _mm256_maddubs_epi16(codes, set_bytes(1, 4, 1, 4));  // k = 0, 1 in the low half of 32 bits, k = 2, 3 in the high
        }
      }
      if constexpr (b_bits == 1) {
        store(panel, gather_columns(p));
        panel += step_stride;
      } else {
        __m256i q[kPanelUnits];
        ULP_UNROLL for (int u = 0; u < kPanelUnits; ++u) {
          q[u] = _mm256_srli_epi32(p[u], 16);
          p[u] = _mm256_and_si256(p[u], high);
        }
        store(panel, gather_columns(p));
        store(panel + step_stride, gather_columns(q));
        panel += 2 * step_stride;
      }
    }
  }
}

template <int b_bits>
void expand(const DenseSlice& s, uint8_t* panel) {
  const int vectors = static_cast<int>(ceil_div(s.units, kPanelUnits));
  const int64_t step_stride = int64_t{vectors} * kVector;
  for (int64_t kb = 0; kb < s.k_blocks; ++kb) {
    for (int q = 0; q < vectors; ++q) expand_vector<b_bits>(s, kb, q * kPanelUnits, panel + q * kVector, step_stride);
    panel += kUnitK / group(b_bits) * step_stride;
  }
}

// acc[v] += table[index[v]] for one row. Written out in this order for the reasons given in mul8_avx2.cpp.
template <int vectors>
ULP_INLINE void lookup_add(__m256i* acc, __m256i table, const __m256i* index) {
#if defined(__GNUC__)
  __m256i e0, e1, e2;
  if constexpr (vectors == 3) {
    __asm__ volatile(
        "vpshufb %7, %6, %3\n\tvpshufb %8, %6, %4\n\t"
        "vpaddb %3, %0, %0\n\tvpaddb %4, %1, %1\n\t"
        "vpshufb %9, %6, %5\n\tvpaddb %5, %2, %2"
        : "+x"(acc[0]), "+x"(acc[1]), "+x"(acc[2]), "=&x"(e0), "=&x"(e1), "=&x"(e2)
        : "x"(table), "x"(index[0]), "x"(index[1]), "x"(index[2]));
  } else if constexpr (vectors == 2) {
    __asm__ volatile("vpshufb %5, %4, %2\n\tvpshufb %6, %4, %3\n\tvpaddb %2, %0, %0\n\tvpaddb %3, %1, %1"
                     : "+x"(acc[0]), "+x"(acc[1]), "=&x"(e0), "=&x"(e1)
                     : "x"(table), "x"(index[0]), "x"(index[1]));
  } else {
    __asm__ volatile("vpshufb %3, %2, %1\n\tvpaddb %1, %0, %0" : "+x"(acc[0]), "=&x"(e0) : "x"(table), "x"(index[0]));
  }
#else
  for (int v = 0; v < vectors; ++v) acc[v] = _mm256_add_epi8(acc[v], _mm256_shuffle_epi8(table, index[v]));
#endif
}

template <bool is_indexed>
inline __m256i step_table(const uint8_t* table, const uint8_t* a, int64_t step) {
  const uint8_t* p = a + step * 16;
  if constexpr (is_indexed) {
    uint16_t offset;
    __builtin_memcpy(&offset, a + step * 2, 2);
    p = table + offset;
  }
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

// u16 sums of one row and 32 columns. Even bytes are spilled together with the odd ones above them, which costs no mask: `all` is their sum
// modulo 2^16, and even = all - (odd << 8).
struct Wide {
  __m256i all;
  __m256i odd;
};

// 32 columns of a row; `base` is its row term and bias.
ULP_INLINE void store_columns(const Tile& t, int row, int vector, const Wide& w, __m256i base) {
  const __m256i even = _mm256_sub_epi16(w.all, _mm256_slli_epi16(w.odd, 8));
  const __m256i lo = _mm256_unpacklo_epi16(even, w.odd);  // columns 0-7, 16-23
  const __m256i hi = _mm256_unpackhi_epi16(even, w.odd);  // columns 8-15, 24-31
  const __m128i eight[4] = {_mm256_castsi256_si128(lo), _mm256_castsi256_si128(hi), _mm256_extracti128_si256(lo, 1),
                            _mm256_extracti128_si256(hi, 1)};
  ULP_UNROLL for (int u = 0; u < kPanelUnits; ++u) {
    const int unit = vector * kPanelUnits + u;
    if (unit >= t.units) return;
    store_result(t, row, unit, base, _mm256_cvtepu16_epi32(eight[u]));
  }
}

#if defined(__GNUC__)
// The loop of a whole indexed tile, in the order that Zen 3 likes best of 1,200 tried: 203 multiply-accumulates a cycle from L1 at g = 4
// where gcc's own order makes 180 (bench/NOTES.md).
ULP_INLINE void hot_loop(const uint8_t* table, const uint8_t* const (&a)[3], const uint8_t*& b, const Piece* pieces, int64_t count,
                         __m256i (&c)[3][3]) {
  __m256i i0, i1, i2, entry, e0, e1, e2;
  int64_t offset, at, steps;
  __asm__ volatile(
      "vpxor %0, %0, %0\n\tvpxor %1, %1, %1\n\tvpxor %2, %2, %2\n\tvpxor %3, %3, %3\n\tvpxor %4, %4, %4\n\t"
      "vpxor %5, %5, %5\n\tvpxor %6, %6, %6\n\tvpxor %7, %7, %7\n\tvpxor %8, %8, %8\n\t"
      "2:\n\t"
      "mov (%20), %17\n\tmov 8(%20), %18\n\tadd $16, %20\n\t"
      ".p2align 5\n"
      "1:\n\t"
      "vmovdqu (%19), %9\n\tvmovdqu 32(%19), %10\n\tnop\n\tvmovdqu 64(%19), %11\n\t"
      "movzwl (%23,%17), %k16\n\tvbroadcasti128 (%22,%16), %12\n\t"
      "vpshufb %9, %12, %13\n\tvpaddb %13, %0, %0\n\t"
      "vpshufb %10, %12, %14\n\tvpaddb %14, %1, %1\n\t"
      "vpshufb %11, %12, %15\n\tvpaddb %15, %2, %2\n\t"
      "movzwl (%24,%17), %k16\n\tvbroadcasti128 (%22,%16), %12\n\t"
      "vpshufb %9, %12, %13\n\tvpshufb %10, %12, %14\n\tvpaddb %13, %3, %3\n\tvpaddb %14, %4, %4\n\t"
      "vpshufb %11, %12, %15\n\tvpaddb %15, %5, %5\n\t"
      "movzwl (%25,%17), %k16\n\tvbroadcasti128 (%22,%16), %12\n\t"
      "vpshufb %9, %12, %13\n\tvpshufb %10, %12, %14\n\tvpshufb %11, %12, %15\n\t"
      "vpaddb %13, %6, %6\n\tvpaddb %14, %7, %7\n\tvpaddb %15, %8, %8\n\tnop\n\t"
      "add $96, %19\n\tadd $2, %17\n\tsub $1, %18\n\tjnz 1b\n\t"
      "sub $1, %21\n\tjnz 2b"
      : "=&x"(c[0][0]), "=&x"(c[0][1]), "=&x"(c[0][2]), "=&x"(c[1][0]), "=&x"(c[1][1]), "=&x"(c[1][2]), "=&x"(c[2][0]), "=&x"(c[2][1]),
        "=&x"(c[2][2]), "=&x"(i0), "=&x"(i1), "=&x"(i2), "=&x"(entry), "=&x"(e0), "=&x"(e1), "=&x"(e2), "=&r"(offset), "=&r"(at),
        "=&r"(steps), "+r"(b), "+r"(pieces), "+r"(count)
      : "r"(table), "r"(a[0]), "r"(a[1]), "r"(a[2])
      : "memory", "cc");
}
#endif

// acc = the steps of the pieces; b moves on. `a`: the rows' starts.
template <bool is_indexed, int rows, int vectors>
ULP_INLINE void look_up(const uint8_t* table, const uint8_t* const (&a)[rows], const uint8_t*& b, const Piece* pieces, int64_t count,
                        __m256i (&acc)[rows][vectors]) {
#if defined(__GNUC__)
  if constexpr (is_indexed && rows == 3 && vectors == 3) return hot_loop(table, a, b, pieces, count, acc);
#endif
  ULP_UNROLL for (int r = 0; r < rows; ++r) { ULP_UNROLL for (int v = 0; v < vectors; ++v) acc[r][v] = _mm256_setzero_si256(); }
  for (const Piece* piece = pieces; piece != pieces + count; ++piece) {
    for (int64_t i = 0; i < piece->steps; ++i) {
      __m256i index[vectors];
      ULP_UNROLL for (int v = 0; v < vectors; ++v) index[v] = load(b + v * kVector);
      ULP_UNROLL for (int r = 0; r < rows; ++r) lookup_add<vectors>(acc[r], step_table<is_indexed>(table, a[r] + piece->a, i), index);
      b += vectors * kVector;
    }
  }
}

template <int rows, int vectors>
ULP_INLINE void gather_sums(bool first, const __m256i (&acc)[rows][vectors], Wide (&wide)[rows][vectors]) {
  if (first) {
    ULP_UNROLL for (int r = 0; r < rows; ++r) {
      ULP_UNROLL for (int v = 0; v < vectors; ++v) wide[r][v] = {acc[r][v], _mm256_srli_epi16(acc[r][v], 8)};
    }
    return;
  }
  ULP_UNROLL for (int r = 0; r < rows; ++r) {
    ULP_UNROLL for (int v = 0; v < vectors; ++v) {
      wide[r][v].all = _mm256_add_epi16(wide[r][v].all, acc[r][v]);
      wide[r][v].odd = _mm256_add_epi16(wide[r][v].odd, _mm256_srli_epi16(acc[r][v], 8));
    }
  }
}

// Rows `first` .. of a Gather, or of a tile (then first is 0).
template <bool is_indexed, int g, int rows, int vectors>
void tile(const Tile& args, int first) {
  Tile t = args;  // a copy that no store to C can alias
  t.c += first * t.ldc;
  if (t.row) t.row += first;
  if (!t.gather) prefetch_c<rows, vectors * kPanelUnits>(t, 0);
  const uint8_t* a[rows];
  ULP_UNROLL for (int r = 0; r < rows; ++r) a[r] = t.gather ? t.gather->rows[first + r] : t.a + r * t.a_stride;
  const uint8_t* b = t.b;
  Wide wide[rows][vectors];
  ULP_UNROLL for (int r = 0; r < rows; ++r) {
    ULP_UNROLL for (int v = 0; v < vectors; ++v) wide[r][v].all = wide[r][v].odd = _mm256_setzero_si256();
  }
  int64_t done = 0;
  __m256i acc[rows][vectors];
  if (t.gather) {
    for (const Run* run = t.gather->runs; run != t.gather->runs + t.gather->run_count; ++run) {
      look_up<is_indexed>(t.table, a, b, run->pieces, run->count, acc);
      gather_sums(done == 0, acc, wide);
      for (int64_t i = 0; i < run->count; ++i) done += run->pieces[i].steps;
    }
  } else {
    const int64_t all = ceil_div(t.k, g);
    Piece piece{0, 0};
    while (done < all) {
      piece.steps = all - done < t.flush ? all - done : t.flush;
      look_up<is_indexed>(t.table, a, b, &piece, 1, acc);
      gather_sums(done == 0, acc, wide);
      done += piece.steps;
      piece.a += piece.steps * (is_indexed ? 2 : 16);
    }
  }
  const uint32_t bias = static_cast<uint32_t>(done) * static_cast<uint32_t>(t.step_bias) << t.shift;
  __m256i base[rows];
  ULP_UNROLL for (int r = 0; r < rows; ++r) base[r] = _mm256_add_epi32(row_term(t, r), _mm256_set1_epi32(static_cast<int>(bias)));
  ULP_UNROLL for (int r = 0; r < rows; ++r) { ULP_UNROLL for (int v = 0; v < vectors; ++v) store_columns(t, r, v, wide[r][v], base[r]); }
}

template <bool is_indexed, int g, int vectors>
void tile_of_vectors(const Tile& t) {
  int r = 0;
  for (; t.rows - r > 4 || t.rows - r == 3; r += 3) tile<is_indexed, g, 3, vectors>(t, r);
  for (; t.rows - r >= 2; r += 2) tile<is_indexed, g, 2, vectors>(t, r);  // two and two rather than three and one
  if (t.rows - r == 1) tile<is_indexed, g, 1, vectors>(t, r);
}

template <bool is_indexed, int g>
void run(const Tile& t) {
  switch (ceil_div(t.units, kPanelUnits)) {
    case 1:
      return tile_of_vectors<is_indexed, g, 1>(t);
    case 2:
      return tile_of_vectors<is_indexed, g, 2>(t);
    default:
      return tile_of_vectors<is_indexed, g, kMaxVectors>(t);
  }
}

template <int a_bits, int b_bits>
Bound bind_pair() {
  constexpr int g = group(b_bits);
  Bound b;
  b.centre_a = centre(a_bits, b_bits);
  b.centre_b = centre(b_bits, a_bits);
  b.flush = local_steps(a_bits, b_bits);
  b.step_bias = step_bias(a_bits, b_bits);
  b.max_kc = kMaxKc;
  b.step_k = g;
  b.panel_bytes = kUnitK / g * kUnitCols;
  b.expand = expand<b_bits>;
  if constexpr (indexed(a_bits, b_bits)) {
    b.table = kTables<a_bits, b_bits>.entries[0];
    b.a_bytes = kUnitK / g * 2;
    b.pack_a = pack_offsets<a_bits, b_bits>;
    b.run = run<true, g>;
  } else {
    static_assert(step_bias(a_bits, b_bits) == 0 && centre(a_bits, b_bits) == 0, "pack_tables knows neither");
    b.a_bytes = kUnitK / g * 16;
    b.pack_a = pack_tables;
    b.run = run<false, g>;
  }
  return b;
}

}  // namespace

bool supports(int a_bits, int b_bits) { return a_bits <= 4 && b_bits <= 2; }

Bound bind(int a_bits, int b_bits) {
  const bool one = b_bits == 1;
  switch (a_bits) {
    case 1:
      return one ? bind_pair<1, 1>() : bind_pair<1, 2>();
    case 2:
      return one ? bind_pair<2, 1>() : bind_pair<2, 2>();
    case 3:
      return one ? bind_pair<3, 1>() : bind_pair<3, 2>();
    default:
      return one ? bind_pair<4, 1>() : bind_pair<4, 2>();
  }
}

}  // namespace ulp::lut_avx2
