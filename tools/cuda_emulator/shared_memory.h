// The shared memory of one block: bytes, and the last writer and readers of every 32-bit word (no instruction here accesses less).
#pragma once

#include <cstdint>
#include <vector>

#include "clocks.h"

namespace ulp::emulator {

// Shared addresses of a block start here; the kilobyte below is reserved by the system.
constexpr uint32_t kSharedBase = 1024;

// The agent of an access.
struct Accessor {
  Stamp stamp;        // recorded for the access
  uint32_t thread;    // whose program order it continues
  const View* view;   // of that thread
  bool asynchronous;  // through the proxy of copies and matrix units: needs a fence after writes of threads
  const char* name;   // the instruction
};

class SharedMemory {
 public:
  // `races`: whether accesses are stamped and compared. Agents below `threads` are threads.
  void reset(uint32_t bytes, uint32_t threads, bool races, uint64_t poison);

  void read(const Accessor& by, uint32_t address, void* target, uint32_t bytes);
  void write(const Accessor& by, uint32_t address, const void* source, uint32_t bytes);

  // Starts a copy: no access to these words is allowed until it lands; then they count as written with `stamp`.
  void begin_copy(const Accessor& by, uint32_t address, uint32_t bytes);
  void land(Stamp stamp, uint32_t address, const void* source, uint32_t bytes);

  // Checks and stamps of a read whose bytes are fetched later.
  void note_read(const Accessor& by, uint32_t address, uint32_t bytes);
  void fetch(uint32_t address, void* target, uint32_t bytes) const;

  // From now on these two words are a barrier and hold no data.
  void make_barrier(const Accessor& by, uint32_t address);

 private:
  struct Word {
    Stamp write;
    Stamp read;
    uint32_t more_reads = 0;  // 1 + index of further, mutually unordered reads
    uint8_t state = 0;
  };
  static constexpr uint8_t kWritten = 1;
  static constexpr uint8_t kCopying = 2;
  static constexpr uint8_t kBarrier = 4;

  uint32_t first_word(const Accessor& by, uint32_t address, uint32_t bytes) const;
  void check_read(const Accessor& by, uint32_t index, Stamp& known_write, Stamp& known_read);
  void check_write(const Accessor& by, uint32_t index);
  bool ordered(const Accessor& by, Stamp earlier) const;
  void drop_reads(Word& word);
  [[noreturn]] void race(const Accessor& by, uint32_t index, bool writes, Stamp earlier, bool earlier_wrote) const;

  std::vector<uint8_t> bytes_;
  std::vector<Word> words_;
  std::vector<std::vector<Stamp>> more_reads_;
  std::vector<uint32_t> free_reads_;
  uint32_t threads_ = 0;
  bool races_ = true;
};

}  // namespace ulp::emulator
