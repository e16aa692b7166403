// gemmlowp behind three C functions, compiled on demand by the benchmarks and never by the package.
//
// The operands are laid out as gemmlowp's own users (TFLite's fully connected layer) lay them out: weights are the row-major
// left side, activations the column-major right side, so that result(n, m) lies in memory as a row-major (m, n) matrix.
// gemmlowp has no interface for weights packed ahead of time: every call packs both sides, and that is in its time.

#include <cstdint>
#include <tuple>

#include <gemmlowp/public/gemmlowp.h>
#include <gemmlowp/public/output_stages.h>

namespace {

// Signed weights w are stored as w + 128, which the left offset takes back inside gemmlowp.
constexpr int kWeightOffset = -128;

struct Problem {
  int m, n, k;
  const std::uint8_t* activations;  // (m, k), row-major
  const std::uint8_t* weights;      // (n, k), row-major, w + 128
  std::int32_t* out;                // (m, n), row-major
  gemmlowp::GemmContext context;
};

}  // namespace

extern "C" {

void* gemmlowp_new(int m, int n, int k, const std::uint8_t* activations, const std::uint8_t* weights, std::int32_t* out) {
  auto* problem = new Problem{m, n, k, activations, weights, out, {}};
  problem->context.set_max_num_threads(1);
  return problem;
}

void gemmlowp_run(void* handle) {
  using gemmlowp::MapOrder;
  using gemmlowp::MatrixMap;
  auto& p = *static_cast<Problem*>(handle);
  const MatrixMap<const std::uint8_t, MapOrder::RowMajor> lhs(p.weights, p.n, p.k, p.k);
  const MatrixMap<const std::uint8_t, MapOrder::ColMajor> rhs(p.activations, p.k, p.m, p.k);
  MatrixMap<std::int32_t, MapOrder::ColMajor> result(p.out, p.n, p.m, p.n);
  // An empty pipeline leaves the int32 accumulators as they are.
  gemmlowp::GemmWithOutputPipeline<std::uint8_t, std::int32_t, gemmlowp::DefaultL8R8BitDepthParams>(&p.context, lhs, rhs, &result,
                                                                                                    kWeightOffset, 0, std::make_tuple());
}

void gemmlowp_free(void* handle) { delete static_cast<Problem*>(handle); }

}  // extern "C"
