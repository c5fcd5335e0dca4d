// Compiles what the flags name.
#include "cli/constraint_flags.h"

#include <CLI/CLI.hpp>
#include <utility>

#include "base/error.h"
#include "grammar/grammar.h"
#include "grammar/token_masks.h"
#include "text/read_text_file.h"

namespace moe4::cli {
namespace {

constexpr int64_t kMaxSchemaBytes = 10'000'000;

// JSON where it can be nothing else, as a file is not called "{...}".
bool is_schema_text(const std::string& text) {
  const size_t first = text.find_first_not_of(" \t\r\n");
  return first != std::string::npos && text[first] == '{';
}

}  // namespace

// No environment variables: these change which tokens are drawn.
void add_constraint_flags(CLI::App& command, ConstraintFlags& flags) {
  command.add_option("--json-schema", flags.json_schema,
                     "The answer is JSON of this schema: FILE, or the schema itself");
  command.add_flag("--json-object", flags.json_object, "The answer is a JSON object");
  command.add_option("--regex", flags.regex, "The answer matches this pattern as a whole");
  command
      .add_option("--choice", flags.choices, "The answer is this text; given again, one of them")
      ->allow_extra_args(false);
}

std::shared_ptr<const Grammar> constraint_grammar(const ConstraintFlags& flags) {
  const int kinds = (flags.json_schema.empty() ? 0 : 1) + (flags.json_object ? 1 : 0) +
                    (flags.regex.empty() ? 0 : 1) + (flags.choices.empty() ? 0 : 1);
  if (kinds > 1) {
    throw Error(ErrorCode::kUsage,
                "--json-schema, --json-object, --regex and --choice exclude each other: give one");
  }
  if (!flags.json_schema.empty()) {
    if (is_schema_text(flags.json_schema)) return compile_json_schema(flags.json_schema);
    const auto text = read_text_file(flags.json_schema, kMaxSchemaBytes);
    if (!text) {
      throw_bad_input({.what = "no such file",
                       .file = flags.json_schema,
                       .hint = "--json-schema takes a file, or a schema that begins with {"});
    }
    return compile_json_schema(*text);
  }
  if (flags.json_object) return compile_json_object();
  if (!flags.regex.empty()) return compile_regex(flags.regex);
  if (!flags.choices.empty()) return compile_choice(flags.choices);
  return nullptr;
}

std::shared_ptr<const TokenMasks> constraint_masks(std::shared_ptr<const Grammar> grammar,
                                                   const Tokenizer& tokenizer) {
  if (!grammar) return nullptr;
  return std::make_shared<const TokenMasks>(std::move(grammar),
                                            std::make_shared<const Vocabulary>(tokenizer));
}

}  // namespace moe4::cli
