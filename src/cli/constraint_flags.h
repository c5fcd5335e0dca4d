// Flags of run and chat that say what an answer must be: a JSON schema, a pattern, a choice.
#pragma once

#include <memory>
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace moe4 {
class Grammar;
class Tokenizer;
class TokenMasks;
}  // namespace moe4

namespace moe4::cli {

/// At most one kind of them.
struct ConstraintFlags {
  std::string json_schema;  ///< a file, or the schema itself
  bool json_object = false;
  std::string regex;
  std::vector<std::string> choices;
};

void add_constraint_flags(CLI::App& command, ConstraintFlags& flags);

/// Null without flags. Throws Error(kUsage) for more than one, or what does not compile;
/// Error(kBadInput) for a file that cannot be read.
std::shared_ptr<const Grammar> constraint_grammar(const ConstraintFlags& flags);

/// The grammar over a tokenizer's vocabulary; null for null.
std::shared_ptr<const TokenMasks> constraint_masks(std::shared_ptr<const Grammar> grammar,
                                                   const Tokenizer& tokenizer);

}  // namespace moe4::cli
