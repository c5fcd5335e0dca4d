// LinearGroup: linears that read the same rows, as one op.
#pragma once

#include "moe/weights.h"
#include "ops/op.h"

namespace moe4 {

/// Whether linears quantise their inputs first.
struct LinearOptions {
  /// FP8 linears with an activation key quantise their inputs as it says.
  bool fp8_activations = false;
  /// W4A4 linears: kFp4 quantises with global scale 1, kFp4Static with the calibrated input scale;
  /// kAuto and kBf16 leave inputs as they are.
  ActivationMode activations = ActivationMode::kAuto;
  /// NVFP4 linears with unquantised inputs take them as float32 instead of 15-bit integers.
  bool exact_inputs = false;
};

/// y[i] = x W_i^T + bias_i for the linears i of the group (q, k and v; gate and up; a router
/// beside a shared expert): one packed product on a GPU, one parallel region on a CPU.
///
/// Weights are decoded exactly, in their own format; sums are float32. What is rounded of x:
/// nothing, or what LinearOptions says; NVFP4 linears on the CPU make of it 15-bit integers with a
/// power-of-two scale per 256 (relative error of a result: 2e-4), a GPU takes x as BF16 rows, or
/// rounds it to that. Rows of x are float32 or, on a GPU, BF16; so are those of each y.
struct LinearGroup {
  static constexpr std::string_view kName = "linear_group";
  struct Member {
    int64_t out_features = 0;
    QuantScheme scheme;
    LinearOptions options;
  };
  struct Problem {
    int64_t in_features = 0;
    std::vector<Member> members;
  };
  struct Weights {
    std::vector<LinearWeights> members;  ///< of the problem's sizes and schemes
  };
  struct Args {
    Rows x;                   ///< [T, in_features]
    std::span<const Rows> y;  ///< one a member: [T, out_features]; none aliases x or another
    /// The phase of each row: the first so many belong to generated tokens, the others to prompts.
    /// A GPU has an order of sums for each. -1: all are prompts'.
    int64_t num_decode_tokens = -1;
  };
  static void check(const Problem& problem, const Args& args);

  /// The problem that some weights pose, each with options of its own.
  static Problem problem_of(const Weights& weights, std::span<const LinearOptions> options);
};

}  // namespace moe4
