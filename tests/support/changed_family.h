// Small checkpoints of tests/data, changed: what becomes of their logits, and what is refused.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "models/model.h"
#include "support/editable_checkpoint.h"
#include "support/golden.h"

namespace moe4::testing {

/// Of a checkpoint by its name below tests/data/checkpoints: where it is, and what transformers
/// said.
std::filesystem::path folder_of(const std::string& name);
Golden golden_of(const std::string& name);

/// In float32, experts by the reference.
std::unique_ptr<Model> load_float32(const std::filesystem::path& folder, ThreadPool& threads);
/// [tokens, vocab_size], of all tokens.
std::vector<float> logits_of(const std::filesystem::path& folder, const std::vector<int32_t>& ids);

/// Largest difference as a part of the largest value; infinite where the sizes differ or a is NaN.
double worst(std::span<const float> a, std::span<const float> b);

using Change = std::function<void(EditableCheckpoint&)>;
/// A patch of config.json, and of the text model in a wrapper's.
Change with(const nlohmann::json& patch);
Change with_text(const nlohmann::json& patch);

/// Logits for the golden's ids after a change, and without one.
std::vector<float> logits_after(const std::string& name, const Change& change);
std::vector<float> plain(const std::string& name);

/// What refusals() says after a change; "" when nothing is refused.
std::string error_after(const std::string& name, const Change& change);

struct Refused {
  nlohmann::json patch;  ///< of config.json
  const char* word;      ///< that the message must have
};
void expect_refused(const std::string& name, const std::vector<Refused>& cases);
/// Each of the tensors is asked for by name when it is not there.
void expect_missed(const std::string& name, const std::vector<const char*>& tensors);

/// Correction biases lie so close that BF16 makes some of them equal, and the choice another one:
/// logits tell whether the float32 of `bias` [experts] is read as such.
void expect_that_bf16_loses(const std::string& name, const std::string& bias, size_t experts);

}  // namespace moe4::testing
