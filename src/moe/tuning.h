// Choices that backends leave to tests and measurements, by name: "hopper.tiles=16".
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace moe4 {

/// One such choice: "hopper.tiles" takes "16, 24, 40, small or large".
struct TuningOption {
  std::string_view name;    ///< "<backend>.<option>"
  std::string_view values;  ///< for messages
};

/// What was chosen. Everything absent is the backend's own, measured choice.
class Tuning {
 public:
  Tuning() = default;
  Tuning(std::initializer_list<std::pair<const std::string, std::string>> settings)
      : settings_(settings) {}
  void set(const std::string& name, const std::string& value) { settings_[name] = value; }
  std::optional<std::string> find(const std::string& name) const {
    const auto at = settings_.find(name);
    return at == settings_.end() ? std::nullopt : std::optional(at->second);
  }
  bool empty() const { return settings_.empty(); }

 private:
  std::map<std::string, std::string> settings_;
};

/// Throws Error(kUsage): `option` does not take `found`.
[[noreturn]] void throw_bad_tuning(const TuningOption& option, const std::string& found);

}  // namespace moe4
