#include "threads.h"

#include <algorithm>
#include <atomic>
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

class Pool {
 public:
  // False if another thread's job holds the pool.
  bool try_run(Job& job, int threads) {
    std::unique_lock<std::mutex> owner(owner_, std::try_to_lock);
    if (!owner.owns_lock()) return false;
    const int helpers = std::min(threads - 1, grow(threads - 1));
    {
      std::lock_guard<std::mutex> lock(mutex_);
      job_ = &job;
      wanted_ = helpers;
    }
    wake_.notify_all();
    job.work(true);
    // Helpers that have not woken by now find no place left; those inside a task are waited for.
    std::unique_lock<std::mutex> lock(mutex_);
    wanted_ = 0;
    job_ = nullptr;
    done_.wait(lock, [this] { return active_ == 0; });
    return true;
  }

 private:
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
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return wanted_ > 0; });
      --wanted_;
      ++active_;
      Job* job = job_;
      lock.unlock();
      job->work(false);
      lock.lock();
      if (--active_ == 0) done_.notify_one();
    }
  }

  std::mutex owner_;  // held by the thread whose job runs
  std::mutex mutex_;  // guards all below but started_, which belongs to the owner
  std::condition_variable wake_;
  std::condition_variable done_;
  Job* job_ = nullptr;
  int wanted_ = 0;
  int active_ = 0;
  int started_ = 0;
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
