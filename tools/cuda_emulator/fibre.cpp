#include "fibre.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ULP_ASAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define ULP_ASAN 1
#endif
#if defined(ULP_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__) && defined(__linux__)
#define ULP_OWN_SWITCH 1
#else
#include <ucontext.h>
#endif

namespace ulp::emulator {
namespace {

// Kernels have small frames; AddressSanitizer enlarges them.
constexpr size_t kStackBytes = size_t{256} << 10;

Fibre* starting = nullptr;   // the fibre whose first switch is under way
Fibre* switching = nullptr;  // the fibre that it switches from

}  // namespace

#if defined(ULP_OWN_SWITCH)
// Saves the registers that the System V ABI lets a callee keep, and continues on the other stack, which the same function left.
extern "C" void ulp_fibre_switch(void** save, void* load);
asm(R"(
.text
.p2align 4
.globl ulp_fibre_switch
.hidden ulp_fibre_switch
.type ulp_fibre_switch, @function
ulp_fibre_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size ulp_fibre_switch, .-ulp_fibre_switch
)");
#endif

Fibre::~Fibre() {
  if (stack_ != nullptr) munmap(stack_, kStackBytes);
#if !defined(ULP_OWN_SWITCH)
  delete static_cast<ucontext_t*>(stack_pointer_);
#endif
}

void Fibre::begin() {
  Fibre* const self = starting;
#if defined(ULP_ASAN)
  const void* bottom;
  size_t size;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
  if (switching->bottom_ == nullptr) {
    switching->bottom_ = bottom;
    switching->size_ = size;
  }
#endif
  self->entry_(self->argument_);
  abort();  // entries never return
}

void Fibre::start(void (*entry)(void*), void* argument) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  if (stack_ == nullptr) {
    void* memory = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, page, PROT_NONE) != 0) throw std::bad_alloc();
    stack_ = static_cast<char*>(memory);
    bottom_ = stack_ + page;
    size_ = kStackBytes - page;
  }
  entry_ = entry;
  argument_ = argument;
  fake_stack_ = nullptr;
#if defined(ULP_ASAN)
  __asan_unpoison_memory_region(bottom_, size_);  // a fault abandons frames together with their red zones
#endif
#if defined(ULP_OWN_SWITCH)
  // Six registers; then the return address for `ret`, at a multiple of 16 so that begin() has the alignment of a called function; then an
  // end for stack walkers.
  void** top = reinterpret_cast<void**>(stack_ + kStackBytes) - 4;
  top[1] = nullptr;
  top[0] = reinterpret_cast<void*>(&Fibre::begin);
  for (int i = 1; i <= 6; ++i) top[-i] = nullptr;
  stack_pointer_ = top - 6;
#else
  if (stack_pointer_ == nullptr) stack_pointer_ = new ucontext_t;
  ucontext_t* const context = static_cast<ucontext_t*>(stack_pointer_);
  getcontext(context);
  context->uc_stack.ss_sp = stack_ + page;
  context->uc_stack.ss_size = size_;
  context->uc_link = nullptr;
  makecontext(context, &Fibre::begin, 0);
#endif
}

void Fibre::switch_to(Fibre& to, [[maybe_unused]] bool ends) {
  starting = &to;
  switching = this;
#if defined(ULP_ASAN)
  __sanitizer_start_switch_fiber(ends ? nullptr : &fake_stack_, to.bottom_, to.size_);
#endif
#if defined(ULP_OWN_SWITCH)
  ulp_fibre_switch(&stack_pointer_, to.stack_pointer_);
#else
  if (stack_pointer_ == nullptr) stack_pointer_ = new ucontext_t;
  swapcontext(static_cast<ucontext_t*>(stack_pointer_), static_cast<ucontext_t*>(to.stack_pointer_));
#endif
#if defined(ULP_ASAN)
  __sanitizer_finish_switch_fiber(fake_stack_, nullptr, nullptr);
#endif
}

}  // namespace ulp::emulator
