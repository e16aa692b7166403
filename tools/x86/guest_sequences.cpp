// What runs in the emulator of sequences and weights in groups: grouped products on AVX-VNNI and AVX-512 VNNI, and the work on rows and
// the gates of recurrent layers on AVX-512, beside AVX2 in the same call. As guest_ops.cpp.
#include "guest_case.h"

#include "gemm/grouped_kernel.h"

#define ULP_GROUPED_KERNEL(name)                     \
  namespace ulp::name {                              \
  int byte_bias(int, int);                           \
  auto bind(int, int) -> void (*)(const GroupTile&); \
  }
ULP_GROUPED_KERNEL(grouped_avx2)
ULP_GROUPED_KERNEL(grouped_avxvnni)
ULP_GROUPED_KERNEL(grouped_avx512vnni)
#undef ULP_GROUPED_KERNEL

namespace {

// Any bytes are weights.
bool check_grouped(Case& c, int (*bias)(int, int), void (*(*bind)(int, int))(const GroupTile&)) {
  const int planes = static_cast<int>(c.number(0, 2));
  const int bits = static_cast<int>(planes ? c.number(2, 4) : c.number(1, 8));
  GroupTile t{};
  t.rows = static_cast<int>(c.number(1, 13));
  t.units = static_cast<int>(c.number(1, kPanelUnits));
  t.groups = c.number(1, 3);
  t.group_blocks = c.number(1, 3);
  const int64_t blocks = t.groups * t.group_blocks;
  t.a_stride = blocks * kUnitK;
  t.a = c.numbers<uint8_t>(t.rows * t.a_stride, 0, 255);
  t.b = c.numbers<uint8_t>(blocks * t.units * bits * kVector, 0, 255);
  const int64_t columns = t.groups * t.units * kUnitCols;
  t.scales = c.reals(columns + kUnitCols, 30000);
  t.zeros = c.flip() ? c.reals(columns + kUnitCols, 300) : nullptr;
  t.table = reinterpret_cast<const int8_t (*)[16]>(c.numbers<int8_t>(32, -128, 127));
  t.row_group_stride = t.groups;
  auto* two = c.take<RowGroup>(t.rows * t.groups);
  auto* other = c.take<RowGroup>(t.rows * t.groups);
  for (int64_t i = 0; i < t.rows * t.groups; ++i) {
    int sum = 0;
    for (int64_t k = 0; k < t.group_blocks * kUnitK; ++k) sum += static_cast<int8_t>(t.a[i * t.group_blocks * kUnitK + k]);
    const int zero = static_cast<int>(c.number(0, 255));
    const float scale = c.real(30000);
    two[i] = {-(zero + grouped_avx2::byte_bias(bits, planes)) * sum, static_cast<float>(sum), scale};
    other[i] = {-(zero + bias(bits, planes)) * sum, static_cast<float>(sum), scale};
  }
  const int64_t results = t.rows * kPanelCols;
  auto* c2 = c.reals(results, 100);
  auto* c5 = c.take<float>(results);
  for (int64_t i = 0; i < results; ++i) c5[i] = c2[i];
  t.c = c2;
  t.row_groups = two;
  grouped_avx2::bind(bits, planes)(t);
  t.c = c5;
  t.row_groups = other;
  bind(bits, planes)(t);
  for (int64_t i = 0; i < results; ++i) {  // columns behind the last unit are nobody's
    if (i % kPanelCols < t.units * kUnitCols && __builtin_memcmp(&c2[i], &c5[i], sizeof(float)) != 0) return false;
  }
  return true;
}

bool check_grouped_avxvnni(Case& c) { return check_grouped(c, grouped_avxvnni::byte_bias, grouped_avxvnni::bind); }
bool check_grouped_avx512vnni(Case& c) { return check_grouped(c, grouped_avx512vnni::byte_bias, grouped_avx512vnni::bind); }

bool check_rows(Case& c) {
  RowWork w{};
  w.rows = c.number(1, 4);
  w.groups = c.number(1, 3);
  w.channels = c.number(1, 70);
  const int64_t all = w.groups * w.channels;
  w.operand_count = static_cast<int>(c.number(1, 3));
  for (int i = 0; i < w.operand_count; ++i) {
    Operand& o = w.operands[i];
    w.group_step[i] = w.channels;
    o.pixel = all + c.number(0, 3);
    o.scale = 0.013f * static_cast<float>(c.number(1, 50));
    o.zero = static_cast<int>(c.number(0, 200));
    if (c.flip()) {
      o.codes = c.numbers<uint8_t>(w.rows * (all + 3), 0, 255);
    } else {
      o.floats = c.reals(w.rows * (all + 3), 1000);
    }
  }
  w.function = static_cast<RowFunction>(c.number(0, static_cast<int>(RowFunction::tanh)));
  w.gamma = c.flip() ? c.reals(w.channels, 10000) : nullptr;
  w.beta = c.flip() ? c.reals(w.channels, 10000) : nullptr;
  w.epsilon = 1e-5f;
  w.buffer = c.take<float>(w.channels + 16);
  const float divisors[2] = {0.7f, 0.03f};
  w.divisors = c.flip() ? divisors : nullptr;
  w.target_count = static_cast<int>(c.number(1, 2));
  Pair pairs[2];
  Target first[2], second[2];
  for (int i = 0; i < w.target_count; ++i) {
    pairs[i] = target(c, w.rows, all, c.flip());
    first[i] = pairs[i].first;
    second[i] = pairs[i].second;
  }
  w.targets = first;
  const bool clean = avx2_row_ops().rows(w);
  w.targets = second;
  if (avx512_row_ops().rows(w) != clean) return false;
  for (int i = 0; i < w.target_count; ++i) {
    if (!pairs[i].agrees()) return false;
  }
  return true;
}

bool check_float_products(Case& c) {
  FloatProduct p{};
  p.rows = c.number(1, 13);
  p.depth = c.number(1, 40);
  p.a_step = c.flip() ? 1 : p.rows;
  p.a_row = p.a_step == 1 ? p.depth : 1;
  p.a = c.reals(p.rows * p.depth, 3000);
  p.b = c.reals(p.depth * kProductColumns, 3000);
  p.out_row = kProductColumns;
  auto* two = c.take<float>(p.rows * p.out_row);
  auto* five = c.take<float>(p.rows * p.out_row);
  p.out = two;
  avx2_row_ops().product(p);
  p.out = five;
  avx512_row_ops().product(p);
  return same(two, five, p.rows * p.out_row);
}

GateSums gate_sums(Case& c, int64_t columns) {
  GateSums s{};
  s.sums = c.numbers<int32_t>(columns, -9999, 9999);
  s.columns = c.numbers<int32_t>(columns, -500, 500);
  s.scale = c.reals(columns, 3000000);
  s.zero = static_cast<int32_t>(c.number(0, 255));
  s.unit = 0.25f;
  return s;
}

bool check_gates(Case& c) {
  const int64_t units = c.number(1, 50);
  GateWork w{};
  w.units = units;
  w.input = gate_sums(c, 4 * units);
  w.hidden = gate_sums(c, 4 * units);
  w.bias = c.reals(4 * units, 30000);
  w.hidden_bias = c.flip() ? c.reals(units, 30000) : nullptr;
  using Step = void (*)(const GateWork&);
  const RowOps &two = avx2_row_ops(), &five = avx512_row_ops();
  const Step steps[][2] = {{two.lstm, five.lstm}, {two.gru, five.gru}, {two.gru_reset, five.gru_reset}, {two.gru_update, five.gru_update}};
  for (const auto& step : steps) {
    auto* before = c.reals(4 * units, 30000);
    float* after[2];
    for (int i = 0; i < 2; ++i) {
      after[i] = c.take<float>(4 * units);
      for (int64_t k = 0; k < 4 * units; ++k) after[i][k] = before[k];
      w.state = after[i];
      w.cell = after[i] + units;
      w.update = after[i] + 2 * units;
      w.reset = after[i] + 3 * units;
      step[i](w);
    }
    if (!same(after[0], after[1], 4 * units)) return false;
  }
  return true;
}

}  // namespace

extern "C" {

int64_t guest_sequences_avxvnni(int64_t seed, uint8_t* memory) {
  Check* const checks[] = {check_grouped_avxvnni};
  return first_failure(seed, memory, checks, 1);
}

int64_t guest_sequences_avx512(int64_t seed, uint8_t* memory) {
  Check* const checks[] = {check_rows, check_float_products, check_gates};
  return first_failure(seed, memory, checks, 3);
}

int64_t guest_sequences_avx512vnni(int64_t seed, uint8_t* memory) {
  Check* const checks[] = {check_grouped_avx512vnni};
  return first_failure(seed, memory, checks, 1);
}
}
