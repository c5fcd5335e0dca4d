// What token masks cost: random answers under several grammars, over a vocabulary of real size.
// mask_bench [VOCABULARY]: a folder with tokenizer.json or tiktoken.model, or a .tiktoken file (a
// line a token: its bytes in base64, its rank). Without one, 248,320 made-up tokens.
#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "grammar/token_masks.h"

namespace moe4 {
namespace {

constexpr size_t kVocabSize = 248'320;

std::vector<std::string> made_up_tokens() {
  std::mt19937 rng(1);
  const char* const pieces[] = {"a", "e", "th", "in", "er", "on", "re", "st", "s", "t",
                                "l", "é", "и",  "的", "。", "0",  "1",  "\"", ":", ",",
                                "{", "}", "_",  "-",  " ",  "\n", "(",  ")"};
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  while (tokens.size() < kVocabSize) {
    std::string token = rng() % 2 == 0 ? " " : "";
    for (size_t n = 1 + rng() % 5; n > 0; --n) {
      token += pieces[rng() % (rng() % 3 == 0 ? std::size(pieces) : 15)];
    }
    tokens.push_back(token);
  }
  return tokens;
}

std::string from_base64(const std::string& text) {
  const std::string digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes;
  uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    const size_t value = digits.find(c);
    if (value == std::string::npos) break;
    bits = bits << 6 | static_cast<uint32_t>(value);
    count += 6;
    if (count < 8) continue;
    count -= 8;
    bytes += static_cast<char>(bits >> count);
  }
  return bytes;
}

Vocabulary read_vocabulary(const std::string& path) {
  if (path.empty()) return Vocabulary(made_up_tokens());
  if (std::filesystem::is_directory(path)) return Vocabulary(*Tokenizer::load(path));
  std::ifstream file(path);
  std::vector<std::string> tokens;
  size_t rank = 0;
  for (std::string text; file >> text >> rank;) {
    if (rank >= kVocabSize) throw Error(ErrorCode::kBadInput, "a rank above the vocabulary");
    tokens.resize(std::max(tokens.size(), rank + 1));
    tokens[rank] = from_base64(text);
  }
  tokens.resize(std::max(tokens.size(), kVocabSize));  // special tokens, and padding
  return Vocabulary(std::move(tokens));
}

struct Case {
  const char* name;
  std::shared_ptr<const Grammar> grammar;
};

std::vector<Case> cases() {
  return {
      {"JSON object", compile_json_object()},
      {"schema: person", compile_json_schema(R"({"type":"object","properties":{
          "name":{"type":"string"},"age":{"type":"integer","minimum":0,"maximum":150},
          "email":{"type":"string","format":"email"},"tags":{"type":"array","items":
          {"type":"string"}},"address":{"type":"object","properties":{"street":{"type":"string"},
          "city":{"type":"string"},"zip":{"type":"string","pattern":"^[0-9]{5}$"}},
          "required":["street","city"]}},"required":["name","age","tags","address"],
          "additionalProperties":false})")},
      {"schema: strings of at most 20", compile_json_schema(R"({"type":"array","items":
          {"type":"string","maxLength":20},"minItems":30,"maxItems":60})")},
      {"schema: strings of at most 500", compile_json_schema(R"({"type":"array","items":
          {"type":"string","maxLength":500},"minItems":30,"maxItems":60})")},
      {"schema: recursive", compile_json_schema(R"({"type":"object","properties":{"value":
          {"type":"number"},"children":{"type":"array","items":{"$ref":"#"}}},
          "required":["value","children"]})")},
      {"regex", compile_regex("(?:[A-Z][a-z]+ ){3,40}[0-9]{4}-[0-9]{2}")},
  };
}

// Of this thread's own work, so that other programs do not count.
double thread_microseconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) * 1e-3;
}

struct Times {
  std::vector<double> microseconds;

  double mean() const {
    double sum = 0;
    for (const double t : microseconds) sum += t;
    return sum / static_cast<double>(microseconds.size());
  }
  double share(double part) {
    std::sort(microseconds.begin(), microseconds.end());
    return microseconds[static_cast<size_t>(part * static_cast<double>(microseconds.size() - 1))];
  }
};

// Random allowed tokens, the first of a few draws by length, so that words are as long as real
// ones.
void answer(const std::shared_ptr<const TokenMasks>& masks, uint64_t seed, size_t steps,
            Times& times) {
  std::mt19937_64 rng(seed);
  GrammarMatcher matcher(masks);
  const size_t words = masks->vocabulary().mask_words();
  std::vector<uint64_t> mask(words);
  for (size_t step = 0; step < steps && !matcher.must_end(); ++step) {
    const double begin = thread_microseconds();
    matcher.fill_mask(mask);
    times.microseconds.push_back(thread_microseconds() - begin);
    std::vector<int32_t> allowed;
    for (size_t id = 0; id < words * 64; ++id) {
      if ((mask[id / 64] >> (id % 64) & 1) != 0) allowed.push_back(static_cast<int32_t>(id));
    }
    if (allowed.empty() || !matcher.accept(allowed[rng() % allowed.size()])) break;
  }
}

void run(const std::string& path) {
  const auto begin = std::chrono::steady_clock::now();
  const auto vocabulary = std::make_shared<const Vocabulary>(read_vocabulary(path));
  const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - begin;
  fmt::print("{} tokens, read in {:.2f} s; us of CPU time a mask\n\n", vocabulary->size(),
             spent.count());
  fmt::print("| grammar | first answer: mean | most | later answers: mean | 99 % | most |\n");
  fmt::print("|---|---|---|---|---|---|\n");
  for (const Case& one : cases()) {
    const auto masks = std::make_shared<const TokenMasks>(one.grammar, vocabulary);
    constexpr size_t kSteps = 200;
    Times first, later;
    answer(masks, 0, kSteps, first);
    for (uint64_t seed = 1; seed <= 20; ++seed) answer(masks, seed, kSteps, later);
    fmt::print("| {} | {:.0f} | {:.0f} | {:.0f} | {:.0f} | {:.0f} |\n", one.name, first.mean(),
               first.share(1), later.mean(), later.share(0.99), later.share(1));
  }
}

}  // namespace
}  // namespace moe4

int main(int argc, char** argv) {
  try {
    moe4::run(argc > 1 ? argv[1] : "");
  } catch (const moe4::Error& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return static_cast<int>(error.code());
  }
  return 0;
}
