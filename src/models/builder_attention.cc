// Grouped-query attention from a checkpoint's modules.
#include <cmath>

#include "base/error.h"
#include "models/builder.h"

namespace moe4 {

std::unique_ptr<Mixer> Builder::attention(const std::string& module, AttentionSpec spec,
                                          const BiasRule& bias, const BiasRule& o_bias) {
  const std::string at = full_name(module) + ".";
  spec.cache_dtype = settings_.cache_dtype;
  if (spec.cache_dtype == DType::kF8E4M3) {
    // By the names of ModelOpt, of vLLM, and of compressed-tensors now and earlier; 1 without any.
    const auto scale_of = [&](const std::string& part) {
      const std::string names[] = {part + "_proj." + part + "_scale", part + "_scale",
                                   "attn." + part + "_scale", part + "_proj.output_scale",
                                   "kv_scale"};
      for (const std::string& name : names) {
        const std::string tensor_name = at + name;
        if (!checkpoint_.has_tensor(tensor_name)) continue;
        const TensorRef stored = tensor(tensor_name, 1);
        if (is_describing()) break;
        const float scale = float_vector(stored, 1)[0];
        if (std::isfinite(scale) && scale > 0) return scale;
        throw_bad_input({.what = "a scale of the KV cache that is no scale",
                         .file = checkpoint_.file_of(tensor_name).string(),
                         .tensor = tensor_name,
                         .expected = "a positive number",
                         .found = std::to_string(scale),
                         .hint = "use --kv-cache-dtype f16, which needs none"});
      }
      return 1.0f;
    };
    spec.k_scale = scale_of("k");
    spec.v_scale = scale_of("v");
  }
  AttentionParts parts;
  const PagedAttention::Problem problem = spec.attention();
  keeps(problem.cache());
  std::vector<LinearSpec> inputs = {
      {at + "q_proj", spec.q_width() * (spec.gates_beside_queries() ? 2 : 1), bias},
      {at + "k_proj", spec.k_width(), bias}};
  if (!spec.keys_are_values) inputs.push_back({at + "v_proj", spec.v_width(), bias});
  if (spec.has_gate_proj()) inputs.push_back({at + "g_proj", problem.gate_width()});
  if (spec.block_index) {
    // The choice is exact, as a router's.
    const int64_t dim = spec.block_index->dim;
    inputs.push_back(
        {.module = at + "index_q_proj", .out_features = spec.num_kv_heads * dim, .exact = true});
    inputs.push_back({.module = at + "index_k_proj", .out_features = dim, .exact = true});
  }
  parts.qkv_proj = linears(spec.has_gate_proj() ? "qkv_gate_proj"
                           : spec.block_index   ? "qkv_index_proj"
                                                : "qkv_proj",
                           inputs, hidden_size_);
  const QkvToCache::Problem to_cache = spec.qkv_to_cache();
  QkvToCache::Weights norms;
  if (spec.norm && spec.norm->has_weight) {
    norms = {.q_norm = tensor(at + "q_norm.weight", to_cache.q_norm_width()),
             .k_norm = tensor(at + "k_norm.weight", to_cache.k_norm_width())};
  }
  parts.qkv_to_cache = prepare<QkvToCache>("qkv_to_cache", to_cache, norms);
  if (spec.block_index) {
    attend_to_blocks(at, spec, parts);
  } else {
    PagedAttention::Weights sinks;
    if (spec.sinks) sinks.sinks = tensor(at + spec.sinks_name, spec.num_heads);
    parts.attention = prepare<PagedAttention>("attention", problem, sinks);
  }
  parts.o_proj = linears("o_proj", {{at + "o_proj", hidden_size_, o_bias}}, spec.o_width());
  if (is_describing()) return nullptr;
  return std::make_unique<Attention>(spec, std::move(parts));
}

void Builder::attend_to_blocks(const std::string& at, const AttentionSpec& spec,
                               AttentionParts& parts) {
  MOE4_CHECK(spec.window == 0 && spec.chunk == 0 && !spec.sinks && spec.value_width == 0);
  MOE4_CHECK(spec.output_gate == OutputGate::kNone && spec.value_scale == 1.0f);
  keeps(spec.choose_blocks().cache());
  QkvToCache::Weights norms;
  if (spec.norm && spec.norm->has_weight) {
    norms = {.q_norm = tensor(at + "index_q_norm.weight", spec.block_index->dim),
             .k_norm = tensor(at + "index_k_norm.weight", spec.block_index->dim)};
  }
  parts.index_to_cache = prepare<QkvToCache>("index_to_cache", spec.index_to_cache(), norms);
  parts.choose_blocks = prepare<ChooseBlocks>("choose_blocks", spec.choose_blocks(), {});
  parts.block_attention = prepare<BlockAttention>("attention", spec.block_attention(), {});
}

}  // namespace moe4
