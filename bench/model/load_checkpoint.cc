// Loads a checkpoint once and prints one JSON object: seconds, peak resident memory against the
// size of its files, and the speed of a plain read of those files just before and after.
//
//   load_checkpoint MODEL
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <vector>

#include "base/error.h"
#include "models/model.h"
#include "ops/experts/registry.h"

namespace {

namespace fs = std::filesystem;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::vector<fs::path> weight_files(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() == ".safetensors") files.push_back(entry.path());
  }
  return files;
}

// GB/s of read() into one small buffer.
double plain_read_gbs(const std::vector<fs::path>& files) {
  std::vector<char> buffer(1 << 20);
  int64_t bytes = 0;
  const auto start = std::chrono::steady_clock::now();
  for (const fs::path& path : files) {
    const int file = open(path.c_str(), O_RDONLY);
    for (ssize_t n; (n = read(file, buffer.data(), buffer.size())) > 0;) bytes += n;
    close(file);
  }
  return static_cast<double>(bytes) / seconds_since(start) * 1e-9;
}

int64_t peak_resident_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: load_checkpoint MODEL\n");
    return 2;
  }
  try {
    moe4::register_builtin_backends();
    const std::vector<fs::path> files = weight_files(argv[1]);
    int64_t file_bytes = 0;
    for (const fs::path& path : files) file_bytes += static_cast<int64_t>(fs::file_size(path));
    const double before = plain_read_gbs(files);
    moe4::ThreadPool threads;
    const auto start = std::chrono::steady_clock::now();
    const auto checkpoint = moe4::Checkpoint::open(argv[1]);
    const auto model = moe4::Model::load(*checkpoint, {.threads = &threads});
    const double seconds = seconds_since(start);
    const int64_t peak = peak_resident_bytes();
    const double after = plain_read_gbs(files);
    const double bytes = static_cast<double>(file_bytes);
    std::printf(
        "{\"file_bytes\": %lld, \"seconds\": %.3f, \"gbs\": %.2f, \"plain_read_gbs\": [%.2f, "
        "%.2f], "
        "\"peak_resident_bytes\": %lld, \"peak_over_file\": %.3f, \"threads\": %d}\n",
        static_cast<long long>(file_bytes), seconds, bytes / seconds * 1e-9, before, after,
        static_cast<long long>(peak), static_cast<double>(peak) / bytes, threads.size());
  } catch (const moe4::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  }
}
