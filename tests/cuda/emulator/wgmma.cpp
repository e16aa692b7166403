#include "wgmma.h"

#include "machine.h"

namespace ulp::emulator {

void start_warpgroups(Block& block) {
  for (size_t i = 0; i + 4 <= block.warps.size(); i += 4) {
    Warpgroup group;
    group.block = &block;
    for (size_t j = i; j < i + 4; ++j) group.warps.push_back(&block.warps[j]);
    block.warpgroups.push_back(group);
  }
}

void check_ended(const Warp&) {}

}  // namespace ulp::emulator
