// A SAX reader: nlohmann's parser calls it once a value, so time and memory are linear in the file.
#include "text/tokenizer_json.h"

#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace moe4 {
namespace {

using nlohmann::json;

constexpr size_t kMaxDepth = 64;
constexpr size_t kMaxBytes = size_t{1} << 30;

class Reader : public nlohmann::json_sax<json> {
 public:
  Reader(const std::string& name, json* rest) : name_(name), rest_(rest) {}

  TokenizerJson take() { return std::move(result_); }

  bool null() override { return scalar(nullptr); }
  bool boolean(bool value) override { return scalar(value); }
  bool number_float(double value, const std::string&) override { return scalar(value); }
  bool binary(json::binary_t&) override { return false; }

  bool number_integer(int64_t value) override {
    if (where_ == Where::kVocab) bad_id(std::to_string(value));
    return scalar(value);
  }

  bool number_unsigned(uint64_t value) override {
    if (where_ != Where::kVocab) return scalar(value);
    if (value > static_cast<uint64_t>(std::numeric_limits<int32_t>::max())) {
      bad_id(std::to_string(value));
    }
    result_.vocab.emplace_back(std::move(key_), static_cast<int32_t>(value));
    return true;
  }

  bool string(std::string& value) override {
    if (where_ == Where::kMerges) {
      add_merge_line(value);
      return true;
    }
    if (where_ == Where::kMergePair) {
      pair_.push_back(std::move(value));
      if (pair_.size() > 2) bad_merge("more than two strings");
      return true;
    }
    return scalar(std::move(value));
  }

  bool key(std::string& value) override {
    key_ = std::move(value);
    return true;
  }

  bool start_object(size_t) override {
    if (where_ != Where::kTree) unexpected("an object");
    if (inside_model() && key_ == "vocab") {
      where_ = Where::kVocab;
      return true;
    }
    open(json::object());
    return true;
  }

  bool end_object() override {
    if (where_ == Where::kVocab) {
      where_ = Where::kTree;
    } else {
      close();
    }
    return true;
  }

  bool start_array(size_t) override {
    if (where_ == Where::kMerges) {
      pair_.clear();
      where_ = Where::kMergePair;
      return true;
    }
    if (where_ != Where::kTree) unexpected("an array");
    if (inside_model() && key_ == "merges") {
      where_ = Where::kMerges;
      return true;
    }
    open(json::array());
    return true;
  }

  bool end_array() override {
    if (where_ == Where::kMergePair) {
      if (pair_.size() != 2) bad_merge(std::to_string(pair_.size()) + " strings");
      result_.merges.emplace_back(std::move(pair_[0]), std::move(pair_[1]));
      where_ = Where::kMerges;
    } else if (where_ == Where::kMerges) {
      where_ = Where::kTree;
    } else {
      close();
    }
    return true;
  }

  bool parse_error(size_t position, const std::string&, const json::exception& error) override {
    throw_bad_input({.what = "tokenizer is not valid JSON at byte " + std::to_string(position),
                     .file = name_,
                     .found = error.what()});
  }

 private:
  enum class Where { kTree, kVocab, kMerges, kMergePair };

  bool inside_model() const { return open_.size() == 2 && model_ == open_.back(); }

  bool scalar(json value) {
    if (where_ != Where::kTree) unexpected(value.type_name());
    place(std::move(value));
    return true;
  }

  json* place(json value) {
    if (open_.empty()) {
      *rest_ = std::move(value);
      return rest_;
    }
    json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    json& slot = parent[key_];
    slot = std::move(value);
    if (open_.size() == 1 && key_ == "model") model_ = &slot;
    return &slot;
  }

  void open(json value) {
    if (open_.size() == kMaxDepth) {
      throw_bad_input({.what = "tokenizer JSON is nested too deeply", .file = name_});
    }
    open_.push_back(place(std::move(value)));
  }

  void close() { open_.pop_back(); }

  void add_merge_line(const std::string& line) {
    if (line.starts_with("#version")) return;
    const size_t space = line.find(' ');
    if (space == std::string::npos || line.find(' ', space + 1) != std::string::npos) {
      bad_merge(line);
    }
    result_.merges.emplace_back(line.substr(0, space), line.substr(space + 1));
  }

  [[noreturn]] void unexpected(const std::string& found) const {
    const bool vocab = where_ == Where::kVocab;
    throw_bad_input({.what = "unexpected JSON value",
                     .file = name_,
                     .tensor = vocab ? "model.vocab" : "model.merges",
                     .expected = vocab ? "an id for every token" : "strings or pairs of strings",
                     .found = found});
  }

  [[noreturn]] void bad_id(const std::string& found) const {
    throw_bad_input({.what = "token id out of range for token " + printable(key_, 60),
                     .file = name_,
                     .tensor = "model.vocab",
                     .expected = "0 to 2147483647",
                     .found = found});
  }

  [[noreturn]] void bad_merge(const std::string& found) const {
    throw_bad_input({.what = "malformed merge number " + std::to_string(result_.merges.size()),
                     .file = name_,
                     .tensor = "model.merges",
                     .expected = "two tokens",
                     .found = found});
  }

  const std::string& name_;
  json* rest_;
  json* model_ = nullptr;
  std::vector<json*> open_;  // parents do not move while a child of theirs is open
  std::string key_;
  std::vector<std::string> pair_;
  Where where_ = Where::kTree;
  TokenizerJson result_;
};

}  // namespace

TokenizerJson read_tokenizer_json(std::string_view text, const std::string& name, json* rest) {
  if (text.size() > kMaxBytes) {
    throw_bad_input({.what = "tokenizer is too large", .file = name, .expected = "at most 1 GiB"});
  }
  Reader reader(name, rest);
  json::sax_parse(text.begin(), text.end(), &reader);
  if (!rest->is_object()) {
    throw_bad_input({.what = "tokenizer JSON is not an object", .file = name});
  }
  return reader.take();
}

}  // namespace moe4
