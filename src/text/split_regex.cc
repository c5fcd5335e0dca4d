// PCRE2 with Unicode properties, compiled to machine code where the system allows it.
#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/split_regex.h"

#include <pcre2.h>

#include <algorithm>

#include "base/error.h"
#include "text/regex_dialect.h"

namespace moe4 {
namespace {

constexpr size_t kMaxPatternBytes = 1 << 16;
constexpr uint32_t kHeapLimitKiB = 256 * 1024;
constexpr size_t kJitStackBytes = 8 << 20;

std::string message_of(int code) {
  PCRE2_UCHAR buffer[256];
  pcre2_get_error_message(code, buffer, sizeof buffer);
  return reinterpret_cast<const char*>(buffer);
}

template <auto Free>
struct Deleter {
  template <class T>
  void operator()(T* pointer) const {
    Free(pointer);
  }
};
using MatchData = std::unique_ptr<pcre2_match_data, Deleter<pcre2_match_data_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Deleter<pcre2_match_context_free>>;
using CompileContext = std::unique_ptr<pcre2_compile_context, Deleter<pcre2_compile_context_free>>;
using JitStack = std::unique_ptr<pcre2_jit_stack, Deleter<pcre2_jit_stack_free>>;

}  // namespace

SplitRegex::SplitRegex(const std::string& pattern, bool literal, const std::string& file)
    : pattern_(pattern), file_(file) {
  if (pattern.size() > kMaxPatternBytes) {
    throw_bad_input({.what = "regular expression is too long",
                     .file = file,
                     .expected = "at most 65536 bytes",
                     .found = std::to_string(pattern.size())});
  }
  const std::string translated = literal ? pattern : translate_regex(pattern, file);
  const CompileContext context(pcre2_compile_context_create(nullptr));
  MOE4_CHECK(context != nullptr);
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  pcre2_set_parens_nest_limit(context.get(), 100);
  const uint32_t options =
      literal ? (PCRE2_LITERAL | PCRE2_UTF) : (PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE);
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()),
                                   translated.size(), options, &error, &offset, context.get());
  if (code == nullptr) {
    throw_bad_input({.what = "regular expression is not understood: " + message_of(error) +
                             " at offset " + std::to_string(offset) + " of " +
                             printable(translated, 300),
                     .file = file,
                     .tensor = "pre_tokenizer"});
  }
  code_.reset(code, [](void* p) { pcre2_code_free(static_cast<pcre2_code*>(p)); });
  jit_ = pcre2_jit_compile(code, PCRE2_JIT_COMPLETE) == 0;
}

void SplitRegex::find_all(std::string_view valid_utf8, std::vector<Span>* matches) const {
  const auto* code = static_cast<const pcre2_code*>(code_.get());
  const MatchData data(pcre2_match_data_create_from_pattern(code, nullptr));
  const MatchContext context(pcre2_match_context_create(nullptr));
  MOE4_CHECK(data != nullptr && context != nullptr);
  // Backing out of one long run of spaces takes a step a byte; more than a few is a hostile
  // pattern.
  const size_t steps = std::min<size_t>(1'000'000 + 8 * valid_utf8.size(), 1'000'000'000);
  pcre2_set_match_limit(context.get(), static_cast<uint32_t>(steps));
  pcre2_set_heap_limit(context.get(), kHeapLimitKiB);
  JitStack stack;

  const auto subject = reinterpret_cast<PCRE2_SPTR>(valid_utf8.data());
  const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(data.get());
  bool use_jit = jit_;
  size_t position = 0;
  while (position < valid_utf8.size()) {
    const uint32_t options = PCRE2_NO_UTF_CHECK | (use_jit ? 0 : PCRE2_NO_JIT);
    const int status =
        pcre2_match(code, subject, valid_utf8.size(), position, options, data.get(), context.get());
    if (status == PCRE2_ERROR_NOMATCH) return;
    if (status == PCRE2_ERROR_JIT_STACKLIMIT && use_jit) {
      if (stack == nullptr) {
        stack.reset(pcre2_jit_stack_create(1 << 16, kJitStackBytes, nullptr));
        pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
        use_jit = stack != nullptr;
      } else {
        use_jit = false;  // the interpreter keeps its stack on the heap
      }
      continue;
    }
    if (status < 0) {
      refuse("cannot be matched: " + message_of(status));
    }
    // \K is refused, so a match begins at or after `position`.
    matches->push_back({ends[0], ends[1]});
    position = ends[1];
    if (ends[0] == ends[1]) {
      do {
        ++position;
      } while (position < valid_utf8.size() && (valid_utf8[position] & 0xC0) == 0x80);
    }
  }
}

void SplitRegex::refuse(const std::string& why) const {
  throw_bad_input({.what = "regular expression " + why,
                   .file = file_,
                   .tensor = "tokenizer",
                   .found = pattern_});
}

}  // namespace moe4
