// Python's lock, let go while the core works.
#pragma once

#include <Python.h>

#if defined(__GLIBC__) && !defined(__UCLIBC__)
#include <unistd.h>
#define ULP_UNWINDS_THREADS 1
#endif

namespace ulp::bindings {

// As py::gil_scoped_release, but a daemon thread that comes back when the interpreter is ending waits until the process is gone. Python
// would end the thread there, which glibc does by unwinding its stack, and that ends the process where it meets a destructor.
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

  ~WithoutGil() {
#if defined(ULP_UNWINDS_THREADS)
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {  // nothing but the unwinding, whose exception is no object: a reference to it would be one to null
      for (;;) pause();
    }
#else
    PyEval_RestoreThread(state_);
#endif
  }

 private:
  PyThreadState* state_;
};

}  // namespace ulp::bindings
