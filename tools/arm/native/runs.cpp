// The guest of blocks.c: multiplies what stdin lists, one `<name> <a_bits> <b_bits> <m> <n> <k>` per line, and marks each product.
// `runs list` names the kernels.
//
// A name is one of the kernel table's, with b packed before, or a peer's: gemmlowp always packs within the call, the schemes of
// int8_schemes.cpp get both operands packed. Every product is checked.
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "gemm/gemm.h"
#include "int8_schemes.h"

extern "C" {
void* gemmlowp_new(int m, int n, int k, const uint8_t* activations, const uint8_t* weights, int32_t* out);
void gemmlowp_run(void* handle);
void gemmlowp_free(void* handle);
}

namespace {

constexpr long kMarker = 0x7070;  // blocks.c knows it

void mark(int end) { syscall(kMarker, end); }

template <typename Call>
void counted(const Call& call) {
  call();  // allocations and dynamic tables of the first call are not counted
  mark(0);
  call();
  mark(1);
}

struct Operands {
  int m, n, k;
  std::vector<uint8_t> a;  // (m, k)
  std::vector<int8_t> b;   // (k, n)
};

Operands random_operands(int m, int n, int k, int a_bits, int b_bits) {
  Operands o{m, n, k, std::vector<uint8_t>(static_cast<size_t>(m) * k), std::vector<int8_t>(static_cast<size_t>(k) * n)};
  std::mt19937 rng(1);
  for (uint8_t& v : o.a) v = static_cast<uint8_t>(rng() >> (32 - a_bits));
  for (int8_t& v : o.b) {
    const int code = static_cast<int>(rng() >> (32 - b_bits));
    v = static_cast<int8_t>(b_bits == 1 ? 2 * code - 1 : code - (1 << (b_bits - 1)));
  }
  return o;
}

std::vector<int32_t> product(const Operands& o) {
  std::vector<int32_t> c(static_cast<size_t>(o.m) * o.n, 0);
  for (int i = 0; i < o.m; ++i) {
    for (int p = 0; p < o.k; ++p) {
      const int32_t x = o.a[static_cast<size_t>(i) * o.k + p];
      for (int j = 0; j < o.n; ++j) c[static_cast<size_t>(i) * o.n + j] += x * o.b[static_cast<size_t>(p) * o.n + j];
    }
  }
  return c;
}

void run_ulp(const std::string& name, const Operands& o, int a_bits, int b_bits, int32_t* c) {
  const ulp::MatrixView b{reinterpret_cast<const uint8_t*>(o.b.data()), o.k, o.n, o.n, 1, true};
  const ulp::PackedMatrix packed = ulp::pack(b, {b_bits, true});
  ulp::Problem problem;
  problem.a = {o.a.data(), o.m, o.k, o.k, 1, false};
  problem.a_encoding = {a_bits, false};
  problem.b = &packed;
  const ulp::Kernel& kernel = ulp::select_kernel({o.m, o.n, o.k, problem.a_encoding, packed.encoding}, name.c_str());
  counted([&] { ulp::gemm(problem, kernel, ulp::PlainSink(c, o.n)); });
}

void run_gemmlowp(const Operands& o, int32_t* c) {
  std::vector<uint8_t> weights(o.b.size());  // (n, k), w + 128
  for (int p = 0; p < o.k; ++p) {
    for (int j = 0; j < o.n; ++j)
      weights[static_cast<size_t>(j) * o.k + p] = static_cast<uint8_t>(o.b[static_cast<size_t>(p) * o.n + j] + 128);
  }
  void* handle = gemmlowp_new(o.m, o.n, o.k, o.a.data(), weights.data(), c);
  counted([&] { gemmlowp_run(handle); });
  gemmlowp_free(handle);
}

void run_scheme(const Int8Scheme& scheme, const Operands& o, int32_t* c) {
  const std::vector<uint8_t> a = pack_rows(o.a.data(), o.m, o.k, o.k, 1, scheme.depth);
  const std::vector<uint8_t> b = pack_rows(reinterpret_cast<const uint8_t*>(o.b.data()), o.n, o.k, 1, o.n, scheme.depth);
  counted([&] { scheme.multiply(a.data(), b.data(), o.m, o.n, o.k, c); });
}

// `<name> <isa> <a_bits> <b_bits>` for each kernel and pair.
void list_kernels() {
  for (const ulp::Kernel& kernel : ulp::kernel_table()) {
    for (int a = 1; a <= 8; ++a) {
      for (int b = 1; b <= 8; ++b) {
        if (kernel.supports(a, b)) std::printf("%s %s %d %d\n", kernel.name, ulp::isa_name(kernel.isa), a, b);
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "list") == 0) {
    list_kernels();
    return 0;
  }
  char text[64];
  int a_bits, b_bits, m, n, k;
  while (std::scanf("%63s %d %d %d %d %d", text, &a_bits, &b_bits, &m, &n, &k) == 6) {
    const std::string name = text;
    const Operands o = random_operands(m, n, k, a_bits, b_bits);
    std::vector<int32_t> c(static_cast<size_t>(m) * n, -1);
    if (name == "gemmlowp") {
      run_gemmlowp(o, c.data());
    } else if (const Int8Scheme* scheme = find_scheme(name)) {
      run_scheme(*scheme, o, c.data());
    } else {
      run_ulp(name, o, a_bits, b_bits, c.data());
    }
    if (c != product(o)) {
      std::fprintf(stderr, "%s: wrong product\n", text);
      return 1;
    }
  }
  return 0;
}
