// LatentAttention: what calls must keep to, and who implements it.
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "moe/dequantize.h"
#include "numerics/bf16.h"
#include "ops/latent_attention/latent_attention.h"

namespace moe4 {

void LatentAttention::check(const Problem& problem, const Args& args) {
  const int64_t tokens = args.batch->num_tokens;
  MOE4_CHECK(args.q.rows == tokens && args.q.width == problem.q_width());
  MOE4_CHECK(args.angles.rows == tokens && args.angles.width == problem.rope_dim);
  MOE4_CHECK(args.y.rows == tokens && args.y.width == problem.y_width());
  MOE4_CHECK(args.cache.unit_bytes >=
             (problem.latent_dim + problem.rope_dim) * kPageTokens * size_of(problem.cache_dtype));
}

PlainMatrix decode_kv_b(const LatentAttention::Problem& problem, const LinearWeights& kv_b) {
  const int64_t rows = problem.num_heads * (problem.nope_dim + problem.value_dim);
  const int64_t columns = problem.latent_dim;
  if (kv_b.out_features != rows || kv_b.in_features != columns) {
    throw_bad_input({.what = "wrong shape",
                     .tensor = kv_b.name,
                     .expected = shape_to_string({rows, columns}),
                     .found = shape_to_string({kv_b.out_features, kv_b.in_features})});
  }
  if (!kv_b.bias.empty()) {
    throw_bad_input({.what = "unsupported bias of the latents' up projection",
                     .tensor = kv_b.name + ".bias",
                     .expected = "no bias",
                     .found = shape_to_string(kv_b.bias.shape)});
  }
  const bool is_bf16 =
      kv_b.scheme.weight.format == QuantFormat::kFloat && kv_b.weight.dtype == DType::kBF16;
  PlainMatrix matrix{.dtype = is_bf16 ? DType::kBF16 : DType::kF32, .columns = columns};
  matrix.data.resize(rows * columns * size_of(matrix.dtype));
  std::vector<float> row(columns);
  std::vector<Bf16> rounded(is_bf16 ? columns : 0);  // exactly
  for (int64_t i = 0; i < rows; ++i) {
    dequantize_row(kv_b, i, row.data());
    for (int64_t c = 0; c < columns; ++c) {
      if (std::isfinite(row[c])) continue;
      throw_bad_input({.what = "a weight that is no number",
                       .tensor = kv_b.name,
                       .expected = "finite values and scales",
                       .found = "row " + std::to_string(i) + ", column " + std::to_string(c)});
    }
    const void* from = row.data();
    if (is_bf16) {
      for (int64_t c = 0; c < columns; ++c) rounded[c] = to_bf16(row[c]);
      from = rounded.data();
    }
    std::memcpy(matrix.data.data() + i * columns * size_of(matrix.dtype), from,
                columns * size_of(matrix.dtype));
  }
  return matrix;
}

const Implementation<LatentAttention>& cpu_latent_attention();
const Implementation<LatentAttention>& cuda_latent_attention();
const Implementation<LatentAttention>& reference_latent_attention();

template <>
std::span<const Implementation<LatentAttention>* const> implementations<LatentAttention>() {
  static const Implementation<LatentAttention>* const list[] = {
      &cpu_latent_attention(), &cuda_latent_attention(), &reference_latent_attention()};
  return list;
}

}  // namespace moe4
