// Runs the built moe4 program and captures what it says.
#pragma once

#include <string>
#include <vector>

namespace moe4::testing {

struct ProgramResult {
  int status = -1;  ///< exit status; 128 + signal when it was killed
  std::string out, err;
};

/// The moe4 of the folder that holds this test program: what was built, or linked, with it.
const std::string& program_path();

/// `environment`: NAME=VALUE, on top of this process's own. `input` is given on stdin.
ProgramResult run_program(const std::vector<std::string>& arguments,
                          const std::vector<std::string>& environment = {},
                          const std::string& input = "");

}  // namespace moe4::testing
