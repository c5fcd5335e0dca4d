// Any bytes as config.json: a configuration whose sizes are sane, or Error(kBadInput); and as
// generation_config.json: settings in their ranges.
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/error.h"
#include "checkpoint/config_parser.h"
#include "checkpoint/generation_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  moe4::Json root;
  try {
    root = moe4::parse_json({reinterpret_cast<const char*>(data), size}, "fuzz");
  } catch (const moe4::Error& error) {
    if (error.code() != moe4::ErrorCode::kBadInput) std::abort();
    return 0;
  }
  try {
    const moe4::ModelConfig config = moe4::parse_model_config(root, "config.json");
    const auto layers = static_cast<size_t>(config.num_layers);
    const bool sane = config.hidden_size > 0 && config.vocab_size > 0 &&
                      config.layer_kinds.size() == layers && config.is_moe_layer.size() == layers &&
                      config.moe.top_k <= config.moe.num_experts;
    if (!sane) std::abort();
  } catch (const moe4::Error& error) {
    if (error.code() != moe4::ErrorCode::kBadInput) std::abort();
  }
  std::vector<moe4::CheckpointNote> notes;  // advice never fails
  const auto advice = moe4::parse_generation_config(root, "generation_config.json", notes);
  if (!(advice.temperature >= 0 && advice.top_p <= 1 && advice.top_k >= 0)) std::abort();
  return 0;
}
