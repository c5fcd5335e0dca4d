// Random linears in every weight format, for the suites of LinearGroup and Embed.
#pragma once

#include "ops/conformance.h"
#include "ops/linear/linear_group.h"

namespace moe4::testing {

struct LinearFormat {
  const char* name;
  QuantScheme scheme;
  DType float_dtype = DType::kBF16;
  LinearOptions options = {};
  double cpu_tolerance = 5e-7;
  DType scale_dtype = DType::kF32;  ///< of FP8 channel and block scales
};

/// Of float32 sums of exact products. Tensor cores cut off what a sum cannot hold, so that the
/// error of a chain of sums grows with its length.
inline double linear_tolerance(const LinearFormat& format, const OpOptions& options, int64_t k) {
  return options.device.is_cpu() ? format.cpu_tolerance : 1e-6 + 1.5e-9 * static_cast<double>(k);
}

inline const LinearFormat kLinearFormats[] = {
    {"bf16", kUnquantized, DType::kBF16},
    {"f16", kUnquantized, DType::kF16},
    {"f32", kUnquantized, DType::kF32},
    {"nvfp4, inputs as integers of 15 bits on a CPU", kW4A4, DType::kBF16, {}, 1e-4},
    {"fp8_tensor", {{QuantFormat::kFp8Tensor, false}, QuantKey{QuantFormat::kFp8Tensor, false}}},
    {"fp8_channel", {{QuantFormat::kFp8Channel, false}, QuantKey{QuantFormat::kFp8Token, true}}},
    {"fp8_block", {{QuantFormat::kFp8Block128, false}, QuantKey{QuantFormat::kFp8Block128, true}}},
    {"nvfp4, FP4 inputs", kW4A4, DType::kBF16, {.activations = ActivationMode::kFp4}},
    {"nvfp4, exact inputs", kW4A4, DType::kBF16, {.exact_inputs = true}},
    {"mxfp4, inputs as integers of 15 bits on a CPU", kMxfp4W4A16, DType::kBF16, {}, 1e-4},
    {"fp8_block with BF16 scales",
     {{QuantFormat::kFp8Block128, false}, std::nullopt},
     DType::kBF16,
     {},
     5e-7,
     DType::kBF16},
    {"q8_0", {{QuantFormat::kQ8_0, false}, std::nullopt}},
};

/// Rows are a multiple of this long.
inline int64_t block_inputs(const LinearFormat& format) {
  if (const GgmlType* type = ggml_type_of(format.scheme.weight.format)) return type->block_elements;
  return format.scheme.is_mxfp4() ? 32 : 16;
}

/// Bytes of a row's first block that its elements are multiplied by, or less by: the upper ones of
/// F16 numbers, and one of each kind of small integers.
inline std::vector<int64_t> ggml_factor_bytes(const LinearFormat& format) {
  switch (format.scheme.weight.format) {
    case QuantFormat::kQ8_0:
      return {1};
    default:
      return {};
  }
}

inline LinearWeights make_linear(RandomMoe& memory, const LinearFormat& format, int64_t n,
                                 int64_t k, bool bias = true) {
  Random random(static_cast<uint64_t>(n * 1000 + k));
  RandomMoeOptions options{.scheme = format.scheme, .awkward_scales = true, .biases = bias};
  // 2^-127 beside 1 is more than some kernels hold exactly, and they say so.
  if (format.scheme.is_mxfp4()) options.awkward_scales = false;
  options.float_dtype = format.float_dtype;
  options.fp8_scale_dtype = format.scale_dtype;
  return internal::random_linear(memory, options, random, "linear", n, k, 1.0f);
}

/// One linear, or several of the same inputs.
struct LinearCase {
  LinearGroup::Weights weights;
  std::vector<LinearOptions> options;

  LinearGroup::Problem problem() const { return LinearGroup::problem_of(weights, options); }
};

inline LinearCase one_linear(const LinearWeights& weights, const LinearOptions& options) {
  return {{{weights}}, {options}};
}

/// Normal inputs: BF16 numbers where a device may take them as such.
inline OwnedRows linear_inputs(int64_t tokens, int64_t k) {
  const RowFormat format = activation_formats().back();
  return OwnedRows(tokens, k, 99, 1.0f, format).as(RowFormat::kF32);
}

/// Outputs of all members, one after the other, in rows of `format`.
inline std::vector<std::vector<float>> run_linears(const Prepared<LinearGroup>& op, OwnedRows x,
                                                   ThreadPool& threads, int64_t decodes = -1,
                                                   RowFormat format = RowFormat::kF32) {
  std::vector<OwnedRows> y;
  std::vector<Rows> views;
  for (const LinearGroup::Member& member : op.problem().members) {
    y.emplace_back(x.rows, member.out_features, -7.0f, format);
  }
  for (OwnedRows& rows : y) views.push_back(rows.view());
  run_op(op, {.x = x.view(), .y = views, .num_decode_tokens = decodes}, threads);
  std::vector<std::vector<float>> results;
  for (OwnedRows& rows : y) results.push_back(rows.dense());
  return results;
}

inline std::vector<std::vector<float>> exact_linears(const LinearCase& group, const OwnedRows& x) {
  ThreadPool threads(1);
  return run_linears(*reference_of<LinearGroup>().prepare(group.problem(), group.weights, {}), x,
                     threads);
}

/// Some rows of others.
inline OwnedRows some_rows(const OwnedRows& all, int64_t begin, int64_t count) {
  OwnedRows part(count, all.width, NAN, all.format);
  for (int64_t r = 0; r < count; ++r) {
    for (int64_t c = 0; c < all.width; ++c) part.set(r, c, all.at(begin + r, c));
  }
  return part;
}

}  // namespace moe4::testing
