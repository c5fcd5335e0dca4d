// DeepSeek-V4's attention from a checkpoint's modules.
#include "base/error.h"
#include "models/builder.h"

namespace moe4 {
namespace {

// Rows [first, first + count) of a matrix as a view.
TensorView rows_of(const TensorView& view, int64_t first, int64_t count) {
  TensorView part = view;
  part.shape[0] = count;
  part.row_stride = view.row_stride;
  if (view.data != nullptr) part.data = view.row(first);
  return part;
}

// Outputs [first, first + count) of a linear. A scale that blocks of rows share goes with those
// rows: they begin at a block, or lie in one.
LinearWeights outputs_of(const LinearWeights& whole, int64_t first, int64_t count) {
  LinearWeights part = whole;
  part.out_features = count;
  part.weight = rows_of(whole.weight, first, count);
  if (!whole.bias.shape.empty()) part.bias = rows_of(whole.bias, first, count);
  if (whole.scale.shape.empty()) return part;
  const int64_t block = whole.scheme.weight.format == QuantFormat::kFp8Block128 ? 128 : 1;
  if (first % block != 0 && first / block != (first + count - 1) / block) {
    throw_bad_input({.what = "blocks of scales that two groups of heads share",
                     .tensor = whole.name,
                     .expected = "o_lora_rank to be a multiple of 128, or a divisor of it",
                     .found = std::to_string(count)});
  }
  const int64_t begin = first / block, end = (first + count - 1) / block + 1;
  part.scale = rows_of(whole.scale, begin, end - begin);
  return part;
}

}  // namespace

void Builder::add_compressor(const std::string& at, const CompressToCache::Problem& problem,
                             bool exact, std::vector<LinearSpec>& inputs) {
  for (const char* name : {"wkv", "wgate"}) {
    inputs.push_back({.module = at + name, .out_features = problem.width(), .exact = exact});
  }
}

std::unique_ptr<Prepared<CompressToCache>> Builder::compressor(
    const std::string& role, const std::string& at, const CompressToCache::Problem& problem) {
  keeps(problem.cache());
  keeps(problem.state());
  return prepare<CompressToCache>(role, problem,
                                  {.bias = tensor(at + "ape", problem.ratio * problem.width()),
                                   .norm = tensor(at + "norm.weight", problem.dim)});
}

std::unique_ptr<Mixer> Builder::compressed_attention(const std::string& module,
                                                     CompressedAttentionSpec spec) {
  const std::string at = full_name(module) + ".", indexer = at + "indexer.";
  spec.cache_dtype = settings_.cache_dtype;
  CompressedAttentionParts parts;
  std::vector<LinearSpec> inputs = {{at + "wq_a", spec.q_latent_dim}, {at + "wkv", spec.head_dim}};
  std::vector<LinearSpec> queries = {{at + "wq_b", spec.q_width()}};
  if (spec.ratio > 0) add_compressor(at + "compressor.", spec.compress(), false, inputs);
  if (spec.index) {
    // The choice is exact, as a router's.
    add_compressor(indexer + "compressor.", spec.compress_index(), true, inputs);
    inputs.push_back(
        {.module = indexer + "weights_proj", .out_features = spec.index->num_heads, .exact = true});
    queries.push_back({.module = indexer + "wq_b",
                       .out_features = spec.index->num_heads * spec.index->dim,
                       .exact = true});
  }
  parts.inputs =
      linears(spec.ratio > 0 ? "down_and_compress_proj" : "down_proj", inputs, hidden_size_);
  parts.q_norm = prepare<AddNorm>("q_norm", {.width = spec.q_latent_dim, .norm = spec.norm},
                                  {.weight = tensor(at + "q_norm.weight", spec.q_latent_dim)});
  parts.queries = linears("q_proj", queries, spec.q_latent_dim);
  keeps(spec.attention().cache());
  parts.qkv_to_cache =
      prepare<QkvToCache>("qkv_to_cache", spec.qkv_to_cache(),
                          {.q_norm = {}, .k_norm = tensor(at + "kv_norm.weight", spec.head_dim)});
  if (spec.ratio > 0) {
    parts.compress = compressor("compress_to_cache", at + "compressor.", spec.compress());
  }
  if (spec.index) {
    parts.compress_index =
        compressor("index_to_cache", indexer + "compressor.", spec.compress_index());
    parts.choose_keys = prepare<ChooseKeys>("choose_keys", spec.choose_keys(), {});
  }
  parts.attention = prepare<CompressedAttention>(
      "attention", spec.attention(), {.sinks = tensor(at + "attn_sink", spec.num_heads)});
  const std::optional<LinearWeights> groups =
      linear({.module = at + "wo_a",
              .out_features = spec.num_groups * spec.o_latent_dim,
              .bias = {.key = "bias of wo_a", .there = false}},
             spec.q_width() / spec.num_groups);
  for (int64_t g = 0; groups && g < spec.num_groups; ++g) {
    parts.group_proj.push_back(
        group("group_proj",
              {.members = {outputs_of(*groups, g * spec.o_latent_dim, spec.o_latent_dim)}}));
  }
  if (groups && !is_describing()) packed(*groups);
  parts.o_proj =
      linears("o_proj", {{at + "wo_b", hidden_size_}}, spec.num_groups * spec.o_latent_dim);
  if (is_describing()) return nullptr;
  return std::make_unique<CompressedAttentionMixer>(spec, std::move(parts));
}

}  // namespace moe4
