// Loading: refusals first, then weights.
#include "models/model.h"

#include "base/error.h"
#include "models/architecture.h"
#include "models/decoder.h"
#include "models/description.h"
#include "models/loader.h"

namespace moe4 {

DType cache_dtype(const ModelOptions& options) {
  return options.cache_dtype.value_or(options.compute_dtype == DType::kF32 ? DType::kF32
                                                                           : DType::kF16);
}

std::unique_ptr<Model> Model::load(const Checkpoint& checkpoint, const ModelOptions& options) {
  MOE4_CHECK(options.threads != nullptr);
  const Device& device = options.moe.device;
  if (!device.is_cpu() && options.compute_dtype == DType::kF32) {
    throw Error(ErrorCode::kUsage,
                "--dtype float32: layers on a GPU hand BF16 to each other; use --device cpu");
  }
  const std::vector<Refusal> found = describe(checkpoint, device, cache_dtype(options)).refusals;
  if (!found.empty()) {
    std::string more;
    if (found.size() > 1) {
      more = " (and " + std::to_string(found.size() - 1) + " more, which moe4 plan lists)";
    }
    throw Error(ErrorCode::kBadInput, found.front().message + more);
  }
  Loader loader(checkpoint, options);
  find_architecture(checkpoint.config().model_type)->build(ConfigReader(checkpoint), loader);
  auto model = std::make_unique<Decoder>(loader.take(), device, *options.threads);
  checkpoint.check_unchanged();
  return model;
}

}  // namespace moe4
