// Answers of a given form: JSON, a schema's JSON, a regular expression, one of some texts.
#pragma once

#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "grammar/grammar.h"
#include "grammar/token_masks.h"
#include "server/json_body.h"

namespace moe4::server {

/// What a request asks an answer to be.
struct StructureRequest {
  enum class Kind { kNone, kJsonObject, kJsonSchema, kRegex, kChoice, kCalls };
  Kind kind = Kind::kNone;
  std::string text;                        ///< schema or regular expression
  std::vector<std::string> choices;        ///< of kChoice
  TaggedAnswer calls;                      ///< of kCalls
  std::optional<ReasonedAnswer> reasoned;  ///< what may stand before it
  std::string field;                       ///< that asks for it, for errors
};

/// Read `response_format`, `structured_outputs` and the guided_* fields into `request`. Throw
/// ApiError(400) for what is wrong, or a second form beside the first.
void read_response_format(const JsonValue& value, const std::string& field,
                          StructureRequest& request);
void read_structured_outputs(const JsonValue& value, StructureRequest& request);
void read_guided(const char* kind, const JsonValue& value, const std::string& field,
                 StructureRequest& request);

/// Compiles forms, and keeps those that were used last: clients ask for the same again and again.
/// Thread-safe.
class StructureCache {
 public:
  explicit StructureCache(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  /// Null for kNone. Throws ApiError(400) naming the field for what cannot be compiled.
  std::shared_ptr<const TokenMasks> masks(const StructureRequest& request);

 private:
  using Entry = std::pair<std::string, std::shared_ptr<const TokenMasks>>;

  static constexpr size_t kMaxEntries = 32;

  const Tokenizer& tokenizer_;
  std::once_flag has_vocabulary_;
  std::shared_ptr<const Vocabulary> vocabulary_;
  std::mutex mutex_;          // of what follows
  std::list<Entry> entries_;  // the one used last is first
  std::unordered_map<std::string, std::list<Entry>::iterator> by_key_;
};

}  // namespace moe4::server
