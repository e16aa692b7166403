// Ops::window_max on x86, for vectors of either width; after ops_<isa>.h.
#pragma once

namespace ulp {
namespace {

// f(codes of `channel` on) for every pixel of the window.
template <class F>
ULP_INLINE void for_window(const Window& w, int64_t channel, F f) {
  const uint8_t* first = w.a + channel;
  for (int y = w.y0; y < w.y1; y += w.y_step) {
    for (int x = w.x0; x < w.x1; x += w.x_step) f(first + y * w.row + x * w.pixel);
  }
}

template <int vectors>
ULP_INLINE void max_of(const Window& w, int64_t channel, uint8_t* out) {
  int64_t left[vectors];
  ULP_UNROLL for (int i = 0; i < vectors; ++i) {
    const int64_t channels = w.channels - channel - i * kVecBytes;
    left[i] = channels < kVecBytes ? channels : kVecBytes;
  }
  Vec largest[vectors];
  ULP_UNROLL for (int i = 0; i < vectors; ++i) largest[i] = same_bytes(0);
  for_window(w, channel, [&](const uint8_t* a) {
    ULP_UNROLL for (int i = 0; i < vectors; ++i) largest[i] = larger_bytes(largest[i], load_first_bytes(a + i * kVecBytes, left[i]));
  });
  ULP_UNROLL for (int i = 0; i < vectors; ++i) store_first_bytes(out + channel + i * kVecBytes, largest[i], left[i]);
}

void window_max(const Window& args, uint8_t* out) {
  const Window w = args;  // a copy that no store can alias
  int64_t c = 0;
  for (; c + 3 * kVecBytes < w.channels; c += 4 * kVecBytes) max_of<4>(w, c, out);
  for (; c < w.channels; c += kVecBytes) max_of<1>(w, c, out);
}

}  // namespace
}  // namespace ulp
