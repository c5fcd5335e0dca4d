// The moe4 program.
#include "cli/program.h"

int main(int argc, char** argv) { return moe4::cli::run_program(argc, argv); }
