#include "aligned_bytes.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace ulp {
namespace {

constexpr size_t kReadable = 64;
constexpr size_t kLargePage = size_t{1} << 21;

}  // namespace

AlignedBytes::AlignedBytes(size_t size) : size_(size) {
  const size_t bytes = size + kReadable;
  const std::align_val_t alignment{bytes >= kLargePage ? kLargePage : size_t{64}};
  data_ = {static_cast<uint8_t*>(::operator new(bytes, alignment)), FreeAligned{alignment}};
#if defined(__linux__)
  // Whole pages only: what is left over would take memory that nobody uses. A system that refuses has small pages.
  if (bytes >= kLargePage) static_cast<void>(madvise(data_.get(), bytes / kLargePage * kLargePage, MADV_HUGEPAGE));
#endif
}

}  // namespace ulp
