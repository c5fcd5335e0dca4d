// tokenizer.json as it is written: the vocabulary and merges in file order, the rest as a tree.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moe4 {

struct TokenizerJson {
  std::vector<std::pair<std::string, int32_t>> vocab;       // model.vocab, ids in [0, 2^31)
  std::vector<std::pair<std::string, std::string>> merges;  // model.merges, best first
};

/// Reads the file in one pass; a tree of 250k-entry objects would cost most of a second. `rest`
/// receives everything but the vocabulary and the merges. Throws Error(kBadInput).
TokenizerJson read_tokenizer_json(std::string_view text, const std::string& name,
                                  nlohmann::json* rest);

}  // namespace moe4
