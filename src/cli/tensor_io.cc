// Checked reading of the user's own files.
#include "cli/tensor_io.h"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cstring>
#include <fstream>
#include <iterator>
#include <span>

#include "base/error.h"
#include "cli/options.h"
#include "moe/dequantize.h"
#include "text/tokenizer.h"

namespace moe4::cli {
namespace {

TensorView checked_matrix(const SafetensorsFile& file, const std::string& name, int64_t rows,
                          int64_t columns) {
  TensorView view = file.tensor(name);
  const bool fits = view.shape.size() == 2 && (rows < 0 || view.dim(0) == rows) &&
                    (columns < 0 || view.dim(1) == columns);
  if (!fits) {
    const auto size = [](int64_t n) { return n < 0 ? std::string("any") : std::to_string(n); };
    throw_bad_input({.what = "wrong shape",
                     .file = file.path().string(),
                     .tensor = name,
                     .expected = fmt::format("[{}, {}]", size(rows), size(columns)),
                     .found = shape_to_string(view.shape)});
  }
  return view;
}

[[noreturn]] void wrong_dtype(const SafetensorsFile& file, const std::string& name,
                              const std::string& expected, DType found) {
  throw_bad_input({.what = "wrong dtype",
                   .file = file.path().string(),
                   .tensor = name,
                   .expected = expected,
                   .found = std::string(moe4::to_string(found))});
}

// `where`: " of row 3" or nothing.
void check_ids(std::span<const int32_t> ids, int64_t vocab_size, const std::string& file,
               const std::string& where) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocab_size) continue;
    throw_bad_input(
        {.what = fmt::format("token id outside the vocabulary at position {}{}", i, where),
         .file = file,
         .expected = fmt::format("0 to {}", vocab_size - 1),
         .found = std::to_string(ids[i]),
         .hint = "use ids of this model's own tokenizer"});
  }
}

std::string read_file(const std::filesystem::path& path) {
  std::error_code error;
  std::ifstream in(path, std::ios::binary);
  if (!std::filesystem::is_regular_file(path, error) || !in) {
    throw_bad_input({.what = "cannot read the file", .file = path.string()});
  }
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

std::vector<float> read_floats(const SafetensorsFile& file, const std::string& name, int64_t rows,
                               int64_t columns) {
  const TensorView view = checked_matrix(file, name, rows, columns);
  if (view.dtype != DType::kF32 && view.dtype != DType::kBF16 && view.dtype != DType::kF16)
    wrong_dtype(file, name, "F32, BF16 or F16", view.dtype);
  std::vector<float> values(view.num_elements());
  convert_to_float(view.data, view.dtype, view.num_elements(), values.data());
  return values;
}

std::vector<int32_t> read_ids(const SafetensorsFile& file, const std::string& name, int64_t rows,
                              int64_t columns) {
  const TensorView view = checked_matrix(file, name, rows, columns);
  if (view.dtype != DType::kI32) wrong_dtype(file, name, "I32", view.dtype);
  std::vector<int32_t> values(view.num_elements());
  if (!values.empty()) std::memcpy(values.data(), view.data, values.size() * sizeof(int32_t));
  return values;
}

std::vector<int32_t> read_id_list(const std::filesystem::path& path, int64_t vocab_size) {
  const std::string text = read_file(path);
  std::vector<int32_t> ids;
  const char *at = text.data(), *end = text.data() + text.size();
  const auto is_space = [](char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; };
  while (true) {
    at = std::find_if_not(at, end, is_space);
    if (at == end) break;
    const char* stop = std::find_if(at, end, is_space);
    int32_t id = 0;
    const auto [parsed, error] = std::from_chars(at, stop, id);
    if (error != std::errc{} || parsed != stop) {
      throw_bad_input({.what = "not a token id",
                       .file = path.string(),
                       .expected = "whitespace-separated whole numbers",
                       .found = "'" + std::string(at, std::min<size_t>(stop - at, 40)) + "'"});
    }
    ids.push_back(id);
    at = stop;
  }
  if (ids.empty()) throw_bad_input({.what = "no token ids", .file = path.string()});
  check_ids(ids, vocab_size, path.string(), "");
  return ids;
}

void add_token_source(CLI::App& command, TokenSource& source) {
  CLI::Option* text = with_env(command.add_option("--text", source.text, "A text file to score"));
  CLI::Option* tokens = with_env(command.add_option(
      "--tokens", source.tokens, "A safetensors file with `tokens` i32 [rows, n]"));
  text->excludes(tokens);
  with_env(command.add_option("--window", source.window, "Tokens a row that --text is cut into")
               ->check(CLI::Range(2, 1 << 20)));
  with_env(command.add_option("--rows", source.max_rows, "Score the first rows only; 0 for all")
               ->check(CLI::NonNegativeNumber));
}

void check_token_source(const TokenSource& source) {
  for (const std::string& path : {source.text, source.tokens}) {
    if (path.empty()) continue;
    std::error_code error;
    if (!std::filesystem::is_regular_file(path, error) || access(path.c_str(), R_OK) != 0)
      throw_bad_input({.what = "cannot read the file", .file = path});
  }
}

std::vector<std::vector<int32_t>> read_token_rows(const TokenSource& source,
                                                  const Tokenizer* tokenizer, int64_t vocab_size) {
  std::vector<std::vector<int32_t>> rows;
  if (!source.tokens.empty()) {
    const auto file = SafetensorsFile::open(source.tokens);
    const std::vector<int32_t> ids = read_ids(*file, "tokens", -1, -1);
    const int64_t length = file->tensor("tokens").dim(1);
    if (length < 2) {
      throw_bad_input({.what = "nothing to score",
                       .file = source.tokens,
                       .tensor = "tokens",
                       .expected = "rows of at least two tokens",
                       .found = fmt::format("rows of {}", length)});
    }
    for (auto at = ids.begin(); at != ids.end(); at += length) {
      rows.emplace_back(at, at + length);
      check_ids(rows.back(), vocab_size, source.tokens, fmt::format(" of row {}", rows.size() - 1));
    }
  } else if (!source.text.empty()) {
    const std::vector<int32_t> ids = tokenizer->encode(read_file(source.text));
    const auto window = static_cast<size_t>(source.window);
    for (size_t at = 0; at < ids.size(); at += window) {
      rows.emplace_back(ids.begin() + at, ids.begin() + std::min(at + window, ids.size()));
    }
    if (!rows.empty() && rows.back().size() < 2) rows.pop_back();
  } else {
    throw Error(ErrorCode::kUsage, "nothing to score: give --text FILE or --tokens FILE");
  }
  if (rows.empty()) {
    throw_bad_input({.what = "nothing to score",
                     .file = source.tokens.empty() ? source.text : source.tokens,
                     .expected = "at least two tokens"});
  }
  if (source.max_rows > 0 && static_cast<int64_t>(rows.size()) > source.max_rows)
    rows.resize(source.max_rows);
  return rows;
}

}  // namespace moe4::cli
