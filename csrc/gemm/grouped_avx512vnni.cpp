// grouped on AVX-512 VNNI: vpdpbusd, tile 8 x 32 (tile_grouped.h).
//
//   B: codes as u8, or a table's bytes + 128.   A: s8, four k by one vpbroadcastd.
//   Four products go to int32, which wraps modulo 2^32; the sum of a group fits it (grouped.h).
//
// Ceiling for 8 rows: 16 vpdpbusd and two times a shift and an AND for 1024 products: 102 multiply-accumulates per cycle. Few rows are
// limited by reading weights from memory.
#include "grouped_kernel.h"
#include "stream_avx512vnni.h"

namespace ulp {
namespace {

using Table = __m512i;
ULP_INLINE Table table_of(const int8_t* bytes) {
  const __m128i raised = _mm_xor_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)), _mm_set1_epi8(static_cast<char>(0x80)));
  return _mm512_broadcast_i32x4(raised);
}
ULP_INLINE Vec look_up(Table table, Vec codes) { return _mm512_shuffle_epi8(table, codes); }

ULP_INLINE void add_scaled(Vec sums, const RowGroup& of, const float* scales, const float* zeros, float* c) {
  __m512 x = _mm512_cvtepi32_ps(add_sums(sums, same_sums(of.start)));
  if (zeros) x = _mm512_fnmadd_ps(_mm512_loadu_ps(zeros), _mm512_set1_ps(of.sum), x);
  const __m512 factor = _mm512_mul_ps(_mm512_loadu_ps(scales), _mm512_set1_ps(of.scale));
  _mm512_storeu_ps(c, _mm512_fmadd_ps(x, factor, _mm512_loadu_ps(c)));
}

}  // namespace
}  // namespace ulp

#include "tile_grouped.h"

namespace ulp::grouped_avx512vnni {
namespace {

template <int>
using Op = Dot;

}  // namespace

int byte_bias(int, int planes) { return raised_bias(planes); }
auto bind(int bits, int planes) -> void (*)(const GroupTile&) { return bind_grouped<Op, 8>(bits, planes); }

}  // namespace ulp::grouped_avx512vnni
