// Requests of random lengths and random tokens, the same for a server and for the engine alone.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

namespace CLI {
class App;
}
namespace moe4 {
class Tokenizer;
}

namespace moe4::cli {

struct RandomLoadFlags {
  int64_t num_prompts = 1000;
  int64_t input_tokens = 1024, output_tokens = 128;
  double range_ratio = 0;
  uint64_t seed = 0;
};

/// --random-input-len and its like, under vLLM's names.
void add_random_load_flags(CLI::App& command, RandomLoadFlags& flags);

/// Of each request: `mean` plus or minus at most range_ratio of it, at least one.
std::vector<int64_t> random_lengths(const RandomLoadFlags& flags, int64_t mean,
                                    std::mt19937_64& random);

/// Ids of tokens that are text and not special, ascending.
std::vector<int32_t> text_ids(const Tokenizer& tokenizer);

/// A prompt of each length, of any of `ids`; nothing in common.
std::vector<std::vector<int32_t>> random_prompts(const std::vector<int64_t>& lengths,
                                                 const std::vector<int32_t>& ids,
                                                 std::mt19937_64& random);

}  // namespace moe4::cli
