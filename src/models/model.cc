// Loading: refusals first, then weights.
#include "models/model.h"

#include "base/error.h"
#include "models/architecture.h"
#include "models/decoder.h"
#include "models/loader.h"
#include "models/refusals.h"

namespace moe4 {
std::unique_ptr<Model> Model::load(const Checkpoint& checkpoint, const ModelOptions& options) {
  MOE4_CHECK(options.threads != nullptr);
  if (!options.moe.device.is_cpu() && !options.prepare_on_gpu) {
    throw Error(ErrorCode::kUnavailable, "this program runs models on the CPU only, not on " +
                                             to_string(options.moe.device));
  }
  if (const std::vector<Refusal> found = refusals(checkpoint); !found.empty()) {
    std::string more;
    if (found.size() > 1) {
      more = " (and " + std::to_string(found.size() - 1) + " more, which moe4 plan lists)";
    }
    throw Error(ErrorCode::kBadInput, found.front().message + more);
  }
  Loader loader(checkpoint, options);
  find_architecture(checkpoint.config().model_type)->build(ConfigReader(checkpoint), loader);
  auto model = std::make_unique<Decoder>(loader.take(), *options.threads);
  checkpoint.check_unchanged();
  return model;
}

}  // namespace moe4
