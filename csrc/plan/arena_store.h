// The arenas of a plan that no call uses at the moment.
#pragma once

#include <array>
#include <atomic>
#include <memory>

#include "../pack/packed_matrix.h"

namespace ulp {

// Without a lock, for a child forked while another thread holds one would wait for it without end; here such a child lacks the arenas that
// were in use, and no more.
class ArenaStore {
 public:
  ArenaStore() = default;
  ArenaStore(const ArenaStore&) = delete;
  ArenaStore& operator=(const ArenaStore&) = delete;
  ~ArenaStore() {
    for (auto& slot : slots_) delete slot.load();
  }

  // One that was used before, or nullptr.
  std::unique_ptr<AlignedBytes> take() {
    for (auto& slot : slots_) {
      if (slot.load(std::memory_order_relaxed) == nullptr) continue;
      if (AlignedBytes* arena = slot.exchange(nullptr, std::memory_order_acquire)) return std::unique_ptr<AlignedBytes>(arena);
    }
    return nullptr;
  }

  // Where all slots are full the arena is freed.
  void put(std::unique_ptr<AlignedBytes> arena) {
    for (auto& slot : slots_) {
      AlignedBytes* empty = nullptr;
      if (!slot.compare_exchange_strong(empty, arena.get(), std::memory_order_release, std::memory_order_relaxed)) continue;
      arena.release();
      return;
    }
  }

 private:
  std::array<std::atomic<AlignedBytes*>, 256> slots_{};  // more threads than this seldom run one plan at a time
};

}  // namespace ulp
