#include "grouped.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "grouped_kernel.h"
#include "range.h"
#include "row_parts.h"
#include "scratch.h"
#include "threads.h"

namespace ulp {

#define ULP_GROUPED_KERNEL(name)                     \
  namespace name {                                   \
  int byte_bias(int, int);                           \
  auto bind(int, int) -> void (*)(const GroupTile&); \
  }
ULP_GROUPED_KERNEL(grouped_scalar)
#if defined(ULP_X86)
ULP_GROUPED_KERNEL(grouped_avx2)
ULP_GROUPED_KERNEL(grouped_avxvnni)
ULP_GROUPED_KERNEL(grouped_avx512vnni)
#elif defined(ULP_ARM64)
ULP_GROUPED_KERNEL(grouped_neon)
ULP_GROUPED_KERNEL(grouped_dotprod)
#endif
#undef ULP_GROUPED_KERNEL

namespace {

// Best first.
const GroupedKernel kKernels[] = {
#if defined(ULP_X86)
    {"grouped_avx512vnni_8x32", Isa::avx512vnni, grouped_avx512vnni::byte_bias, grouped_avx512vnni::bind},
    {"grouped_avxvnni_4x32", Isa::avxvnni, grouped_avxvnni::byte_bias, grouped_avxvnni::bind},
    {"grouped_avx2_4x32", Isa::avx2, grouped_avx2::byte_bias, grouped_avx2::bind},
#elif defined(ULP_ARM64)
    {"grouped_dotprod_4x32", Isa::dotprod, grouped_dotprod::byte_bias, grouped_dotprod::bind},
    {"grouped_neon_2x32", Isa::neon, grouped_neon::byte_bias, grouped_neon::bind},
#endif
    {"grouped_scalar_1x32", Isa::baseline, grouped_scalar::byte_bias, grouped_scalar::bind},
};

const GroupedKernel& kernel_here() {
  for (const GroupedKernel& k : kKernels) {
    if (isa_runs(k.isa)) return k;
  }
  return kKernels[sizeof kKernels / sizeof kKernels[0] - 1];
}

// Rows whose floats and bytes stay in the second-level cache while all panels pass by.
constexpr int64_t kABlockBytes = 192 * 1024;
constexpr int64_t kMaxBlockRows = 128;
// Of a panel's weights, which stay in the first-level cache while the rows pass by.
constexpr int64_t kChunkBytes = 16 * 1024;

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

// groups x n values, row by row -> panel by panel.
AlignedBytes by_panels(const float* values, int64_t groups, const BitpackedLayout& codes) {
  AlignedBytes all(static_cast<size_t>(groups * codes.units() * kUnitCols) * sizeof(float));
  std::memset(all.data(), 0, all.size() + 64);
  float* to = reinterpret_cast<float*>(all.data());
  for (int64_t p = 0; p < codes.panels(); ++p) {
    const int64_t n0 = p * kPanelCols, cols = std::min(codes.n - n0, int64_t{kPanelCols});
    for (int64_t g = 0; g < groups; ++g, to += codes.panel_units(p) * kUnitCols) std::copy_n(values + g * codes.n + n0, cols, to);
  }
  return all;
}

void check_finite(const float* values, int64_t count, int64_t n, const char* name, float limit) {
  for (int64_t i = 0; i < count; ++i) {
    if (std::isfinite(values[i]) && std::abs(values[i]) <= limit) continue;
    refuse(std::string(name) + "[" + std::to_string(i / n) + ", " + std::to_string(i % n) + "] = " + std::to_string(values[i]) +
           ": expected a finite number" + (std::isfinite(values[i]) ? " of -65536 .. 65536" : ""));
  }
}

struct Job {
  const GroupedProblem& p;
  const GroupedMatrix& b;
  void (*run)(const GroupTile&);
  const uint8_t* a;  // all rows, in the layout's padded k
  const RowGroup* row_groups;
  int64_t row_parts = 1, panel_parts = 1;
};

// Signed bytes of a row, and what its groups begin with.
void pack_row(const GroupedProblem& p, int64_t m, uint32_t bias, uint8_t* to, RowGroup* row_groups) {
  const GroupedLayout& layout = p.b->layout;
  const uint8_t* from = p.a + m * p.a_stride;
  const uint8_t sign = static_cast<uint8_t>(p.centre);  // 128 or 0: subtracting it flips the upper bit
  for (int64_t g = 0; g < layout.groups(); ++g, to += layout.padded_group()) {
    const int64_t k = g * layout.group, count = std::min(layout.group, layout.k - k);
    int32_t sum = 0;
    for (int64_t i = 0; i < count; ++i) {
      to[i] = from[k + i] ^ sign;
      sum += static_cast<int8_t>(to[i]);
    }
    std::memset(to + count, 0, static_cast<size_t>(layout.padded_group() - count));
    const float scale = p.a_scales ? p.a_scales[m * p.a_scale_row + g * p.a_scale_group] : 1.0f;
    row_groups[g] = {static_cast<int32_t>(0u - bias * static_cast<uint32_t>(sum)), static_cast<float>(sum), scale};
  }
}

// Some rows by one panel.
void run_panel(const Job& job, Range rows, int64_t panel, float* sums) {
  const BitpackedLayout& codes = job.b.codes->layout;
  const GroupedLayout& layout = job.b.layout;
  const int units = codes.panel_units(panel);
  const int64_t group_bytes = layout.padded_group() / kUnitK * units * codes.unit_bytes();
  const int64_t values = panel * layout.groups() * kPanelCols;
  const int64_t chunk = rows.size() <= 4 ? layout.groups() : std::max<int64_t>(kChunkBytes / group_bytes, 1);
  std::memset(sums, 0, static_cast<size_t>(rows.size() * kPanelCols) * sizeof(float));
  GroupTile t{};
  t.a_stride = layout.padded_k();
  t.row_group_stride = layout.groups();
  t.rows = static_cast<int>(rows.size());
  t.units = units;
  t.group_blocks = layout.padded_group() / kUnitK;
  t.table = job.b.table;
  t.c = sums;
  for (int64_t g = 0; g < layout.groups(); g += chunk) {
    t.a = job.a + rows.begin * t.a_stride + g * layout.padded_group();
    t.row_groups = job.row_groups + rows.begin * t.row_group_stride + g;
    t.b = job.b.codes->data.data() + codes.unit_offset(panel, 0, 0) + g * group_bytes;
    t.groups = std::min(chunk, layout.groups() - g);
    const int64_t at = values + g * units * kUnitCols;
    t.scales = reinterpret_cast<const float*>(job.b.scales.data()) + at;
    t.zeros = job.b.zeros.size() ? reinterpret_cast<const float*>(job.b.zeros.data()) + at : nullptr;
    job.run(t);
  }
  const int64_t n0 = panel * kPanelCols, cols = std::min(codes.n - n0, int64_t{kPanelCols});
  for (int64_t r = 0; r < rows.size(); ++r) {
    float* out = job.p.out + (rows.begin + r) * job.p.out_stride + n0;
    const float* from = sums + r * kPanelCols;
    if (!job.p.bias) {
      std::copy_n(from, cols, out);
      continue;
    }
    for (int64_t j = 0; j < cols; ++j) out[j] = from[j] + job.p.bias[n0 + j];
  }
}

void run_task(const Job& job, int64_t index) {
  const Range rows = part(job.p.rows, job.row_parts, index / job.panel_parts);
  const Range panels = part(job.b.codes->layout.panels(), job.panel_parts, index % job.panel_parts);
  const int64_t block = std::clamp<int64_t>(kABlockBytes / job.b.layout.padded_k() / 8 * 8, 8, kMaxBlockRows);
  thread_local Scratch scratch;
  float* sums;
  scratch.lay_out(scratch_array(sums, kMaxBlockRows * kPanelCols));
  for (int64_t m = rows.begin; m < rows.end; m += block) {
    for (int64_t panel = panels.begin; panel < panels.end; ++panel) run_panel(job, {m, std::min(m + block, rows.end)}, panel, sums);
  }
}

}  // namespace

GroupedMatrix make_grouped(GroupedLayout layout, std::shared_ptr<const PackedMatrix> codes, const float* scales, const float* zeros,
                           int32_t zero, const int32_t* table, int64_t entries) {
  const BitpackedLayout& stored = codes->layout;
  const int bits = stored.bits;
  if (layout.group < 1 || layout.group > kMaxGroup) {
    refuse("group = " + std::to_string(layout.group) + ": expected 1 .. " + std::to_string(kMaxGroup));
  }
  if (layout.k < 1) refuse("k = " + std::to_string(layout.k) + ": expected 1 or more");
  if (stored.k != layout.padded_k()) {
    refuse("weights have K = " + std::to_string(stored.k) + ", and groups that are padded to a multiple of 32 take " +
           std::to_string(layout.padded_k()));
  }
  if (stored.n < 1) refuse("weights have no columns");
  if (codes->encoding.is_signed) refuse("weights must be unsigned codes");
  if (zero < 0 || zero >= 1 << bits) refuse("zero = " + std::to_string(zero) + ": expected 0 .. " + std::to_string((1 << bits) - 1));
  check_finite(scales, layout.groups() * stored.n, stored.n, "scales", INFINITY);
  if (zeros) check_finite(zeros, layout.groups() * stored.n, stored.n, "zeros", 65536.0f);
  GroupedMatrix m;
  m.layout = layout;
  if (table) {
    if (bits < 2 || bits > 4) refuse("a table takes codes of 2 to 4 bits, not " + std::to_string(bits));
    if (entries != int64_t{1} << bits)
      refuse("the table has " + std::to_string(entries) + " entries for codes of " + std::to_string(bits) + " bits");
    if (zero != 0 || zeros) refuse("a table takes no zero points");
    m.planes = 1;
    for (int64_t i = 0; i < entries; ++i) {
      if (std::abs(int64_t{table[i]}) > kMaxEntry) {
        refuse("table[" + std::to_string(i) + "] = " + std::to_string(table[i]) + ": expected -" + std::to_string(kMaxEntry) + " .. " +
               std::to_string(kMaxEntry));
      }
      if (table[i] < -128 || table[i] > 127) m.planes = 2;
    }
    for (int64_t i = 0; i < entries; ++i) {
      const int low = ((table[i] + 128) & 255) - 128;
      m.table[0][i] = static_cast<int8_t>(m.planes == 1 ? table[i] : (table[i] - low) / 256);
      m.table[1][i] = static_cast<int8_t>(low);
    }
  }
  m.zero = zero;
  m.scales = by_panels(scales, layout.groups(), stored);
  if (zeros) m.zeros = by_panels(zeros, layout.groups(), stored);
  m.codes = std::move(codes);
  return m;
}

const char* grouped_kernel_name() { return kernel_here().name; }

void grouped(const GroupedProblem& p) {
  if (p.rows == 0) return;
  const GroupedMatrix& b = *p.b;
  const GroupedLayout& layout = b.layout;
  const GroupedKernel& kernel = kernel_here();
  const int bits = b.codes->layout.bits;
  const uint32_t bias = static_cast<uint32_t>(kernel.byte_bias(bits, b.planes)) + static_cast<uint32_t>(b.zero);
  thread_local Scratch scratch;
  uint8_t* a;
  RowGroup* row_groups;
  scratch.lay_out(scratch_array(a, p.rows * layout.padded_k()), scratch_array(row_groups, p.rows * layout.groups()));
  for_rows_of(p.rows, layout.padded_k(), [&](Range rows) {
    for (int64_t m = rows.begin; m < rows.end; ++m) pack_row(p, m, bias, a + m * layout.padded_k(), row_groups + m * layout.groups());
  });
  Job job{p, b, kernel.bind(bits, b.planes), a, row_groups};
  const int64_t macs = p.rows * b.n() * layout.k;
  const int64_t threads = macs < kParallelMacs ? 1 : num_threads();
  const int64_t panels = b.codes->layout.panels();
  // Between tasks the caller may be interrupted: none takes longer than some tenths of a second.
  constexpr int64_t kTaskMacs = int64_t{1} << 32;
  const int64_t wanted = std::max(threads > 1 ? 2 * threads : 1, ceil_div(macs, kTaskMacs));
  job.panel_parts = std::clamp<int64_t>(wanted, 1, panels);
  job.row_parts = std::clamp<int64_t>(ceil_div(wanted, job.panel_parts), 1, p.rows);
  const auto task = [](void* context, int64_t i) { run_task(*static_cast<const Job*>(context), i); };
  parallel_for(job.row_parts * job.panel_parts, task, &job);
}

}  // namespace ulp
