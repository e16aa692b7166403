// The tables of ops.h, and the functions that live in files of their own.
#pragma once

#include "ops.h"
#include "rows.h"

namespace ulp {

const Ops& scalar_ops();
const RowOps& scalar_row_ops();

#if defined(ULP_X86)
const Ops& avx2_ops();
const RowOps& avx2_row_ops();
const RowOps& avx512_row_ops();

namespace ops_avx2 {

void finish(const Finish& f);
void finish_thresholds(const Finish& f, const Target& target);  // one target that has them
bool quantize(const float* x, int64_t plane, int64_t pixels, int64_t channels, const Target* targets, int target_count);
void to_planes(const float* x, int64_t pixel, int64_t pixels, int64_t channels, float* out, int64_t plane);
void lookup(const uint8_t* a, int64_t count, const uint8_t* table, int bits, uint8_t* out);
void lookup_pairs(const uint8_t* a, const uint8_t* b, int64_t count, const uint8_t* table, int a_bits, int bits, uint8_t* out);
void combine(const Combination& f);

}  // namespace ops_avx2

namespace ops_avx512 {

void finish(const Finish& f);
void finish_thresholds(const Finish& f, const Target& target);
void window_max(const Window& w, uint8_t* out);
void window_sum(const Window& w, int32_t* out);
void channel_sum(const uint8_t* a, int64_t pixel, int64_t pixels, int64_t channels, int32_t* out);
void combine(const Combination& f);
bool quantize(const float* x, int64_t plane, int64_t pixels, int64_t channels, const Target* targets, int target_count);

}  // namespace ops_avx512

namespace ops_avx512vbmi {

void lookup(const uint8_t* a, int64_t count, const uint8_t* table, int bits, uint8_t* out);
void lookup_pairs(const uint8_t* a, const uint8_t* b, int64_t count, const uint8_t* table, int a_bits, int bits, uint8_t* out);

}  // namespace ops_avx512vbmi
#elif defined(ULP_ARM64)
const Ops& neon_ops();

namespace ops_neon {

void finish(const Finish& f);

}  // namespace ops_neon
#endif

}  // namespace ulp
