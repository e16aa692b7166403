// Instruction sets: detected once, limited by name.
#pragma once

#include <string>
#include <vector>

namespace ulp {

// Ordered within an architecture: a CPU that runs one runs all of its own before it, down to the baseline. A new ISA is one enumerator
// here, one row in isa.cpp.
enum class Isa { baseline = 0, avx2 = 1, neon = 16, dotprod = 17, i8mm = 18 };

const char* isa_name(Isa isa);  // of any architecture

std::vector<std::string> known_isas();      // in this build, best first
std::vector<std::string> available_isas();  // on this CPU, best first

Isa current_isa();                      // the best that kernels may use now
void set_isa(const std::string& name);  // throws std::invalid_argument for a name that is unknown or that this CPU lacks

}  // namespace ulp
