#include "cuda/network.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <stdexcept>

#include "cuda/check.h"
#include "cuda/graph.h"
#include "plan/place.h"

namespace ulp::cuda {
namespace {

// Elements and windows are numbered by int (divide.h).
constexpr int64_t kMaxElements = INT64_C(2147483647);
// A graph takes some hundred KiB.
constexpr size_t kMaxGraphs = 32;

bool is_capturing(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(stream, &status), "asking a stream");
  return status != cudaStreamCaptureStatusNone;
}

bool contains(const std::vector<int>& ids, int id) { return std::find(ids.begin(), ids.end(), id) != ids.end(); }

std::vector<unsigned char> all_codes() {
  std::vector<unsigned char> codes(256 * 16);
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<unsigned char>(i / 16);
  return codes;
}

}  // namespace

unsigned char* Run::data(Place p) const {
  const NetTensor& t = tensor(p.tensor);
  return arena + images * t.at + (t.as_planes ? p.channel / 8 : int64_t{p.channel} * t.element());
}

Network::Network(int device) : device_(device), outside_(device, all_codes()), status_(device, 2 * sizeof(int)) {
  turn_ = std::make_unique<Turn>(device);
}

Network::~Network() = default;

void Network::check_open() const {
  if (finalized_) throw std::invalid_argument("the network is finalized");
}

int Network::add(NetTensor tensor) {
  check_open();
  tensors_.push_back(tensor);
  return static_cast<int>(tensors_.size()) - 1;
}

void Network::finalize() {
  check_open();
  // Results are written when all else has run, by steps that no graph holds.
  std::stable_partition(steps_.begin(), steps_.end(), [](const auto& step) { return step->output < 0; });
  lay_out();
  finalized_ = true;
}

// As plan/arena.cpp: buffers that are not in use at the same time share memory.
void Network::lay_out() {
  struct Wanted {
    int64_t bytes;
    int first_step, last_step;
    int64_t* at;
  };
  std::vector<std::array<int, 2>> used(tensors_.size(), {-1, -1});
  fresh_.assign(steps_.size(), {});
  scratch_.assign(steps_.size(), 0);
  std::vector<Wanted> wanted;
  for (size_t i = 0; i < steps_.size(); ++i) {
    const int step = static_cast<int>(i);
    for (const int id : steps_[i]->writes) {
      auto& [first, last] = used[static_cast<size_t>(id)];
      const NetTensor& t = tensors_[static_cast<size_t>(id)];
      if (first < 0) {
        first = step;
        if (t.pixel() != t.channels) fresh_[i].push_back(id);
      }
      last = step;
    }
    for (const int id : steps_[i]->reads) used[static_cast<size_t>(id)][1] = step;
    if (const int64_t bytes = steps_[i]->scratch_bytes(); bytes > 0) wanted.push_back({bytes, step, step, &scratch_[i]});
  }
  for (size_t i = 0; i < tensors_.size(); ++i) {
    if (used[i][0] < 0) continue;
    const bool maybe = may_be_planes(static_cast<int>(i));
    if (maybe) maybe_planes_.push_back(static_cast<int>(i));
    NetTensor& t = tensors_[i];
    const int64_t as_planes = maybe ? t.pixels() * t.pixel_planes() : 0;
    wanted.push_back({std::max(t.bytes(), as_planes), used[i][0], used[i][1], &t.at});
  }
  std::stable_sort(wanted.begin(), wanted.end(), [](const Wanted& a, const Wanted& b) { return a.bytes > b.bytes; });
  std::vector<Block> taken;
  arena_bytes_ = 0;
  for (const Wanted& w : wanted) {
    const Block placed = place(taken, round_up(w.bytes, static_cast<int64_t>(kAlignment)), w.first_step, w.last_step);
    *w.at = placed.begin;
    arena_bytes_ = std::max(arena_bytes_, placed.end);
  }
}

// All steps that have to do with it must take planes, and one must gain by them.
bool Network::may_be_planes(int tensor) const {
  bool written = false;
  bool multiplied = false;
  for (const auto& step : steps_) {
    const bool writes = contains(step->writes, tensor);
    if (!writes && !contains(step->reads, tensor)) continue;
    if (!step->takes_planes(tensor)) return false;
    written |= writes;
    multiplied |= step->multiplies_planes(tensor);
  }
  return written && multiplied;
}

std::vector<NetTensor> Network::laid_out(int64_t images) const {
  std::vector<NetTensor> tensors = tensors_;
  for (const int id : maybe_planes_) {
    // Each tensor by itself: what one step wins by one of them does not depend on the others.
    double clocks[2] = {};
    NetTensor& t = tensors[static_cast<size_t>(id)];
    for (const int as_planes : {0, 1}) {
      t.as_planes = as_planes != 0;
      for (const auto& step : steps_) {
        if (contains(step->writes, id) || contains(step->reads, id)) clocks[as_planes] += step->clocks(images, tensors);
      }
    }
    t.as_planes = clocks[1] < clocks[0];
  }
  return tensors;
}

std::vector<std::string> Network::methods(int64_t images) const {
  const std::vector<NetTensor> tensors = laid_out(images);
  std::vector<std::string> all;
  for (const auto& step : steps_) all.push_back(step->method(images, tensors));
  return all;
}

