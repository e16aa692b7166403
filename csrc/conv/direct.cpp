// Implicit GEMM.
#include <algorithm>

#include "../gemm/threads.h"
#include "../ops/finish_sink.h"
#include "image_rows.h"

namespace ulp {
namespace {

// Source rows that are kept in the second-level cache while all panels of the weights pass by.
constexpr int64_t kSourceBytes = 160 * 1024;

// Pixels of a task below which splitting rows further only repeats the expansion of weights.
constexpr int64_t kTaskPixels = 48;

class Direct final : public Conv {
 public:
  Direct(const ConvProblem& problem, const Kernel& kernel)
      : shape_(problem.shape), name_(kernel.name), loop_(operands_of(problem), kernel), rows_(problem.shape, loop_) {}

  const char* method() const override { return name_; }
  int64_t bind(const ImageStrides& source) override { return rows_.bind(source); }

  void run(const CodeImages& source, int64_t images, uint8_t* scratch, const Output& output, const Tasks& tasks) const override {
    const ImageRows::Prepared prepared = rows_.prepare(source, images, scratch, tasks, *output.ops);
    const int64_t source_rows = std::max<int64_t>(1, kSourceBytes / std::max<int64_t>(1, prepared.codes.strides.row));
    int64_t row_parts = std::clamp<int64_t>(ceil_div(rows_.window_rows(), source_rows), 1, shape_.out_height);
    int64_t panel_parts = 1;
    if (tasks.parallel) {
      const int64_t wanted = 2 * tasks.threads;
      const int64_t max_parts = std::min<int64_t>(wanted, shape_.out_height);
      row_parts = std::max(row_parts, std::clamp<int64_t>(shape_.pixels() / kTaskPixels, 1, max_parts));
      panel_parts = std::clamp<int64_t>(ceil_div(wanted, row_parts * images), 1, loop_.panels());
    }
    tasks.run(images * row_parts * panel_parts, [&](int64_t index) {
      const Range panels = part(loop_.panels(), panel_parts, index % panel_parts);
      const Range out_rows = part(shape_.out_height, row_parts, index / panel_parts % row_parts);
      const int64_t image = index / panel_parts / row_parts;
      const ImageRows::Part rows(rows_, prepared, image, out_rows);
      const FinishSink sink(output, image, shape_.out_width);
      loop_.run(rows, panels, sink);
    });
  }

 private:
  static Operands operands_of(const ConvProblem& p) {
    Operands o;
    o.a_encoding = {p.a_bits, false};
    o.a_zero = p.a_zero;
    o.b = &p.weights;
    o.b_zero = &p.w_zero;
    return o;
  }

  ConvShape shape_;
  const char* name_;
  PanelLoop loop_;
  ImageRows rows_;
};

}  // namespace

void Tasks::run_all(int64_t count, void (*task)(void*, int64_t), void* context) const {
  if (parallel) return parallel_for(count, task, context);
  for (int64_t i = 0; i < count; ++i) task(context, i);
}

std::unique_ptr<Conv> make_direct(const ConvProblem& problem, const Kernel& kernel) { return std::make_unique<Direct>(problem, kernel); }

}  // namespace ulp
