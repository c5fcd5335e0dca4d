// Speeds of a generation, computed once for every subcommand that prints them.
#pragma once

#include <string>

#include "engine/generator.h"

namespace moe4::cli {

struct Speed {
  double prompt_tokens_per_second = 0;      ///< of those that were computed
  double generation_tokens_per_second = 0;  ///< 0 when nothing was generated after the first token
  double gb_per_token = 0;                  ///< weight bytes a generated token reads, 10^9 bytes
  double gb_per_second = 0;                 ///< of weights, while generating
  double memory_share = 0;  ///< gb_per_second over the measured read bandwidth; 0: not measured
};

/// `memory_gbs`: of measure_memory(), or 0.
Speed measure_speed(const GenerateResult& result, int64_t bytes_per_token, double memory_gbs);

/// A quick look (0.1 s) at the read bandwidth of this machine's memory, GB/s; 0 when memory is too
/// short to tell.
double measure_memory(ThreadPool& threads);

/// "prompt: 12 tokens at 812.3 tok/s; generation: 64 tokens at 120.1 tok/s, 0.0120 GB per token,
/// ..."; says at its end when there was no room for more.
std::string speed_line(const GenerateResult& result, const Speed& speed);

}  // namespace moe4::cli
