// stream on AVX2: a few rows of A against weights read straight from the bitpacked layout, tile 4 x 32.
//
// With so few rows every weight is used a few times only, so the time is that of reading the weights, and what is read is b bits each.
// Nothing is expanded to memory: fields of the bitpacked vectors go by shift and mask into vpmaddubsw.
//
//   B: u_b as u8, no centre.   A: u_a - 2^(a-1) as s8 (u_a itself below 8 bits: it fits), four k by one vpbroadcastd.
//
// KernelAtBits. A step adds two products of at most m = (2^b - 1) * 128 (or (2^a - 1) below 8 bits) to an s16 lane, so floor(32767 / (2 m))
// steps are exact: at 8-bit activations 127 for W1, 18, 8, 4, 2, 1 for W3 .. W7. Two widths use a second accumulator:
//   W8 takes A in halves of 4 bits, a packed row holding 32 lower ones and then 32 upper ones, which count 16 times: m is 255 * 15, 4
//   steps, and 255 * 8, 8 steps. Weights need no operation but the load; the other way round, weights in halves, they needed three. W2
//   takes every other field where it stands, as 4 w, which saves its shift: m is 4 times as large, 10 steps, and the sum is divided by 4.
#include "bitpacked_avx2.h"

namespace ulp::stream_avx2 {
namespace {

constexpr int kSteps = 8;  // in a unit: 32 k

constexpr int centre(int a_bits) { return a_bits == 8 ? 128 : 0; }
// Steps of the accumulator that fills first.
constexpr int spill_every(int a_bits, int b_bits) {
  if (b_bits == 8) return accumulation_length(32767, 2, 255 * 15);
  const int largest = b_bits == 2 ? 3 << 2 : (1 << b_bits) - 1;
  return accumulation_length(32767, 2, largest * max_product(a_bits, centre(a_bits), 1, 0));
}
constexpr int kUpperSteps = accumulation_length(32767, 2, 255 * 8);
static_assert(spill_every(8, 1) == 127 && spill_every(8, 2) == 10 && spill_every(8, 3) == 18 && spill_every(8, 4) == 8,
              "deferred widening");
static_assert(spill_every(8, 5) == 4 && spill_every(8, 6) == 2 && spill_every(8, 7) == 1 && spill_every(8, 8) == 4 && kUpperSteps == 8,
              "deferred widening");

// Units between spills; 0: a unit is too long, and `inner_steps` are spilled inside.
constexpr int local_units(int a_bits, int b_bits) { return spill_every(a_bits, b_bits) / (b_bits == 2 ? kSteps / 2 : kSteps); }
constexpr int inner_steps(int b_bits) { return spill_every(8, b_bits) < kSteps ? spill_every(8, b_bits) : kSteps; }

// Bytes of a packed row for 32 k.
template <int bits>
constexpr int64_t kBlockBytes = bits == 8 ? 2 * kUnitK : kUnitK;

void centre_a(const uint8_t* codes, int64_t stride, int rows, int64_t k32, uint8_t* out, int64_t out_stride) {
  const __m256i sign = _mm256_set1_epi8(static_cast<char>(0x80));
  for (int r = 0; r < rows; ++r, codes += stride, out += out_stride) {
    for (int64_t k = 0; k < k32; k += kUnitK) store(out + k, _mm256_xor_si256(load(codes + k), sign));
  }
}

// For W8. flip: what makes codes s8, 0 where they fit.
template <int flip>
void halve_a(const uint8_t* codes, int64_t stride, int rows, int64_t k32, uint8_t* out, int64_t out_stride) {
  const __m256i mask = _mm256_set1_epi8(15), centre = _mm256_set1_epi8(flip >> 4);
  for (int r = 0; r < rows; ++r, codes += stride, out += out_stride) {
    for (int64_t k = 0; k < k32; k += kUnitK) {
      const __m256i x = load(codes + k);
      store(out + 2 * k, _mm256_and_si256(x, mask));
      store(out + 2 * k + kUnitK, _mm256_sub_epi8(_mm256_and_si256(_mm256_srli_epi16(x, 4), mask), centre));
    }
  }
}

__m256i widen(__m256i acc, int weight) { return _mm256_madd_epi16(acc, _mm256_set1_epi16(static_cast<int16_t>(weight))); }

// acc += v * x: together, for the reason given in mul8_avx2.cpp.
ULP_INLINE void multiply_add(__m256i& acc, __m256i v, __m256i x) {
#if defined(__GNUC__)
  __m256i product;
  __asm__("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(acc), "=&x"(product) : "x"(v), "x"(x));
#else
  acc = _mm256_add_epi16(acc, _mm256_maddubs_epi16(v, x));
#endif
}

// Whether a second accumulator is kept for each unit and row. W2 does so for one row only: with more, the shift that it saves is shared
// anyway and registers are short.
constexpr bool two_sums(int bits, int rows) { return bits == 8 || (bits == 2 && rows == 1); }

// One vector of a unit against all rows, whose four k are in x, the upper halves behind the lower ones.
template <int bits, int j, int rows, int operands>
ULP_INLINE void add_step(const uint8_t* bitpacked, const __m256i (&x)[operands], __m256i* acc, __m256i* second, int stride) {
  if constexpr (bits == 8) {
    const __m256i v = load(bitpacked + j * kVector);
    unrolled<rows>([&](auto r) {
      multiply_add(acc[r.value * stride], v, x[r.value]);
      multiply_add(second[r.value * stride], v, x[rows + r.value]);
    });
  } else if constexpr (two_sums(bits, rows)) {
    const __m256i v = load(bitpacked + j / 4 * kVector);
    multiply_add(*(j & 1 ? second : acc), field<j & 2 ? 4 : 0>(v, j & 1 ? 3 << 2 : 3), x[0]);
  } else {
    const __m256i v = code_vector<bits, j>(bitpacked);
    unrolled<rows>([&](auto r) { multiply_add(acc[r.value * stride], v, x[r.value]); });
  }
}

// W2, one row, four units: half a block (16 k), with all sixteen registers given out by hand. Left to gcc 12, the shifted vectors are
// spilled and the loop waits for them: 25 multiply-accumulates per cycle instead of 28.
#if defined(__GNUC__)
ULP_INLINE void add_half_block2(const uint8_t* bitpacked, const uint8_t* a, __m256i* acc, __m256i* second) {
  __m256i v0, v1, v2, v3, x, p;
  __asm__ volatile(
      "vmovdqu 0(%[b]), %[v0]\n\t"
      "vmovdqu 64(%[b]), %[v1]\n\t"
      "vmovdqu 128(%[b]), %[v2]\n\t"
      "vmovdqu 192(%[b]), %[v3]\n\t"
      "vpbroadcastd 0(%[a]), %[x]\n\t"
      "vpand %[low], %[v0], %[p]\n\tvpmaddubsw %[x], %[p], %[p]\n\tvpaddw %[p], %[c0], %[c0]\n\t"
      "vpand %[low], %[v1], %[p]\n\tvpmaddubsw %[x], %[p], %[p]\n\tvpaddw %[p], %[c1], %[c1]\n\t"
      "vpand %[low], %[v2], %[p]\n\tvpmaddubsw %[x], %[p], %[p]\n\tvpaddw %[p], %[c2], %[c2]\n\t"
      "vpand %[low], %[v3], %[p]\n\tvpmaddubsw %[x], %[p], %[p]\n\tvpaddw %[p], %[c3], %[c3]\n\t"
      "vpbroadcastd 4(%[a]), %[x]\n\t"
      "vpand %[next], %[v0], %[p]\n\tvpmaddubsw %[x], %[p], %[p]\n\tvpaddw %[p], %[d0], %[d0]\n\t"
      "vpand %[next], %[v1], %[p]\n\tvpmaddubsw %[x], %[p], %[p]\n\tvpaddw %[p], %[d1], %[d1]\n\t"
      "vpand %[next], %[v2], %[p]\n\tvpmaddubsw %[x], %[p], %[p]\n\tvpaddw %[p], %[d2], %[d2]\n\t"
      "vpand %[next], %[v3], %[p]\n\tvpmaddubsw %[x], %[p], %[p]\n\tvpaddw %[p], %[d3], %[d3]\n\t"
      "vpsrlw $4, %[v0], %[v0]\n\tvpsrlw $4, %[v1], %[v1]\n\tvpsrlw $4, %[v2], %[v2]\n\tvpsrlw $4, %[v3], %[v3]\n\t"
      "vpbroadcastd 8(%[a]), %[x]\n\t"
      "vpand %[low], %[v0], %[p]\n\tvpmaddubsw %[x], %[p], %[p]\n\tvpaddw %[p], %[c0], %[c0]\n\t"
      "vpand %[low], %[v1], %[p]\n\tvpmaddubsw %[x], %[p], %[p]\n\tvpaddw %[p], %[c1], %[c1]\n\t"
      "vpand %[low], %[v2], %[p]\n\tvpmaddubsw %[x], %[p], %[p]\n\tvpaddw %[p], %[c2], %[c2]\n\t"
      "vpand %[low], %[v3], %[p]\n\tvpmaddubsw %[x], %[p], %[p]\n\tvpaddw %[p], %[c3], %[c3]\n\t"
      "vpbroadcastd 12(%[a]), %[x]\n\t"
      "vpand %[next], %[v0], %[p]\n\tvpmaddubsw %[x], %[p], %[p]\n\tvpaddw %[p], %[d0], %[d0]\n\t"
      "vpand %[next], %[v1], %[p]\n\tvpmaddubsw %[x], %[p], %[p]\n\tvpaddw %[p], %[d1], %[d1]\n\t"
      "vpand %[next], %[v2], %[p]\n\tvpmaddubsw %[x], %[p], %[p]\n\tvpaddw %[p], %[d2], %[d2]\n\t"
      "vpand %[next], %[v3], %[p]\n\tvpmaddubsw %[x], %[p], %[p]\n\tvpaddw %[p], %[d3], %[d3]\n\t"
      : [c0] "+x"(acc[0]), [c1] "+x"(acc[1]), [c2] "+x"(acc[2]), [c3] "+x"(acc[3]), [d0] "+x"(second[0]), [d1] "+x"(second[1]),
        [d2] "+x"(second[2]), [d3] "+x"(second[3]), [v0] "=&x"(v0), [v1] "=&x"(v1), [v2] "=&x"(v2), [v3] "=&x"(v3), [x] "=&x"(x),
        [p] "=&x"(p)
      : [b] "r"(bitpacked), [a] "r"(a), [low] "x"(_mm256_set1_epi8(3)), [next] "x"(_mm256_set1_epi8(3 << 2))
      : "memory");
}
#endif

// W2: the sum of 4 w a is a multiple of 4, so after a run of local_units its quarter can join the other sum. That has room for two runs:
// they are 2 * 8 * local_units steps of w, 4 local_units steps of 4 w fit, and 4 * 4 = 2 * 8.
ULP_INLINE void fold(__m256i& acc, __m256i& second) {
  acc = _mm256_add_epi16(acc, _mm256_srai_epi16(second, 2));
  second = _mm256_setzero_si256();
}

// total += acc, second, which start again from zero.
template <int bits, bool two>
ULP_INLINE void spill(int32_t* total, __m256i& acc, __m256i& second) {
  __m256i* sum = reinterpret_cast<__m256i*>(total);
  __m256i wide = _mm256_add_epi32(_mm256_load_si256(sum), widen(acc, 1));
  if constexpr (bits == 8) wide = _mm256_add_epi32(wide, widen(second, 16));
  if constexpr (bits == 2 && two) wide = _mm256_add_epi32(wide, _mm256_srai_epi32(widen(second, 1), 2));
  _mm256_store_si256(sum, wide);
  acc = second = _mm256_setzero_si256();
}

// total += acc of W8, while the other one goes on.
ULP_INLINE void spill_lower(int32_t* total, __m256i& acc) {
  store_sums(total, add_sums(load_sums(total), widen(acc, 1)));
  acc = _mm256_setzero_si256();
}

// Units first .. first + units - 1 of the panel.
template <int bits, int rows, int units>
void tile(const Tile& args, int first) {
  const Tile t = own_copy(args);
  constexpr int kInner = inner_steps(bits);
  constexpr bool kTwo = two_sums(bits, rows);
  alignas(32) int32_t total[rows][units][kUnitCols] = {};
  __m256i acc[rows][units];
  __m256i second[rows][units];
  unrolled<rows * units>([&](auto i) {
    acc[i.value / units][i.value % units] = _mm256_setzero_si256();
    second[i.value / units][i.value % units] = _mm256_setzero_si256();
  });

  const uint8_t* bitpacked = t.b + first * bits * kVector;
  const uint8_t* a = t.a;
  const int64_t blocks = ceil_div(t.k, kUnitK);
  const int64_t run = t.spill_every == 0 ? blocks : t.spill_every;
  for (int64_t done = 0, runs = 1; done < blocks; ++runs) {
    const int64_t end = blocks - done < run ? blocks : done + run;
    for (; done < end; ++done) {
#if defined(__GNUC__)
      if constexpr (bits == 2 && rows == 1 && units == 4) {
        add_half_block2(bitpacked, a, acc[0], second[0]);
        add_half_block2(bitpacked + kVector, a + 16, acc[0], second[0]);
      } else
#endif
      {
        // k outside, units inside: a load of four k serves all units, and loads are what limits this loop.
        unrolled<kSteps>([&](auto j) {
          __m256i x[bits == 8 ? 2 * rows : rows];
          unrolled<rows>([&](auto r) {
            x[r.value] = broadcast4(a + r.value * t.a_stride + 4 * j.value);
            if constexpr (bits == 8) x[rows + r.value] = broadcast4(a + r.value * t.a_stride + kUnitK + 4 * j.value);
          });
          unrolled<units>([&](auto u) {
            add_step<bits, j.value, rows>(bitpacked + u.value * bits * kVector, x, &acc[0][u.value], &second[0][u.value], units);
            if constexpr (kInner < kSteps && (j.value + 1) % kInner == 0) {
              unrolled<rows>([&](auto r) {
                if constexpr (bits == 8 && j.value + 1 < kUpperSteps) {
                  spill_lower(total[r.value][u.value], acc[r.value][u.value]);
                } else {
                  spill<bits, kTwo>(total[r.value][u.value], acc[r.value][u.value], second[r.value][u.value]);
                }
              });
            }
          });
        });
      }
      bitpacked += t.units * bits * kVector;
      a += kBlockBytes<bits>;
    }
    if (bits == 2 && runs % 2 != 0 && done < blocks) {
      if constexpr (kTwo) {
        unrolled<rows * units>([&](auto i) { fold(acc[i.value / units][i.value % units], second[i.value / units][i.value % units]); });
      }
      continue;
    }
    unrolled<rows * units>([&](auto i) {
      constexpr int r = i.value / units;
      constexpr int u = i.value % units;
      spill<bits, kTwo>(total[r][u], acc[r][u], second[r][u]);
    });
  }
  for (int r = 0; r < rows; ++r) {
    for (int u = 0; u < units; ++u) {
      const __m256i sum = _mm256_load_si256(reinterpret_cast<const __m256i*>(total[r][u]));
      store_result(t, r, first + u, row_term(t, r), sum);
    }
  }
}

// As many units at a time as the registers hold accumulators for.
template <int bits, int rows>
void tile_of_rows(const Tile& t) {
  constexpr int kAtOnce = rows == 1 || (rows == 2 && bits != 8) ? 4 : 2;
  int first = 0;
  for (; first + kAtOnce <= t.units; first += kAtOnce) tile<bits, rows, kAtOnce>(t, first);
  for (; first < t.units; ++first) tile<bits, rows, 1>(t, first);
}

template <int bits>
void run(const Tile& t) {
  if (bits == 8 && t.rows > 2) {
    Tile part = t;
    part.rows = 2;
    run<bits>(part);
    part.rows = t.rows - 2;
    part.a += 2 * t.a_stride;
    part.c += 2 * t.ldc;
    part.row += 2;
    return run<bits>(part);
  }
  switch (t.rows) {
    case 1:
      return tile_of_rows<bits, 1>(t);
    case 2:
      return tile_of_rows<bits, 2>(t);
    case 3:
      return tile_of_rows<bits, bits == 8 ? 2 : 3>(t);
    default:
      return tile_of_rows<bits, bits == 8 ? 2 : 4>(t);
  }
}

}  // namespace

extern constexpr BitPairs pairs = kEveryPair;

KernelAtBits bind(int a_bits, int b_bits) {
  KernelAtBits b;
  b.centre_a = centre(a_bits);
  b.spill_every = local_units(a_bits, b_bits);
  if (b_bits == 8) {
    b.a_bytes = kBlockBytes<8>;
    b.pack_a = a_bits == 8 ? halve_a<128> : halve_a<0>;
  } else if (a_bits == 8) {
    b.pack_a = centre_a;
  }
  b.run = for_bits(b_bits, [](auto bits) { return &run<decltype(bits)::value>; });
  return b;
}

}  // namespace ulp::stream_avx2
