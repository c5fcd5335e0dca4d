// Why an implementation cannot do what it is asked.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace moe4 {

/// Why a backend cannot take a layer. The message reads well after the word "since".
struct Rejection {
  enum class Kind {
    kNotSelected,  ///< it could, but is never chosen automatically
    kDevice,       ///< wrong kind or generation of device
    kScheme,       ///< weight or activation key
    kPrecision,    ///< the activation precision asked for
    kActivation,   ///< the non-linearity
    kShape,        ///< hidden or intermediate size
    kParallel,     ///< EP or TP
    kBatch,        ///< a token's bits would depend on its batch
    kBuild,        ///< this program was built without it
  };
  Kind kind = Kind::kDevice;
  std::string message;

  bool operator==(const Rejection&) const = default;
};

/// nullopt: supported.
using Support = std::optional<Rejection>;

/// "device", "scheme", ... for --json.
std::string_view to_string(Rejection::Kind kind);

}  // namespace moe4
