// A model is in memory once: what has been packed goes back to the system while loading.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "models/model.h"
#include "ops/experts/registry.h"

namespace moe4 {
namespace {

// Resident bytes of this process's mappings of safetensors files.
int64_t resident_file_bytes() {
  std::ifstream maps("/proc/self/smaps");
  int64_t bytes = 0;
  bool of_file = false;
  for (std::string line; std::getline(maps, line);) {
    if (line.starts_with("Rss:")) {
      int64_t kib = 0;
      std::istringstream(line.substr(4)) >> kib;
      if (of_file) bytes += kib * 1024;
    } else if (line.find('-') < line.find(' ')) {  // "begin-end perms offset ..." opens a mapping
      of_file = line.ends_with(".safetensors");
    }
  }
  return bytes;
}

TEST(ModelMemory, LoadingGivesTheFilesPagesBackAsItGoes) {
  register_builtin_backends();
  ThreadPool threads(2);
  const auto checkpoint =
      Checkpoint::open(std::filesystem::path(MOE4_EMBEDDED_MODELS) / "tiny-qwen3_5-moe-nvfp4");
  const int64_t total = checkpoint->total_tensor_bytes();
  int64_t most = 0;
  const auto model =
      Model::load(*checkpoint, {.threads = &threads, .progress = [&](int64_t, int64_t) {
                                  most = std::max(most, resident_file_bytes());
                                }});
  // One tensor or layer at a time, and what the kernel maps around a fault.
  EXPECT_LT(most, total / 2);
  EXPECT_LT(resident_file_bytes(), total / 4);
}

}  // namespace
}  // namespace moe4
