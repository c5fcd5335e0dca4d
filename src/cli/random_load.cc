// Lengths and tokens out of one generator: a seed is a load.
#include "cli/random_load.h"

#include <CLI/CLI.hpp>
#include <algorithm>

#include "cli/number_flags.h"
#include "text/tokenizer.h"

namespace moe4::cli {

void add_random_load_flags(CLI::App& command, RandomLoadFlags& flags) {
  command.add_option("--random-input-len", flags.input_tokens, "Tokens of a prompt")
      ->check(whole_number(1, 1 << 24));
  command.add_option("--random-output-len", flags.output_tokens, "Tokens of an answer")
      ->check(whole_number(1, 1 << 24));
  command
      .add_option("--random-range-ratio", flags.range_ratio,
                  "Lengths of both differ from these by up to this share, at random")
      ->check(number_between(0, 1));
  command.add_option("--num-prompts", flags.num_prompts, "Requests")
      ->check(whole_number(1, 1'000'000));
  command.add_option("--seed", flags.seed, "Of lengths, prompts and intervals")
      ->check(whole_number_64());
}

std::vector<int64_t> random_lengths(const RandomLoadFlags& flags, int64_t mean,
                                    std::mt19937_64& random) {
  const auto most = static_cast<int64_t>(static_cast<double>(mean) * flags.range_ratio);
  std::vector<int64_t> lengths(static_cast<size_t>(flags.num_prompts), mean);
  if (most == 0) return lengths;
  for (int64_t& length : lengths) {
    const auto offset = static_cast<int64_t>(random() % static_cast<uint64_t>(2 * most + 1));
    length = std::max<int64_t>(1, length - most + offset);
  }
  return lengths;
}

std::vector<int32_t> text_ids(const Tokenizer& tokenizer) {
  std::vector<int32_t> ids;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    if (!tokenizer.is_special(id) && !tokenizer.token_bytes(id).empty()) ids.push_back(id);
  }
  return ids;
}

std::vector<std::vector<int32_t>> random_prompts(const std::vector<int64_t>& lengths,
                                                 const std::vector<int32_t>& ids,
                                                 std::mt19937_64& random) {
  std::vector<std::vector<int32_t>> prompts;
  for (const int64_t length : lengths) {
    std::vector<int32_t>& prompt = prompts.emplace_back();
    for (int64_t token = 0; token < length; ++token) prompt.push_back(ids[random() % ids.size()]);
  }
  return prompts;
}

}  // namespace moe4::cli
