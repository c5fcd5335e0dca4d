// The registry's storage and selection by priority.
#include "moe/selector.h"

#include <utility>

namespace moe4 {
namespace {

std::vector<const ExpertsBackend*>& registry() {
  static std::vector<const ExpertsBackend*> backends;
  return backends;
}

}  // namespace

std::vector<const ExpertsBackend*> registered_backends() { return registry(); }

void set_registered_backends(std::vector<const ExpertsBackend*> backends) {
  registry() = std::move(backends);
}

}  // namespace moe4
