#include "shared_memory.h"

#include <cstring>

#include "machine.h"

namespace ulp::emulator {

void SharedMemory::reset(uint32_t bytes, uint32_t threads, bool races, uint64_t poison) {
  const uint32_t words = (bytes + 3) / 4;
  bytes_.resize(size_t{words} * 4);
  for (size_t i = 0; i < bytes_.size(); ++i) bytes_[i] = static_cast<uint8_t>(poison >> (8 * (i % 8))) ^ static_cast<uint8_t>(i >> 3);
  words_.assign(words, Word{});
  more_reads_.clear();
  free_reads_.clear();
  threads_ = threads;
  races_ = races;
}

uint32_t SharedMemory::first_word(const Accessor& by, uint32_t address, uint32_t bytes) const {
  if (address < kSharedBase || uint64_t{address} + bytes > uint64_t{kSharedBase} + bytes_.size()) {
    fail(cudaErrorIllegalAddress, "%s: shared bytes 0x%x ... 0x%x lie outside the block's 0x%x ... 0x%zx", by.name, address,
         address + bytes - 1, kSharedBase, kSharedBase + bytes_.size());
  }
  return (address - kSharedBase) / 4;
}

bool SharedMemory::ordered(const Accessor& by, Stamp earlier) const {
  return earlier.agent == kNobody || earlier.agent == by.thread || earlier.agent == by.stamp.agent || covers(by.view->known, earlier);
}

void SharedMemory::race(const Accessor& by, uint32_t index, bool writes, Stamp earlier, bool earlier_wrote) const {
  fail(cudaErrorLaunchFailure, "race: %s %s shared word 0x%x, which %s %s, and nothing orders the two", by.name,
       writes ? "writes" : "reads", kSharedBase + 4 * index, agent_name(earlier.agent).c_str(), earlier_wrote ? "wrote" : "read");
}

// known_write, known_read: stamps already found to be ordered before this access; neighbouring words mostly have the same ones.
void SharedMemory::check_read(const Accessor& by, uint32_t index, Stamp& known_write, Stamp& known_read) {
  Word& word = words_[index];
  const uint32_t address = kSharedBase + 4 * index;
  if (word.state != kWritten) {
    if (word.state & kCopying) {
      fail(cudaErrorLaunchFailure, "%s reads shared word 0x%x, into which a copy is under way that nobody has waited for", by.name,
           address);
    }
    if (word.state & kBarrier) fail(cudaErrorLaunchFailure, "%s reads shared word 0x%x, which is part of an mbarrier", by.name, address);
    fail(cudaErrorLaunchFailure, "%s reads shared word 0x%x, which nobody has written", by.name, address);
  }
  if (!races_) return;
  if (!(word.write == known_write) && !ordered(by, word.write)) race(by, index, false, word.write, true);
  known_write = word.write;
  if (by.asynchronous && word.write.agent < threads_ && !covers(by.view->fenced, word.write)) {
    fail(cudaErrorLaunchFailure, "%s reads shared word 0x%x, which %s wrote, and no proxy fence lies between", by.name, address,
         agent_name(word.write.agent).c_str());
  }
  if (word.read == known_read || word.read.agent == by.stamp.agent || ordered(by, word.read)) {
    known_read = word.read;
    word.read = by.stamp;
    return;
  }
  if (word.more_reads == 0) {
    if (free_reads_.empty()) {
      more_reads_.emplace_back();
      word.more_reads = static_cast<uint32_t>(more_reads_.size());
    } else {
      word.more_reads = free_reads_.back();
      free_reads_.pop_back();
    }
  }
  std::vector<Stamp>& more = more_reads_[word.more_reads - 1];
  for (Stamp& read : more) {
    if (read.agent == by.stamp.agent || ordered(by, read)) {
      read = by.stamp;
      return;
    }
  }
  more.push_back(by.stamp);
}

void SharedMemory::drop_reads(Word& word) {
  word.read = Stamp{};
  if (word.more_reads == 0) return;
  more_reads_[word.more_reads - 1].clear();
  free_reads_.push_back(word.more_reads);
  word.more_reads = 0;
}

void SharedMemory::check_write(const Accessor& by, uint32_t index) {
  Word& word = words_[index];
  const uint32_t address = kSharedBase + 4 * index;
  if (word.state & kCopying) {
    fail(cudaErrorLaunchFailure, "%s writes shared word 0x%x, into which a copy is under way that nobody has waited for", by.name, address);
  }
  if (word.state & kBarrier) fail(cudaErrorLaunchFailure, "%s writes shared word 0x%x, which is part of an mbarrier", by.name, address);
  if (!races_) return;
  if (!ordered(by, word.write)) race(by, index, true, word.write, true);
  if (by.asynchronous && word.write.agent < threads_ && !covers(by.view->fenced, word.write)) {
    fail(cudaErrorLaunchFailure, "%s writes shared word 0x%x, which %s wrote, and no proxy fence lies between", by.name, address,
         agent_name(word.write.agent).c_str());
  }
  if (!ordered(by, word.read)) race(by, index, true, word.read, false);
  if (word.more_reads != 0) {
    for (const Stamp& read : more_reads_[word.more_reads - 1]) {
      if (!ordered(by, read)) race(by, index, true, read, false);
    }
  }
  drop_reads(word);
}

void SharedMemory::read(const Accessor& by, uint32_t address, void* target, uint32_t bytes) {
  note_read(by, address, bytes);
  fetch(address, target, bytes);
}

void SharedMemory::note_read(const Accessor& by, uint32_t address, uint32_t bytes) {
  const uint32_t first = first_word(by, address, bytes);
  Stamp known_write;
  Stamp known_read;
  for (uint32_t i = first; i < first + bytes / 4; ++i) check_read(by, i, known_write, known_read);
}

void SharedMemory::fetch(uint32_t address, void* target, uint32_t bytes) const { memcpy(target, &bytes_[address - kSharedBase], bytes); }

void SharedMemory::write(const Accessor& by, uint32_t address, const void* source, uint32_t bytes) {
  const uint32_t first = first_word(by, address, bytes);
  for (uint32_t i = first; i < first + bytes / 4; ++i) {
    check_write(by, i);
    words_[i].write = by.stamp;
    words_[i].state = kWritten;
  }
  memcpy(&bytes_[address - kSharedBase], source, bytes);
}

void SharedMemory::begin_copy(const Accessor& by, uint32_t address, uint32_t bytes) {
  const uint32_t first = first_word(by, address, bytes);
  for (uint32_t i = first; i < first + bytes / 4; ++i) {
    check_write(by, i);
    words_[i].state |= kCopying;
  }
}

void SharedMemory::land(Stamp stamp, uint32_t address, const void* source, uint32_t bytes) {
  const uint32_t first = (address - kSharedBase) / 4;
  for (uint32_t i = first; i < first + bytes / 4; ++i) {
    words_[i].write = stamp;
    words_[i].state = kWritten;
  }
  memcpy(&bytes_[address - kSharedBase], source, bytes);
}

void SharedMemory::make_barrier(const Accessor& by, uint32_t address) {
  const uint32_t first = first_word(by, address, 8);
  for (uint32_t i = first; i < first + 2; ++i) {
    check_write(by, i);
    words_[i].state = kBarrier;
  }
}

}  // namespace ulp::emulator
