// Instruction sets: detected once, limited by name.
#pragma once

#include <string>
#include <vector>

namespace ulp {

// A level of instructions. Ordered within an architecture, so that one name limits them all: a CPU has some of the levels, and kernels may
// use those of them that lie no higher than the limit. Each ARM level includes those before it; on x86 all include avx2, and those of
// AVX-512 include each other, but not avxvnni, which only some CPUs have beside them. A new level is one enumerator here, a row and
// a name in isa.cpp.
enum class Isa { baseline = 0, avx2 = 1, avxvnni = 2, avx512 = 3, avx512vnni = 4, avx512vbmi = 5, neon = 16, dotprod = 17, i8mm = 18 };

const char* isa_name(Isa isa);  // of any architecture

std::vector<std::string> known_isas();      // in this build, best first
std::vector<std::string> available_isas();  // on this CPU, best first

Isa current_isa();                      // the best that kernels may use now
bool isa_here(Isa isa);                 // whether this CPU has it
bool isa_runs(Isa isa);                 // whether kernels may use it now
int isa_limit();                        // the level that kernels may use now at most; -1: any
void set_isa(const std::string& name);  // throws std::invalid_argument for a name that is unknown or that this CPU lacks

}  // namespace ulp
