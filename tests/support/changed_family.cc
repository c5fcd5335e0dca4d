// How checkpoints are changed, loaded and compared.
#include "support/changed_family.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "models/refusals.h"
#include "numerics/bf16.h"
#include "ops/experts/registry.h"
#include "support/sequence.h"
#include "support/temp_dir.h"

namespace moe4::testing {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::HasSubstr;

fs::path folder_of(const std::string& name) {
  return fs::path(MOE4_TEST_DATA) / "checkpoints" / name;
}
Golden golden_of(const std::string& name) {
  return Golden(folder_of(name) / "golden/w4a16.safetensors");
}

std::unique_ptr<Model> load_float32(const fs::path& folder, ThreadPool& threads) {
  register_builtin_backends();
  const auto checkpoint = Checkpoint::open(folder);
  ModelOptions options{.compute_dtype = DType::kF32, .threads = &threads};
  options.moe.backend = "reference";
  return Model::load(*checkpoint, options);
}

std::vector<float> logits_of(const fs::path& folder, const std::vector<int32_t>& ids) {
  ThreadPool threads(2);
  const auto model = load_float32(folder, threads);
  Sequence sequence(*model, static_cast<int64_t>(ids.size()));
  std::vector<float> logits;
  sequence.forward(ids, LogitsFor::kAllTokens, logits);
  return logits;
}

double worst(std::span<const float> a, std::span<const float> b) {
  double difference = 0, largest = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    difference = std::max(difference, std::abs(static_cast<double>(a[i]) - b[i]));
    largest = std::max(largest, std::abs(static_cast<double>(b[i])));
    if (std::isnan(a[i])) return INFINITY;
  }
  return a.size() == b.size() ? difference / largest : INFINITY;
}

std::vector<float> logits_after(const std::string& name, const Change& change) {
  EditableCheckpoint checkpoint(name);
  change(checkpoint);
  TempDir dir;
  checkpoint.write(dir.path());
  return logits_of(dir.path(), golden_of(name).ints("input_ids"));
}
Change with(const json& patch) {
  return [patch](EditableCheckpoint& c) { c.config.merge_patch(patch); };
}
Change with_text(const json& patch) { return with({{"text_config", patch}}); }
std::vector<float> plain(const std::string& name) {
  return logits_after(name, [](EditableCheckpoint&) {});
}

std::string error_after(const std::string& name, const Change& change) {
  EditableCheckpoint checkpoint(name);
  change(checkpoint);
  TempDir dir;
  checkpoint.write(dir.path());
  std::string message;
  try {
    for (const Refusal& refusal : refusals(*Checkpoint::open(dir.path(), {.headers_only = true}))) {
      message += refusal.message + "\n";
    }
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    message += error.what();
  }
  return message;
}

void expect_refused(const std::string& name, const std::vector<Refused>& cases) {
  EXPECT_EQ(error_after(name, [](EditableCheckpoint&) {}), "");
  for (const Refused& c : cases) {
    EXPECT_THAT(error_after(name, with(c.patch)), HasSubstr(c.word)) << c.patch;
  }
}

void expect_missed(const std::string& name, const std::vector<const char*>& tensors) {
  for (const char* tensor : tensors) {
    EXPECT_THAT(
        error_after(
            name, [&](EditableCheckpoint& c) { ASSERT_EQ(c.tensors.erase(tensor), 1u) << tensor; }),
        HasSubstr(tensor));
  }
}

void expect_that_bf16_loses(const std::string& name, const std::string& bias, size_t experts) {
  const auto round = [&](EditableCheckpoint& c) {
    ASSERT_EQ(c.tensors.at(bias).dtype, DType::kF32);
    auto* values = reinterpret_cast<float*>(c.tensors.at(bias).bytes.data());
    for (size_t i = 0; i < experts; ++i) values[i] = round_to_bf16(values[i]);
  };
  EXPECT_GT(worst(logits_after(name, round), plain(name)), 1e-3);
}

}  // namespace moe4::testing
