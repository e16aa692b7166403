// Vector clocks over agents: threads, barriers that count copies, warpgroups' matrix units. An agent stamps its accesses with its own
// epoch; an access happened before a thread's next step if the thread's view covers its stamp.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace ulp::emulator {

constexpr uint32_t kNobody = UINT32_MAX;

struct Stamp {
  uint32_t agent = kNobody;
  uint32_t epoch = 0;
};

inline bool operator==(Stamp a, Stamp b) { return a.agent == b.agent && a.epoch == b.epoch; }

using Epochs = std::vector<uint32_t>;
// Immutable, so that threads that synchronised share one; nullptr is the empty clock.
using Known = std::shared_ptr<const Epochs>;

inline bool covers(const Known& known, Stamp stamp) {
  return known != nullptr && stamp.agent < known->size() && (*known)[stamp.agent] >= stamp.epoch;
}

struct View {
  Known known;
  Known fenced;  // the part that a proxy fence has made visible to asynchronous copies and matrix units
};

inline bool same(const View& a, const View& b) { return a.known == b.known && a.fenced == b.fenced; }

// Joins views.
class Gatherer {
 public:
  void add(const View& view) {
    join(known_, view.known, last_known_);
    join(fenced_, view.fenced, last_fenced_);
  }
  void add(Stamp stamp) {
    if (known_.size() <= stamp.agent) known_.resize(stamp.agent + 1);
    if (known_[stamp.agent] < stamp.epoch) known_[stamp.agent] = stamp.epoch;
  }
  View freeze() const {
    return {std::make_shared<const Epochs>(known_), fenced_.empty() ? nullptr : std::make_shared<const Epochs>(fenced_)};
  }

 private:
  // Threads at a barrier mostly share a view. The last joined one is kept alive, so that its address is not reused.
  static void join(Epochs& into, const Known& from, Known& last) {
    if (from == nullptr || from == last) return;
    if (into.size() < from->size()) into.resize(from->size());
    const uint32_t* const source = from->data();
    for (size_t i = 0; i < from->size(); ++i) into[i] = into[i] < source[i] ? source[i] : into[i];
    last = from;
  }

  Epochs known_, fenced_;
  Known last_known_, last_fenced_;
};

inline View joined(const View& a, const View& b) {
  // The lanes of a warp join the same two views one after the other, interleaved with those of other warps.
  struct Memo {
    View a, b, result;
  };
  static std::array<Memo, 256> memos;
  const auto bits = [](const Known& known) { return reinterpret_cast<uintptr_t>(known.get()) / 16; };
  Memo& memo = memos[(bits(a.known) * 31 + bits(b.known)) * 0x9E3779B97F4A7C15 >> 56];
  if (memo.result.known != nullptr && same(memo.a, a) && same(memo.b, b)) return memo.result;
  Gatherer gatherer;
  gatherer.add(a);
  gatherer.add(b);
  memo = {a, b, gatherer.freeze()};
  return memo.result;
}

}  // namespace ulp::emulator
