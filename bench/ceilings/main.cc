// Prints this machine's ceilings as JSON: one line for one thread, one for all.
#include <cstdio>

#include "bench/ceilings.h"

int main() {
  {
    moe4::ThreadPool one(1);
    std::printf("%s\n", moe4::to_json(moe4::measure_ceilings(one)).c_str());
  }
  moe4::ThreadPool all;
  std::printf("%s\n", moe4::to_json(moe4::measure_ceilings(all)).c_str());
}
