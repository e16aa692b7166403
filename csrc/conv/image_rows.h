// The rows of A that an image stands for in an implicit GEMM: one per output pixel, read where its window lies in the image.
#pragma once

#include "../gemm/panel_loop.h"
#include "conv.h"

namespace ulp {

class ImageRows {
 public:
  // `loop` must outlive the rows.
  ImageRows(const ConvShape& shape, PanelLoop& loop);

  // For sources with these strides from now on. Returns the bytes of scratch memory per image.
  int64_t bind(const ImageStrides& source);

  // What the kernel reads. Pixel (0, 0) is the first of the first window, which may be one of the border.
  struct Prepared {
    CodeImages codes;               // the source, or its pixels as the kernel packs them
    ImageView<const int32_t> sums;  // where row sums are needed: at each pixel, that of the segment which starts there; else no data
  };
  Prepared prepare(const CodeImages& source, int64_t images, uint8_t* scratch, const Tasks& tasks, const Ops& ops) const;

  // The rows of some output rows of an image; their numbers count the image's pixels.
  class Part final : public RowSource {
   public:
    Part(const ImageRows& all, const Prepared& prepared, int64_t image, Range out_rows);
    Rows rows(Range r) const override;

   private:
    const ImageRows& all_;
    const Prepared& prepared_;
    int64_t image_;
  };

  // Rows of the source that windows reach, border included.
  int64_t window_rows() const { return window_rows_; }

 private:
  bool packs() const { return loop_.kernel().pack_a; }
  bool whole_pixels() const { return source_.pixel == shape_.channels; }
  int64_t packed_bytes(int64_t codes) const { return codes * loop_.kernel().a_bytes / kUnitK; }
  int64_t packed_row_codes() const;
  int64_t sum_bytes() const;
  std::vector<Piece> pieces(Range k, bool skips_padding) const;
  void pack(const CodeImages& windows, int64_t images, const ImageView<uint8_t>& packed, const Tasks& tasks) const;
  void take_sums(const CodeImages& windows, int64_t images, const ImageView<int32_t>& sums, const Tasks& tasks, const Ops& ops) const;
  int32_t row_term(const int32_t* window) const;

  ConvShape shape_;
  PanelLoop& loop_;
  int64_t window_rows_;
  int64_t window_columns_;
  ImageStrides source_;
  ImageStrides codes_;  // bytes, of what the kernel reads
  ImageStrides sums_;   // elements
  int64_t scratch_bytes_ = 0;
  std::vector<GatheredBlock> blocks_;
};

}  // namespace ulp
