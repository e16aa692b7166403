// The loop of every product: one panel of B, K-block by K-block, against rows of A; the finished sums go to a sink.
//
//     for each block of rows:                 all rows that are strided; as many gathered ones as keep their sums in the first-level cache
//       for each block of K:
//         expand the panel's K-block          (kernel.h; stays in the first-level cache)
//         for each tile of rows:
//           run the kernel
//           after the last block of K: hand the sums over
//
// gemm.cpp brings the rows of a matrix, conv/direct.cpp those that the pixels of an image stand for.
#pragma once

#include <cstdint>
#include <vector>

#include "../pack/packed_matrix.h"
#include "kernel.h"
#include "range.h"
#include "sink.h"
#include "zero_points.h"

namespace ulp {

// Rows of A as the kernel reads them: strided, or gathered, each from an address of its own.
struct Rows {
  const uint8_t* data = nullptr;  // row i lies at data + i * stride
  int64_t stride = 0;
  const uint8_t* const* gathered = nullptr;  // where not nullptr, instead: row i starts at gathered[i]
  const uint8_t* transposed = nullptr;       // all rows, as KernelAtBits::transpose leaves them
  const int32_t* terms = nullptr;            // row term of each; nullptr: zeros (gathered rows only)
  const uint32_t* sums = nullptr;            // s_a * X_a of each, where t_b varies by column
};

// How gathered rows are cut along one K-block.
struct GatheredBlock {
  std::vector<Piece> pieces;
  std::vector<Run> runs;  // of `pieces`
};

class RowSource {
 public:
  virtual ~RowSource() = default;
  // Rows r.begin .. r.end - 1 of the source; good until the next call.
  virtual Rows rows(Range r) const = 0;

  int64_t first = 0;  // row of the result that row 0 belongs to
  int64_t count = 0;
  const std::vector<GatheredBlock>* blocks = nullptr;  // where the rows are gathered, one per K-block
};

// Cuts rows into tiles of nearly equal height, the taller ones first, each but the last of whole groups. No division per tile, which would
// cost as much as storing its sums.
class Tiles {
 public:
  Tiles(int64_t rows, int64_t mr, int64_t group);
  explicit Tiles(int64_t rows) : rows_(rows), group_(rows), shorter_(1), taller_(0) {}  // one tile

  Range after(Range tile) {
    const int64_t groups = shorter_ + (taller_-- > 0 ? 1 : 0);
    return {tile.end, std::min(tile.end + groups * group_, rows_)};
  }

 private:
  int64_t rows_, group_, shorter_, taller_;
};

// What is the same for all panels, rows and threads of a product.
class PanelLoop {
 public:
  PanelLoop(const Operands& operands, const Kernel& kernel);

  const KernelAtBits& kernel() const { return kernel_; }
  const ZeroPoints& zero_points() const { return zero_points_; }
  const BitpackedLayout& weights() const { return operands_.b->layout; }
  int64_t panels() const { return panels_; }
  int64_t k_blocks() const { return k_blocks_; }
  Range k_block(int64_t i) const;  // in units of 32 k

  // K as segments of `segment_k`, of which only the first `used_k` hold weights: true if steps without weights are left out of the panels,
  // as they then must be of the rows, which are gathered.
  bool skip_padding(int64_t segment_k, int64_t used_k);

  // The sums of all rows of the source in some panels. K is not 0.
  void run(const RowSource& source, Range panels, const Sink& sink) const;

 private:
  // What a thread works with, panel by panel.
  struct Work {
    const RowSource& source;
    const Sink& sink;
    Tiles tiles;               // of all rows, where they are strided
    int64_t unit_bytes = 0;    // of a panel, per 32 k; some kernels expand whole bitpacked panels
    int64_t put_rows = 0;      // whose sums are handed over together
    bool keeps_sums = false;   // of all rows, from a K-block to the next
    int64_t ld = 0;            // of the sums
    int64_t n0 = 0;            // first column of the panels whose sums are handed over together
    bool hands_over = false;   // this panel is the last of them
    uint8_t* panel = nullptr;  // of one K-block; of all where rows are gathered, since several blocks of rows pass by
    int32_t* sums = nullptr;
    int32_t* col = nullptr;
    int32_t* excess = nullptr;  // entries, where the kernel has an excess

    // Where whole tiles of these columns go straight to the sink's place.
    bool plain(const Columns& columns, const ZeroPoints& z) const { return sink.plain && !z.t_b_varies && columns.cols == columns.width(); }
  };

  // Weights that a multiplication will need, and how many bytes of them are asked for per tile.
  struct Ahead {
    const uint8_t* at = nullptr;
    const uint8_t* end = nullptr;
    int64_t share = 0;

    void fetch();
    // For kernels that ask for them themselves: from here on, so many lines of 64 bytes per tile.
    void hand_to(Tile& t, int64_t tiles);
  };

  Columns columns(int64_t panel) const;
  Ahead next_weights(const Columns& columns, int64_t rows) const;
  BitpackedSlice slice(const Columns& columns, Range k_block) const;
  const uint8_t* expand(const Columns& columns, Range k_block, uint8_t* memory) const;
  void run_panel(const Columns& columns, const Work& work) const;
  bool start_with_excess(const Columns& columns, const Rows& rows, const Work& work, Tile t) const;
  void run_tiles(const Columns& columns, Range block, const Rows& rows, bool finished, const Work& work, Tiles tiles, Ahead& ahead,
                 Tile& t) const;
  void put(const SumBlock& block, const uint32_t* row_sums, const Sink& sink) const;

  Operands operands_;
  KernelAtBits kernel_;
  ZeroPoints zero_points_;
  int64_t mr_;
  int64_t panel_group_;  // bitpacked panels in a panel of the loops
  int64_t panels_;
  int64_t kc_;  // K-blocks are of up to so many units of 32 k
  int64_t k_blocks_;
  // See skip_padding; bytes of a unit's panel, 0 where nothing is skipped.
  int64_t segments_ = 0;
  int64_t segment_bytes_ = 0;
  int64_t used_bytes_ = 0;
};

}  // namespace ulp
