// Wording of what is wrong with a setting.
#include "moe/tuning.h"

#include <fmt/format.h>

#include "base/error.h"

namespace moe4 {

void throw_bad_tuning(const TuningOption& option, const std::string& found) {
  throw Error(ErrorCode::kUsage, fmt::format("tuning {}: expected {}, found '{}'", option.name,
                                             option.values, printable(found)));
}

}  // namespace moe4
