// Fibres: threads of control within one thread of the operating system, each with its own stack, running until it switches to another.
#pragma once

#include <cstddef>

namespace ulp::emulator {

class Fibre {
 public:
  // Represents the running stack, until start() gives the fibre its own.
  Fibre() = default;
  ~Fibre();
  Fibre(const Fibre&) = delete;
  Fibre& operator=(const Fibre&) = delete;

  // The next switch to this fibre calls entry(argument) on its own stack; entry must not return. What ran there before is dropped without
  // unwinding.
  void start(void (*entry)(void*), void* argument);

  // Continues in `to`; returns when a fibre switches back. `ends`: none will.
  void switch_to(Fibre& to, bool ends = false);

 private:
  static void begin();

  void* stack_pointer_ = nullptr;  // or the ucontext_t
  char* stack_ = nullptr;          // with its guard page; nullptr for a stack that is not ours
  void (*entry_)(void*) = nullptr;
  void* argument_ = nullptr;
  const void* bottom_ = nullptr;  // bounds of the stack, for AddressSanitizer
  size_t size_ = 0;
  void* fake_stack_ = nullptr;
};

}  // namespace ulp::emulator
