// Threads of control that share one thread of the operating system: each has a stack of its own, and runs until it switches to another.
#pragma once

#include <cstddef>

namespace ulp::emulator {

class Fibre {
 public:
  // Of the stack that is running already, until start() gives it another.
  Fibre() = default;
  ~Fibre();
  Fibre(const Fibre&) = delete;
  Fibre& operator=(const Fibre&) = delete;

  // The next switch to this fibre calls entry(argument) on its own stack, which must not return. What ran there before is forgotten without
  // unwinding.
  void start(void (*entry)(void*), void* argument);

  // Goes on in `to`; returns when somebody switches back. With `ends` nobody will.
  void switch_to(Fibre& to, bool ends = false);

 private:
  static void begin();

  void* stack_pointer_ = nullptr;  // or the ucontext_t
  char* stack_ = nullptr;          // with its guard page; nullptr for a stack that is not ours
  void (*entry_)(void*) = nullptr;
  void* argument_ = nullptr;
  const void* bottom_ = nullptr;  // what AddressSanitizer wants to know of a stack
  size_t size_ = 0;
  void* fake_stack_ = nullptr;
};

}  // namespace ulp::emulator
