// Runs the tests named, or all of them.
#include <cstring>

#include "test.h"

namespace ulp::emulator::test {

std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

}  // namespace ulp::emulator::test

int main(int count, char** names) {
  using namespace ulp::emulator::test;
  int run = 0;
  int failed = 0;
  for (const Case& test : cases()) {
    bool wanted = count == 1;
    for (int i = 1; i < count; ++i) wanted = wanted || strcmp(names[i], test.name) == 0;
    if (!wanted) continue;
    ++run;
    configure(90);
    try {
      test.run();
    } catch (const std::exception& error) {
      ++failed;
      fprintf(stderr, "%s: %s\n", test.name, error.what());
    }
  }
  printf("%d run, %d failed\n", run, failed);
  return failed == 0 && run >= (count == 1 ? 1 : count - 1) ? 0 : 1;
}
