// damage_checkpoints OUTDIR: writes all damaged checkpoints to disk and prints their names, one a
// line.
#include <cstdio>

#include "checkpoint/damage.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: damage_checkpoints OUTDIR\n");
    return 2;
  }
  moe4::testing::for_each_damage(
      MOE4_TEST_DATA "/checkpoints", argv[1],
      [](const moe4::testing::Damage& damage, const std::filesystem::path&) {
        std::printf("%s\n", damage.name.c_str());
      });
}
