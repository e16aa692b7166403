#include "threads.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>

#if !defined(_WIN32)
#include <pthread.h>
#endif

namespace ulp {
namespace {

// True while this thread runs a task: what a task calls runs in the task's own thread.
thread_local bool inside_task = false;

std::atomic<Interrupt*> asked_to_end{nullptr};

struct Job {
  void (*task)(void*, int64_t);
  void* context;
  int64_t count;
  std::atomic<int64_t> next{0};
  std::mutex failure_mutex{};
  std::exception_ptr failure{};  // the first: a task may run out of memory

  // calls: whether this thread is the one that called.
  void work(bool calls) {
    const bool was_inside = inside_task;
    inside_task = true;
    try {
      if (calls && !was_inside && count > 1) {
        InterruptChecks interrupt;
        for (int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) {
          task(context, i);
          interrupt.check();
        }
      } else {
        for (int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) task(context, i);
      }
    } catch (...) {
      const std::lock_guard<std::mutex> lock(failure_mutex);
      if (!failure) failure = std::current_exception();
      next.store(count);
    }
    inside_task = was_inside;
  }
};

// Spinning before sleeping: waking a sleeping thread is slow beside the steps of a network, above all on a virtual machine, where a
// core that idles leaves it, so a thread that has just worked spins for up to kSpinNs. After kEagerNs it yields between looks: with more
// threads than cores, the thread that it waits for may need the core.
constexpr int64_t kEagerNs = 20'000;
constexpr int64_t kSpinNs = 200'000;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb");  // waits longer than `yield`, which most cores treat as nothing
#endif
}

// Whether `done` became true within kSpinNs.
template <class Done>
bool spin_until(const Done& done) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point begin = Clock::now();
  for (;;) {
    for (int look = 0; look < 16; ++look) {
      if (done()) return true;
      pause();
    }
    const auto waited = Clock::now() - begin;
    if (waited > std::chrono::nanoseconds(kSpinNs)) return done();
    if (waited > std::chrono::nanoseconds(kEagerNs)) std::this_thread::yield();
  }
}

// Spinning threads use atomics alone. A thread that goes to sleep first counts itself as sleeping and then tests its condition once more;
// a thread that makes the condition true afterwards tests whether anyone sleeps, and notifies. Both are sequentially consistent, so at
// least one of them sees what the other wrote, and no wake-up is lost.
class Pool {
 public:
  // False if another thread's job holds the pool.
  bool try_run(Job& job, int threads) {
    std::unique_lock<std::mutex> owner(owner_, std::try_to_lock);
    if (!owner.owns_lock()) return false;
    const int helpers = std::min(threads - 1, grow(threads - 1));
    job_ = &job;
    places_.store({helpers, 0});
    if (sleeping_.load() > 0) notify(wake_);
    job.work(true);
    // Helpers that have not come by now find no place left; wait for those inside a task.
    Places now = places_.load();
    while (!places_.compare_exchange_weak(now, {0, now.taken})) continue;
    const auto all_done = [this] { return places_.load().taken == 0; };
    if (!spin_until(all_done)) {
      std::unique_lock<std::mutex> lock(mutex_);
      owner_sleeps_.store(true);
      done_.wait(lock, all_done);
      owner_sleeps_.store(false);
    }
    return true;
  }

 private:
  // Of the present job. It lives until both are 0, so that a helper which takes a place may use it until it gives the place back.
  // Aligned so that compilers take it as one word.
  struct alignas(8) Places {
    int32_t open;
    int32_t taken;
  };

  // Returns how many helpers there are: the system may refuse to start one, and then fewer do the work.
  int grow(int wanted) {
    while (started_ < wanted) {
      try {
        std::thread([this] { serve(); }).detach();
      } catch (const std::system_error&) {
        break;
      }
      ++started_;
    }
    return started_;
  }

  void serve() {
    const auto is_open = [this] { return places_.load().open > 0; };
    for (;;) {
      if (!spin_until(is_open)) {
        std::unique_lock<std::mutex> lock(mutex_);
        sleeping_.fetch_add(1);
        wake_.wait(lock, is_open);
        sleeping_.fetch_sub(1);
      }
      if (!take_place()) continue;
      job_->work(false);
      give_place_back();
    }
  }

  bool take_place() {
    Places now = places_.load();
    while (now.open > 0) {
      if (places_.compare_exchange_weak(now, {now.open - 1, now.taken + 1})) return true;
    }
    return false;
  }

  void give_place_back() {
    Places now = places_.load();
    while (!places_.compare_exchange_weak(now, {now.open, now.taken - 1})) continue;
    if (now.taken == 1 && owner_sleeps_.load()) notify(done_);
  }

  void notify(std::condition_variable& sleepers) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
    }  // a thread that counts itself as sleeping, and has tested before this, now waits
    sleepers.notify_all();
  }

  std::mutex owner_;    // held by the thread whose job runs
  Job* job_ = nullptr;  // written by the owner while no place is open or taken
  int started_ = 0;     // belongs to the owner
  std::atomic<Places> places_{};
  std::mutex mutex_;  // of those who sleep
  std::condition_variable wake_;
  std::condition_variable done_;
  std::atomic<int> sleeping_{0};
  std::atomic<bool> owner_sleeps_{false};
};

std::atomic<int> limit{1};

// Never destroyed: detached helpers may outlive main(). A forked child has none of the helpers, so it abandons the parent's pool. Made when
// the library is loaded: a child would wait without end for a thread of its parent that was making it.
std::atomic<Pool*> current_pool{[] {
#if !defined(_WIN32)
  pthread_atfork(nullptr, nullptr, [] { current_pool.store(new Pool); });
#endif
  return new Pool;
}()};

}  // namespace

int num_threads() { return limit.load(std::memory_order_relaxed); }

void set_num_threads(int n) {
  if (n < 1 || n > kMaxThreads) {
    throw std::invalid_argument("num_threads = " + std::to_string(n) + " is outside [1, " + std::to_string(kMaxThreads) + "]");
  }
  limit.store(n, std::memory_order_relaxed);
}

void set_interrupt(Interrupt* asked) { asked_to_end.store(asked); }

void InterruptChecks::check() {
  const auto now = std::chrono::steady_clock::now();
  if (now - last_ < std::chrono::milliseconds(50)) return;
  last_ = now;
  Interrupt* const asked = asked_to_end.load(std::memory_order_relaxed);
  if (asked && asked()) throw Interrupted{};
}

void parallel_for(int64_t count, void (*task)(void*, int64_t), void* context) {
  const int threads = static_cast<int>(std::min<int64_t>(num_threads(), count));
  Job job{task, context, count};
  if (threads <= 1 || inside_task || !current_pool.load()->try_run(job, threads)) job.work(true);
  if (job.failure) std::rethrow_exception(job.failure);
}

}  // namespace ulp
