#include "cuda/graph.h"

#include "cuda/check.h"

namespace ulp::cuda {
namespace {

// The default stream cannot be captured.
class OwnStream {
 public:
  OwnStream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream"); }
  OwnStream(const OwnStream&) = delete;
  OwnStream& operator=(const OwnStream&) = delete;
  ~OwnStream() { static_cast<void>(cudaStreamDestroy(stream_)); }
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

}  // namespace

Graph::Graph(int device, const std::function<void(cudaStream_t)>& start) : device_(device) {
  const CurrentDevice current(device);
  const OwnStream stream;
  check(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal), "recording a graph");
  cudaGraph_t recorded = nullptr;
  try {
    start(stream.get());
  } catch (...) {
    // Ends the recording, whatever it has become.
    static_cast<void>(cudaStreamEndCapture(stream.get(), &recorded));
    if (recorded != nullptr) static_cast<void>(cudaGraphDestroy(recorded));
    static_cast<void>(cudaGetLastError());
    throw;
  }
  check(cudaStreamEndCapture(stream.get(), &recorded), "recording a graph");
  const cudaError_t error = cudaGraphInstantiate(&graph_, recorded, 0);
  static_cast<void>(cudaGraphDestroy(recorded));
  check(error, "making a graph");
}

Graph::~Graph() {
  int before = 0;
  if (cudaGetDevice(&before) != cudaSuccess) return;  // at exit the driver may be gone
  static_cast<void>(cudaSetDevice(device_));
  static_cast<void>(cudaGraphExecDestroy(graph_));
  static_cast<void>(cudaSetDevice(before));
}

void Graph::launch(cudaStream_t stream) const { check(cudaGraphLaunch(graph_, stream), "starting a graph"); }

Turn::Turn(int device) : device_(device) {
  const CurrentDevice current(device);
  check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "making an event");
}

Turn::~Turn() {
  int before = 0;
  if (cudaGetDevice(&before) != cudaSuccess) return;
  static_cast<void>(cudaSetDevice(device_));
  static_cast<void>(cudaEventDestroy(event_));
  static_cast<void>(cudaSetDevice(before));
}

void Turn::begin(cudaStream_t stream) const { check(cudaStreamWaitEvent(stream, event_, 0), "waiting for the run before"); }

void Turn::end(cudaStream_t stream) const { check(cudaEventRecord(event_, stream), "marking the end of a run"); }

}  // namespace ulp::cuda
