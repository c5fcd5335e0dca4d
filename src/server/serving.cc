// Small things that endpoints share.
#include "server/serving.h"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>
#include <random>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "server/api_error.h"

namespace moe4::server {
namespace {

constexpr size_t kMaxNotedFields = 1000;  // hostile clients invent more

}  // namespace

HttpHeaders Call::headers() const { return {{"X-Request-Id", id}}; }

void Call::respond_json(std::string body, int status) const {
  exchange->respond({.status = status, .body = std::move(body), .headers = headers()});
}

void note_unknown_fields(const std::string& path, const std::vector<std::string>& names) {
  static std::mutex mutex;
  static std::set<std::string> noted;
  const std::lock_guard lock(mutex);
  for (const std::string& name : names) {
    if (noted.size() >= kMaxNotedFields) return;
    if (!noted.insert(name.substr(0, 100)).second) continue;
    log(LogLevel::kInfo, fmt::format("{}: the field '{}' is not known and changes nothing", path,
                                     printable(name, 100)));
  }
}

void check_model_name(const Serving& serving, const std::string& name) {
  const auto& names = serving.names;
  if (name.empty() || std::find(names.begin(), names.end(), name) != names.end()) return;
  throw ApiError(404,
                 fmt::format("the model '{}' does not exist; /v1/models names those that do",
                             printable(name, 200)),
                 "model");
}

uint64_t random_seed() {
  thread_local std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

std::string random_name() { return fmt::format("{:016x}{:016x}", random_seed(), random_seed()); }

}  // namespace moe4::server
