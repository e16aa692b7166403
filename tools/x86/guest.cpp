// What runs in the emulator: a product by one kernel of the table, and what this CPU is found to be. Linked with the objects of the build
// itself and without a C library, so that the very instructions of the wheel are executed.
#include <cstddef>
#include <cstdint>

#include "gemm/kernel.h"
#include "gemm/x86_features.h"
#include "pack/pack.h"

namespace {

using namespace ulp;

// Operands are codes: a row-major, m x k; b row-major, k x n. All in guest memory.
struct Product {
  int64_t kernel, a_bits, b_bits, m, n, k;
  const uint8_t* a;
  const uint8_t* b;
  const int32_t* row;  // m
  const int32_t* col;  // n, rounded up to 8
  int32_t* c;          // m x n, rounded up to 8
  int64_t shift;
  uint8_t* scratch;  // 64-byte aligned, zero
};

uint8_t* take(uint8_t*& memory, int64_t bytes) {
  uint8_t* at = memory;
  memory += round_up(bytes, 64) + 64;
  return at;
}

// The bitpacked layout of b.
uint8_t* pack_b(const Product& p, const BitpackedLayout& layout, uint8_t*& memory) {
  uint8_t* data = take(memory, layout.nbytes());
  for (int64_t unit = 0; unit < layout.units(); ++unit) {
    for (int64_t kb = 0; kb < layout.k_blocks(); ++kb) {
      uint8_t codes[kUnitCodes] = {};
      for (int64_t c = 0; c < kUnitCols && unit * kUnitCols + c < p.n; ++c) {
        for (int64_t k = 0; k < kUnitK && kb * kUnitK + k < p.k; ++k) {
          codes[k / 4 * kVector + 4 * c + k % 4] = p.b[(kb * kUnitK + k) * p.n + unit * kUnitCols + c];
        }
      }
      encode_unit(codes, layout.bits, data + layout.unit_offset(unit / kPanelUnits, kb, static_cast<int>(unit % kPanelUnits)));
    }
  }
  return data;
}

}  // namespace

extern "C" {

// For objects with static variables, which nothing here constructs.
void* __dso_handle = nullptr;

void* memcpy(void* to, const void* from, size_t n) {
  for (size_t i = 0; i < n; ++i) static_cast<volatile char*>(to)[i] = static_cast<const char*>(from)[i];
  return to;
}
void* memset(void* to, int value, size_t n) {
  for (size_t i = 0; i < n; ++i) static_cast<volatile char*>(to)[i] = static_cast<char>(value);
  return to;
}

int64_t guest_kernels() { return static_cast<int64_t>(kernel_table().size); }
const char* guest_name(int64_t i) { return kernel_table().rows[i].name; }
int64_t guest_isa(int64_t i) { return static_cast<int64_t>(kernel_table().rows[i].isa); }
int64_t guest_supports(int64_t i, int64_t a, int64_t b) {
  return kernel_table().rows[i].supports(static_cast<int>(a), static_cast<int>(b));
}
int64_t guest_spill_every(int64_t i, int64_t a, int64_t b) {
  return kernel_table().rows[i].bind(static_cast<int>(a), static_cast<int>(b)).spill_every;
}

// c = row + col + (sum over k of (u_a - centre_a)(u_b - centre_b) << shift); returns centre_a * 256 + centre_b.
int64_t guest_product(const Product* args) {
  const Product& p = *args;
  const Kernel& kernel = kernel_table().rows[p.kernel];
  const KernelAtBits bits = kernel.bind(static_cast<int>(p.a_bits), static_cast<int>(p.b_bits));
  const BitpackedLayout layout{p.k, p.n, static_cast<int>(p.b_bits)};
  uint8_t* memory = p.scratch;
  const uint8_t* packed_b = pack_b(p, layout, memory);
  const int64_t k32 = layout.k_blocks() * kUnitK;
  const int64_t a_row = layout.k_blocks() * bits.a_bytes;
  uint8_t* codes = take(memory, p.m * k32);
  for (int64_t r = 0; r < p.m; ++r) {
    for (int64_t k = 0; k < k32; ++k) codes[r * k32 + k] = static_cast<uint8_t>(k < p.k ? p.a[r * p.k + k] : bits.centre_a);
  }
  uint8_t* packed_a = codes;
  if (bits.pack_a) {
    packed_a = take(memory, p.m * a_row);
    bits.pack_a(codes, k32, static_cast<int>(p.m), k32, packed_a, a_row);
  }
  const int64_t max_kc = bits.max_kc ? bits.max_kc / kUnitK : layout.k_blocks();
  uint8_t* panel = take(memory, max_kc * bits.panel_bytes * (kernel.nr / kUnitCols));
  const int64_t ldc = round_up(p.n, kUnitCols);
  const int64_t panels = kernel.nr < kPanelCols ? 1 : kernel.nr / kPanelCols;
  for (int64_t q = 0; q < layout.panels(); q += panels) {
    const int64_t first = q * kPanelUnits;
    const int64_t left = layout.units() - first;
    const int units = static_cast<int>(left < panels * kPanelUnits ? left : panels * kPanelUnits);
    for (int64_t kb = 0; kb < layout.k_blocks(); kb += max_kc) {
      const int64_t blocks = layout.k_blocks() - kb < max_kc ? layout.k_blocks() - kb : max_kc;
      const BitpackedSlice slice{packed_b + layout.unit_offset(q, 0, 0),
                                 kPanelUnits * layout.k_blocks() * layout.unit_bytes(),
                                 layout.unit_bytes(),
                                 left,
                                 units,
                                 kb,
                                 blocks};
      if (bits.expand) bits.expand(slice, panel);
      for (int64_t m = 0; m < p.m; m += kernel.mr) {
        Tile t{};
        t.a = packed_a + m * a_row + kb * bits.a_bytes;
        t.a_stride = a_row;
        t.rows = static_cast<int>(p.m - m < kernel.mr ? p.m - m : kernel.mr);
        t.b = bits.expand ? panel : bitpacked_unit(slice, 0, 0);
        t.units = units;
        t.k = p.k - kb * kUnitK < blocks * kUnitK ? p.k - kb * kUnitK : blocks * kUnitK;
        t.spill_every = bits.spill_every;
        t.table = bits.table;
        t.step_bias = bits.step_bias;
        t.c = p.c + m * ldc + first * kUnitCols;
        t.ldc = ldc;
        t.row = p.row + m;
        t.col = p.col + first * kUnitCols;
        t.shift = static_cast<int>(p.shift);
        t.accumulate = kb > 0;
        bits.run(t);
      }
    }
  }
  return bits.centre_a * 256 + bits.centre_b;
}

const char* guest_core() { return x86_core(read_x86_version()); }

// Bit i: level i of csrc/gemm/isa.cpp, from avx2 upwards.
int64_t guest_levels() {
  const X86Features here = read_x86_features();
  const X86Features levels[] = {kAvx2Features, kAvxVnniFeatures, kAvx512Features, kAvx512VnniFeatures, kAvx512VbmiFeatures};
  int64_t bits = 0;
  for (int i = 0; i < 5; ++i) bits |= int64_t{here.include(levels[i])} << i;
  return bits;
}
}
