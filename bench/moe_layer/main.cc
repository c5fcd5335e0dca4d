// Times the cpu backend on whole layers and writes one JSON file for bench/results/:
//
//   moe_layer OUT.json COMMIT PRESET[,PRESET..] TOKENS[,TOKENS..] [SECONDS_PER_ROW] [warm]
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>

#include "base/error.h"
#include "bench/moe_bench.h"
#include "ops/experts/cpu/cpu_backend.h"

namespace {

std::vector<std::string> split(const std::string& list) {
  std::vector<std::string> parts;
  std::stringstream stream(list);
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  return parts;
}

std::string cpu_model() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) {
    std::fprintf(stderr,
                 "usage: moe_layer OUT.json COMMIT PRESETS TOKENS [SECONDS_PER_ROW] [warm]\n");
    return 2;
  }
  try {
    const moe4::CpuBackend cpu;
    moe4::MoeBenchOptions options;
    options.backends = {&cpu};
    options.tokens.clear();
    for (const std::string& t : split(argv[4])) options.tokens.push_back(std::stoll(t));
    if (argc > 5) options.seconds_per_row = std::atof(argv[5]);
    options.cold = argc <= 6 || std::strcmp(argv[6], "warm") != 0;
    std::string command = "moe_layer";
    for (int i = 1; i < argc; ++i) command += std::string(" ") + argv[i];
    moe4::ThreadPool threads;
    std::string results;
    for (const std::string& name : split(argv[3])) {
      const auto result = moe4::run_moe_bench(moe4::moe_preset(name), options, threads);
      results += (results.empty() ? "\n" : ",\n") + moe4::to_json(result);
      std::printf("%s\n%s\n", name.c_str(), moe4::to_markdown(result).c_str());
    }
    std::ofstream(argv[1]) << "{\"device\": \"" << cpu_model() << ", " << threads.size()
                           << " threads\", \"commit\": \"" << argv[2] << "\", \"command\": \""
                           << command << "\", \"cold\": " << (options.cold ? "true" : "false")
                           << ", \"layers\": [" << results << "\n]}\n";
  } catch (const moe4::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  }
}
