// Unicode normalisation of text before it is split into words.
#pragma once

#include <string>
#include <string_view>

namespace moe4 {

/// Canonical composition (NFC) of valid UTF-8. O(n log n) even for endless runs of combining marks.
std::string normalize_nfc(std::string_view valid_utf8);

}  // namespace moe4
