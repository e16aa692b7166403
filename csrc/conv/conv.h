// Convolution of one layer: what is fixed when a plan is made, and the run over the images of a call.
//
// Weights are a PackedMatrix of K x N with K = kernel height x kernel width x channels, in that order, channels a multiple of 4; so every
// GEMM kernel that takes its rows of A from anywhere (gemm/kernel.h: Gather) convolves without im2col. The source has a border that holds
// the code of zero, so padding needs no case of its own.
//
// Images of one, two or three channels, which the first layer reads, need no padded channels where their pixels lie without gaps: without
// dilation the taps of a kernel row are then one stretch of kernel width x channels codes, and only that is padded to a multiple of 4
// (`tight`).
#pragma once

#include <cstdint>
#include <memory>

#include "../gemm/kernel.h"
#include "../ops/image_view.h"
#include "../ops/output.h"
#include "../pack/packed_matrix.h"

namespace ulp {

struct ConvShape {
  int height, width;  // source
  int channels;       // that are read: for a Conv a multiple of 4, unless `tight`
  int out_height, out_width;
  int kernel_y, kernel_x;
  int stride_y, stride_x;
  int pad_top, pad_left;
  int dilation_y, dilation_x;
  bool tight;  // channels are then as they are, below 4

  // Stretches of K that lie together in the source.
  int64_t segments() const { return tight ? kernel_y : taps(); }
  int64_t segment_k() const { return tight ? round_up(int64_t{kernel_x} * channels, 4) : channels; }
  // Of these, those that hold weights; the others are 0.
  int64_t used_k() const { return tight ? int64_t{kernel_x} * channels : channels; }
  // From a window's start to a segment's.
  int64_t segment_offset(int64_t segment, const ImageStrides& at) const {
    if (tight) return at.offset(0, segment * dilation_y, 0);
    return at.offset(0, segment / kernel_x * dilation_y, segment % kernel_x * dilation_x);
  }

  int64_t taps() const { return int64_t{kernel_y} * kernel_x; }
  int64_t pixels() const { return int64_t{out_height} * out_width; }
};

// Splits `count` tasks over the threads, or runs them in order.
struct Tasks {
  bool parallel = false;
  int threads = 1;

  template <class Body>
  void run(int64_t count, const Body& body) const {
    run_all(count, [](void* context, int64_t i) { (*static_cast<const Body*>(context))(i); }, const_cast<Body*>(&body));
  }

 private:
  void run_all(int64_t count, void (*task)(void*, int64_t), void* context) const;
};

// One way of computing it.
class Conv {
 public:
  virtual ~Conv() = default;
  // Kernel or transform, for tables of steps.
  virtual const char* method() const = 0;

  // For sources with these strides from now on. Returns the bytes of scratch memory per image.
  virtual int64_t bind(const ImageStrides& source) = 0;

  // `source` has the strides of `bind`, and around each image the border that windows reach. scratch: images x what `bind` returned.
  virtual void run(const CodeImages& source, int64_t images, uint8_t* scratch, const Output& output, const Tasks& tasks) const = 0;
};

// Whether a method is expected to be faster than the kernels; where it always loses it is not even timed.
enum class Prospect { loses, unclear, wins };

struct ConvProblem {
  ConvShape shape;
  const PackedMatrix& weights;
  int a_bits;
  int a_zero;
  int w_zero;
};

// Implicit GEMM. Precondition: the kernel supports the pair and its KernelAtBits has step_k; weights.layout.k ==
// shape.segments() * shape.segment_k(); where the shape is tight the kernel has any_start.
std::unique_ptr<Conv> make_direct(const ConvProblem& problem, const Kernel& kernel);

}  // namespace ulp
