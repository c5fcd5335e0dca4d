// Tensors and texts that subcommands read from files the user names.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"

namespace CLI {
class App;
}

namespace moe4 {
class Tokenizer;
}

namespace moe4::cli {

/// F32, BF16 or F16 tensor as floats. Throws Error(kBadInput) unless it is [rows, columns]; a
/// negative expectation accepts any number.
std::vector<float> read_floats(const SafetensorsFile& file, const std::string& name, int64_t rows,
                               int64_t columns);
/// I32 tensor of shape [rows, columns].
std::vector<int32_t> read_ids(const SafetensorsFile& file, const std::string& name, int64_t rows,
                              int64_t columns);

/// A text file of whitespace-separated token ids, each below `vocab_size`.
std::vector<int32_t> read_id_list(const std::filesystem::path& path, int64_t vocab_size);

/// Where eval and compare take their tokens from.
struct TokenSource {
  std::string text;      ///< a text file, cut into rows of `window` tokens
  std::string tokens;    ///< a safetensors file with `tokens` i32 [rows, n]
  int64_t window = 512;  ///< tokens a row of --text
  int64_t max_rows = 0;  ///< 0: all
};
void add_token_source(CLI::App& command, TokenSource& source);
/// Throws Error(kBadInput) when a file that `source` names cannot be read: before anything is
/// opened.
void check_token_source(const TokenSource& source);
/// Rows to be scored each by itself, with ids below `vocab_size`. `tokenizer` is needed for --text
/// only.
std::vector<std::vector<int32_t>> read_token_rows(const TokenSource& source,
                                                  const Tokenizer* tokenizer, int64_t vocab_size);

}  // namespace moe4::cli
