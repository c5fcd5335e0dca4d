// Sample: the next token of every row of logits.
#pragma once

#include <numbers>

#include "ops/op.h"

namespace moe4 {

struct LogitBias {
  int32_t id = 0;
  float bias = 0.0f;
};

/// How one row is sampled. Lies on the op's device, as do all lists that it names a part of.
struct SampleRow {
  double scale = 0;  ///< sample_scale(temperature); 0: greedy, where all up to top_p has no meaning
  double least = -44;   ///< sample_least(min_p): exponents from here up stay
  uint64_t random = 0;  ///< uniform; where in the distribution the token lies
  int32_t top_k = 0;    ///< 0: off
  float top_p = 1.0f;   ///< 1: off
  float repetition_penalty = 1.0f, presence_penalty = 0.0f, frequency_penalty = 0.0f;
  int32_t counts = -1;  ///< row of Args::counts; -1: no penalties
  int32_t mask = -1;    ///< row of Args::masks; -1: all tokens may be chosen
  int32_t edited = -1;  ///< 0 .. num_edited - 1, each once, of rows with any of the edits; -1: none
  int32_t first_forbidden = 0, num_forbidden = 0;  ///< of Args::forbidden
  int32_t first_bias = 0, num_biases = 0;          ///< of Args::biases, ids distinct
};

/// 2 to the power of (logit - max) * scale is a token's weight.
inline double sample_scale(float temperature) {
  return temperature > 0 ? std::numbers::log2e / static_cast<double>(temperature) : 0.0;
}
/// Exponents of weights that are at least `min_p` of the largest, and 2^-44.
double sample_least(float min_p);

enum class SampleStatus : int32_t {
  kChosen = 0,
  kBadLogits = 1,    ///< a logit is NaN or +infinity
  kNothingLeft = 2,  ///< no logit above -infinity is left
};

/// In the order of vLLM, for each row r of logits l [V]:
///
/// 1. Edits, in float32, results cut at the largest number: tokens whose bit in the mask is 0 and
///    forbidden ones become -infinity; l += bias; where counts[r, i] is above 0: l *=
///    repetition_penalty below zero, l /= repetition_penalty from zero up, then for a token that
///    was generated n = counts[r, i] - 1 times, n above 0: l -= frequency_penalty * n,
///    l -= presence_penalty.
/// 2. Greedy: the largest l, the lowest id of equals.
/// 3. Otherwise e_i = (l_i - max l) * scale, and those below `least` leave (all of weights below
///    2^-44 of the largest: together they are less than 2^-25). Of the others the top_k largest l
///    stay, with all that equal the last of them. The weight of each is the integer
///    w_i = sample_weight(e_i), 2^44 * 2^e_i to one part in 2^41.
/// 4. top_p: in the order of falling l, rising id, those stay in front of which less than
///    ceil(top_p * sum w), and at least 1, lies.
/// 5. By rising id the chosen one holds the point floor(random * sum w / 2^64) of what is left.
///
/// Integers make every implementation choose the same token: no sum depends on its order. A row
/// with kBadLogits or kNothingLeft gets the id -1. Log probabilities are those of the logits as
/// they came: l_i - max l - log(sum exp(l - max l)); of a row without a token they mean nothing.
struct Sample {
  static constexpr std::string_view kName = "sample";
  static constexpr int64_t kMaxTop = 32;
  struct Problem {
    int64_t vocab_size = 0;  ///< V, at most 2^19
  };
  struct Weights {};
  struct Args {
    Rows logits;                      ///< [R, V], float32
    const SampleRow* rows = nullptr;  ///< [R]
    /// [., ceil(V / 64)]: bit i of the row's bits is token i's.
    const uint64_t* masks = nullptr;
    const int32_t* forbidden = nullptr;  ///< ids; those outside the vocabulary have no effect
    const LogitBias* biases = nullptr;   ///< ids of the vocabulary
    /// [., V]: 0 for a token that has not come yet, else 1 + how often it was generated. The chosen
    /// token is counted.
    int32_t* counts = nullptr;

    int32_t* ids = nullptr;          ///< [R]
    SampleStatus* status = nullptr;  ///< [R]
    float* logprobs = nullptr;       ///< [R], of the chosen; or null
    int64_t num_top = 0;             ///< up to kMaxTop and V; 0 without logprobs
    int32_t* top_ids = nullptr;      ///< [R, num_top], by falling logit, rising id
    float* top_logprobs = nullptr;   ///< [R, num_top]

    // What the host promises of the rows.
    int64_t num_edited = 0;     ///< rows with edits
    bool any_sampled = true;    ///< some row may not be greedy
    bool any_truncated = true;  ///< some row that is not greedy may have top_k or top_p
  };
  static void check(const Problem& problem, const Args& args);
};

}  // namespace moe4
