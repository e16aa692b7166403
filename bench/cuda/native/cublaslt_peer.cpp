// cuBLASLt's int8 products, called directly: the algorithms that its heuristics name, best first, with a workspace. out (m x n, int32 or
// int8, row by row) = alpha a (m x k) b^T (n x k), K adjacent in both operands.
#include <cublasLt.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <string>

namespace {

constexpr int kMostAlgorithms = 16;

struct Failure {
  const char* call;
  cublasStatus_t status;
};

void check(cublasStatus_t status, const char* call) {
  if (status != CUBLAS_STATUS_SUCCESS) throw Failure{call, status};
}

cublasLtHandle_t handle() {
  static const cublasLtHandle_t made = [] {
    cublasLtHandle_t h = nullptr;
    check(cublasLtCreate(&h), "cublasLtCreate");
    return h;
  }();
  return made;
}

struct Plan {
  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t b = nullptr;
  cublasLtMatrixLayout_t a = nullptr;
  cublasLtMatrixLayout_t out = nullptr;
  cublasLtMatmulPreference_t preference = nullptr;
  std::array<cublasLtMatmulHeuristicResult_t, kMostAlgorithms> found{};
  int count = 0;
  bool quantized = false;
  float scale = 1;
  size_t workspace = 0;

  ~Plan() {
    if (preference != nullptr) cublasLtMatmulPreferenceDestroy(preference);
    for (cublasLtMatrixLayout_t layout : {a, b, out}) {
      if (layout != nullptr) cublasLtMatrixLayoutDestroy(layout);
    }
    if (product != nullptr) cublasLtMatmulDescDestroy(product);
  }
};

// Column by column, as cuBLASLt sees matrices: out^T (n x m) = b (n x k, transposed from k x n) times a^T (k x m), its own layout for int8.
void describe(Plan& p, uint64_t m, uint64_t n, uint64_t k) {
  const cudaDataType_t out = p.quantized ? CUDA_R_8I : CUDA_R_32I;
  check(cublasLtMatmulDescCreate(&p.product, CUBLAS_COMPUTE_32I, p.quantized ? CUDA_R_32F : CUDA_R_32I), "cublasLtMatmulDescCreate");
  const cublasOperation_t transposed = CUBLAS_OP_T;
  check(cublasLtMatmulDescSetAttribute(p.product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed), "setting TRANSA");
  check(cublasLtMatrixLayoutCreate(&p.b, CUDA_R_8I, k, n, static_cast<int64_t>(k)), "cublasLtMatrixLayoutCreate");
  check(cublasLtMatrixLayoutCreate(&p.a, CUDA_R_8I, k, m, static_cast<int64_t>(k)), "cublasLtMatrixLayoutCreate");
  check(cublasLtMatrixLayoutCreate(&p.out, out, n, m, static_cast<int64_t>(n)), "cublasLtMatrixLayoutCreate");
  check(cublasLtMatmulPreferenceCreate(&p.preference), "cublasLtMatmulPreferenceCreate");
  check(cublasLtMatmulPreferenceSetAttribute(p.preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &p.workspace, sizeof p.workspace),
        "setting the workspace");
  check(
      cublasLtMatmulAlgoGetHeuristic(handle(), p.product, p.b, p.a, p.out, p.out, p.preference, kMostAlgorithms, p.found.data(), &p.count),
      "cublasLtMatmulAlgoGetHeuristic");
}

}  // namespace

extern "C" {

// Null with the reason in `error` where cuBLASLt refuses. quantized: int8 results, scaled by `scale`. Freed by ulp_lt_free.
void* ulp_lt_plan(int64_t m, int64_t n, int64_t k, int quantized, float scale, int64_t workspace, char* error, int64_t error_size) {
  Plan* p = new Plan;
  p->quantized = quantized != 0;
  p->scale = scale;
  p->workspace = static_cast<size_t>(workspace);
  try {
    describe(*p, static_cast<uint64_t>(m), static_cast<uint64_t>(n), static_cast<uint64_t>(k));
    return p;
  } catch (const Failure& failure) {
    std::snprintf(error, static_cast<size_t>(error_size), "%s: %s", failure.call, cublasLtGetStatusString(failure.status));
    delete p;
    return nullptr;
  }
}

// Algorithms that can run.
int ulp_lt_count(const void* plan) { return static_cast<const Plan*>(plan)->count; }

// 0, or cuBLASLt's status. which: 0 is the heuristics' first choice.
int ulp_lt_run(const void* plan, int which, const void* a, const void* b, void* out, void* workspace, void* stream) {
  const Plan& p = *static_cast<const Plan*>(plan);
  const int32_t one = 1;
  const int32_t none = 0;
  const float nothing = 0;
  const void* alpha = p.quantized ? static_cast<const void*>(&p.scale) : &one;
  const void* beta = p.quantized ? static_cast<const void*>(&nothing) : &none;
  return cublasLtMatmul(handle(), p.product, alpha, b, p.b, a, p.a, beta, out, p.out, out, p.out, &p.found[static_cast<size_t>(which)].algo,
                        workspace, p.workspace, static_cast<cudaStream_t>(stream));
}

const char* ulp_lt_status(int status) { return cublasLtGetStatusString(static_cast<cublasStatus_t>(status)); }

int64_t ulp_lt_version() { return static_cast<int64_t>(cublasLtGetVersion()); }

void ulp_lt_free(void* plan) { delete static_cast<Plan*>(plan); }
}
