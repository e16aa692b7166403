// Work that was recorded once and is started as a whole.
#pragma once

#include <cuda_runtime.h>

#include <functional>

namespace ulp::cuda {

class Graph {
 public:
  // Records what `start` puts on the stream that it is given, which must be all its work. DeviceError.
  Graph(int device, const std::function<void(cudaStream_t)>& start);
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  ~Graph();

  void launch(cudaStream_t stream) const;

 private:
  int device_;
  cudaGraphExec_t graph_ = nullptr;
};

// Orders runs that share memory, on whichever streams they are.
class Turn {
 public:
  explicit Turn(int device);
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;
  ~Turn();

  void begin(cudaStream_t stream) const;  // what follows on the stream waits for the last `end`
  void end(cudaStream_t stream) const;

 private:
  int device_;
  cudaEvent_t event_ = nullptr;
};

}  // namespace ulp::cuda
