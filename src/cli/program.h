// The moe4 program as a function: main() has it, and the shared library for `python -m moe4`.
#pragma once

namespace moe4::cli {

/// main() of the program: the exit status. Throws nothing; installs handlers of signals.
int run_program(int argc, char** argv);

}  // namespace moe4::cli
