// The text model's configuration as architecture files read it: every key that is read is noted,
// and what is not computed is refused by name.
#pragma once

#include <array>
#include <concepts>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/json_reader.h"
#include "models/refusals.h"

namespace moe4 {

/// What the configuration says of the biases of some linears; tensors that disagree are refused.
struct BiasRule {
  std::string key;            ///< for the message: "attention_bias"; "": the architecture has it so
  std::optional<bool> there;  ///< nullopt: it says nothing, the tensors decide
};

/// Values are read as JsonReader reads them: null counts as absent, and what has the wrong type or
/// range throws Error(kBadInput) naming file and key. A *refusal* does not throw: it is noted, so
/// that all of them can be listed, and the model is not loaded. Spellings of one key that disagree
/// are refused, and keys that stand beside the text model's object instead of inside.
///
/// A key of the table in settings.cc (keys that change numbers) which is there, not off, and was
/// read by nobody is refused: reading a key means computing it.
class ConfigReader {
 public:
  using Keys = JsonReader::Keys;

  /// Reads the checkpoint's text_config(). `checkpoint` outlives it.
  explicit ConfigReader(const Checkpoint& checkpoint);

  bool has(const char* key) const;
  /// Whether the file says null, where that is not what it leaves out.
  bool is_null(const char* key) const;
  /// 1 to 2^31 - 1. Without a fallback the key is required.
  int64_t size(Keys keys, std::optional<int64_t> fallback = std::nullopt) const;
  /// A whole number in [minimum, maximum].
  int64_t integer(Keys keys, int64_t minimum, int64_t maximum,
                  std::optional<int64_t> fallback = std::nullopt) const;
  double number(Keys keys, double fallback, double minimum, double maximum) const;
  bool flag(Keys keys, bool fallback) const;
  std::string word(Keys keys, const std::string& fallback) const;
  /// Whether the array under `key`, or its "3,4,5", holds the number.
  bool lists(const char* key, int64_t number) const;
  /// What the file says of biases under any of the keys.
  BiasRule bias(Keys keys) const;
  /// A wrapper's word counts before the text model's, as in transformers; `otherwise` where neither
  /// says.
  bool tie_word_embeddings(bool otherwise = false) const;
  /// Entry i of `layer_types` (or another key), refused unless it is one of `words`; `otherwise`
  /// where there is no list or the word was refused.
  std::string layer_type(int64_t layer, std::initializer_list<std::string_view> words,
                         std::string_view otherwise, const char* key = "layer_types") const;

  /// Entry i of a list of sizes (1 to 2^31 - 1); `otherwise` where there is no list.
  int64_t layer_size(int64_t layer, const char* key, int64_t otherwise) const;

  /// Entry i of a list of true and false, or 1 and 0; `otherwise` where there is no list, or an
  /// empty one.
  bool layer_flag(int64_t layer, const char* key, bool otherwise) const;

  /// Entry i of a list of numbers, null being `otherwise`; or the number that `key` has for all.
  double layer_number(int64_t layer, const char* key, double otherwise) const;

  /// The letters of a hybrid pattern (checkpoint/layer_layout.h), one a layer. A pattern that is
  /// absent or has a word of no meaning is refused; "" then.
  std::string hybrid_layers() const;
  /// An array of two numbers, the second not below the first. Infinity has all the spellings of
  /// exporters: Infinity, "Infinity", {"__float__": "Infinity"}, 1e308.
  std::array<float, 2> interval(const char* key, std::array<float, 2> fallback) const;

  /// What `key` must be if it is there. Words stand in braces; one alone is no bool, though
  /// compilers differ about that.
  template <std::same_as<bool> Flag>
  void require(const char* key, Flag value) const {
    require_flag(key, value);
  }
  void require(const char* key, double value) const;
  void require(const char* key, std::initializer_list<std::string_view> words) const;
  /// Refuses a value that is not a positive multiple; `key` names where it came from.
  void require_multiple(const char* key, int64_t value, int64_t factor) const;
  /// Keys that change nothing here, whatever they say (a window whose switch is off).
  void disregard(Keys keys) const;
  /// Notes a refusal, one a key.
  void refuse(std::string_view key, const std::string& expected, const std::string& found) const;

  /// The object itself, for readers that know nothing of notes; say has() of what they read.
  const JsonReader& json() const { return reader_; }

  bool was_read(std::string_view key) const;
  /// All so far.
  const std::vector<Refusal>& refusals() const { return refusals_; }

 private:
  void note(Keys keys) const;
  void require_flag(const char* key, bool value) const;
  void require_agreement(Keys keys) const;

  JsonReader reader_;
  std::optional<JsonReader> wrapper_;  // the whole document, where it is another object
  mutable std::set<std::string, std::less<>> read_, refused_;  // keys
  mutable std::vector<Refusal> refusals_;
};

}  // namespace moe4
