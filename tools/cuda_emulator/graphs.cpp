// The runtime API: streams, which all have always finished; events; and graphs, which hold work until they are launched.
#include <cuda_runtime.h>

#include <functional>
#include <map>
#include <vector>

#include "runtime.h"

using ulp::emulator::remember;
using ulp::emulator::state;

using Work = std::vector<std::function<cudaError_t()>>;

struct CUstream_st {};
struct CUgraph_st {
  Work work;
};
struct CUgraphExec_st {
  Work work;
};
struct CUevent_st {};

namespace ulp::emulator {

namespace {

// By stream. Tests pass streams that nobody has made, so none is looked into.
std::map<cudaStream_t, Work> captured;

}  // namespace

bool captures(cudaStream_t stream) {
  const std::lock_guard lock(state().mutex);
  return captured.count(stream) != 0;
}

void capture(cudaStream_t stream, std::function<cudaError_t()> work) {
  const std::lock_guard lock(state().mutex);
  captured[stream].push_back(std::move(work));
}

}  // namespace ulp::emulator

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new CUstream_st;
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = ulp::emulator::captures(stream) ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream == nullptr || ulp::emulator::captures(stream)) return remember(cudaErrorStreamCaptureUnsupported);
  const std::lock_guard lock(state().mutex);
  ulp::emulator::captured[stream] = {};
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  if (!ulp::emulator::captures(stream)) return remember(cudaErrorIllegalState);
  const std::lock_guard lock(state().mutex);
  *graph = new CUgraph_st{std::move(ulp::emulator::captured[stream])};
  ulp::emulator::captured.erase(stream);
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = new CUgraphExec_st{graph->work};
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  if (ulp::emulator::captures(stream)) {
    for (const auto& work : executable->work) ulp::emulator::capture(stream, work);
    return cudaSuccess;
  }
  for (const auto& work : executable->work) {
    if (const cudaError_t error = work()) return error;
  }
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}

// A stream under capture would make the event a part of its graph, which no other stream may then wait for.
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t stream) {
  return ulp::emulator::captures(stream) ? remember(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t, unsigned) {
  return ulp::emulator::captures(stream) ? remember(cudaErrorStreamCaptureIsolation) : cudaSuccess;
}