int64_t Network::largest_tensor() const {
  int64_t largest = 1;
  for (const NetTensor& t : tensors_) largest = std::max(largest, t.pixels() * t.pixel());
  for (const auto& step : steps_) largest = std::max(largest, step->elements());
  return largest;
}

int64_t Network::workspace_bytes(int64_t images) const {
  int64_t bytes = 0;
  for (const auto& step : steps_) bytes = std::max(bytes, step->workspace_bytes(images));
  return bytes;
}

bool Network::holds(int64_t images) const {
  if (graphs_.count(images) != 0) return true;
  return images <= room_ && workspace_bytes(images) <= static_cast<int64_t>(workspace_.size());
}

// Waits, where the arena is too small.
void Network::grow(int64_t images) {
  if (holds(images)) return;
  if (fixed_) {
    throw std::invalid_argument("a CUDA graph holds this network with memory for " + std::to_string(room_) + " images: run " +
                                std::to_string(images) + " before the capture, or in parts");
  }
  graphs_.clear();  // they know the old addresses
  if (images > room_) {
    arena_ = DeviceMemory();
    room_ = 0;
    arena_ = DeviceMemory(device_, static_cast<size_t>(arena_bytes_ * images));
    room_ = images;
  }
  if (const size_t bytes = static_cast<size_t>(workspace_bytes(images)); bytes > workspace_.size()) {
    workspace_ = DeviceMemory();
    workspace_ = DeviceMemory(device_, bytes);
  }
}

void Network::start(Part part, const Run& run) const {
  for (size_t i = 0; i < steps_.size(); ++i) {
    const DeviceStep& step = *steps_[i];
    const Part own = step.input >= 0 ? Part::inputs : step.output >= 0 ? Part::outputs : Part::middle;
    if (own != part) continue;
    Run at = run;
    at.scratch = run.arena + run.images * scratch_[i];
    for (const int id : fresh_[i]) {
      const NetTensor& t = run.tensor(id);
      if (t.as_planes) continue;
      check(cudaMemsetAsync(run.data({id, 0}), t.zero, static_cast<size_t>(run.images * t.bytes()), static_cast<cudaStream_t>(run.stream)),
            "filling the pads of an image");
    }
    step.start(at);
  }
}

void Network::run(int64_t images, const void* const* inputs, void* const* outputs, Stream stream) {
  if (!finalized_) throw std::invalid_argument("the network is not finalized");
  if (images == 0) return;
  if (images > kMaxElements / largest_tensor() || arena_bytes_ * images > INT64_MAX / 2) {
    throw std::invalid_argument("a batch of " + std::to_string(images) + " images is too large: at most " +
                                std::to_string(kMaxElements / largest_tensor()) + " go through this network together");
  }
  const std::lock_guard lock(mutex_);
  const CurrentDevice current(device_);
  cudaStream_t queue = static_cast<cudaStream_t>(stream);
  const bool capturing = is_capturing(queue);
  if (capturing && !holds(images)) {
    throw std::invalid_argument("a stream under capture cannot allocate: run the network on " + std::to_string(images) +
                                " images once before the capture");
  }
  grow(images);
  fixed_ |= capturing;
  Run run{tensors_,        static_cast<unsigned char*>(arena_.data()), images, nullptr, &workspace_,
          outside_.data(), static_cast<int*>(status_.data()),          inputs, outputs, stream};
  if (!capturing) turn_->begin(queue);
  check(cudaMemsetAsync(status_.data(), 0, status_.size(), queue), "clearing the status");
  start(Part::inputs, run);
  const auto start_middle = [&](Stream on) {
    const std::vector<NetTensor> tensors = laid_out(images);
    start(Part::middle, {tensors, run.arena, images, nullptr, &workspace_, run.outside, run.status, inputs, outputs, on});
  };
  if (capturing) {
    start_middle(queue);
  } else {
    auto known = graphs_.find(images);
    if (known == graphs_.end()) {
      if (graphs_.size() >= kMaxGraphs) graphs_.clear();
      known = graphs_.emplace(images, std::make_unique<Graph>(device_, start_middle)).first;
    }
    known->second->launch(queue);
  }
  start(Part::outputs, run);
  if (!capturing) turn_->end(queue);
}

void Network::start_step(size_t step, int64_t images, Stream stream) const {
  if (step >= steps_.size() || steps_[step]->input >= 0 || steps_[step]->output >= 0) {
    throw std::invalid_argument("step " + std::to_string(step) + " is none without a port");
  }
  if (images < 1 || !holds(images))
    throw std::invalid_argument("there is memory for " + std::to_string(room_) + " images: run that many first");
  const CurrentDevice current(device_);
  unsigned char* arena = static_cast<unsigned char*>(arena_.data());
  const std::vector<NetTensor> tensors = laid_out(images);
  steps_[step]->start({tensors, arena, images, arena + images * scratch_[step], &workspace_, outside_.data(),
                       static_cast<int*>(status_.data()), nullptr, nullptr, stream});
}

std::array<bool, 2> Network::status(Stream stream) const {
  int found[2] = {};
  download(found, status_.data(), sizeof found, device_, stream);
  return {found[0] != 0, found[1] != 0};
}

}  // namespace ulp::cuda
