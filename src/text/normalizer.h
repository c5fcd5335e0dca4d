// Changes to a text before it is split into words.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "text/replacement.h"

namespace moe4 {

/// Canonical composition (NFC) of valid UTF-8. O(n log n) even for endless runs of combining marks.
std::string normalize_nfc(std::string_view valid_utf8);

struct NfcStep {};
struct PrependStep {
  std::string text;  // at most Replacement::kMaxContentBytes
};
using NormalizerStep = std::variant<NfcStep, PrependStep, Replacement>;

class Normalizer {
 public:
  Normalizer() = default;
  explicit Normalizer(std::vector<NormalizerStep> steps) : steps_(std::move(steps)) {}

  /// All steps in turn; an empty text stays empty. Throws Error(kBadInput) when replacements make a
  /// text grow beyond all measure.
  std::string run(std::string_view valid_utf8) const;

 private:
  std::vector<NormalizerStep> steps_;
};

}  // namespace moe4
