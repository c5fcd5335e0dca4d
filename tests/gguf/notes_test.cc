// What is said of tensors that stay as they are, and of those that become something else.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "checkpoint/checkpoint.h"
#include "gguf/gguf_writer.h"
#include "support/temp_dir.h"

namespace moe4 {
namespace {

using ::testing::ElementsAre;
using testing::GgufWriter;
using ::testing::IsEmpty;
using testing::TempDir;

constexpr uint32_t kQ8 = 8, kQ6K = 14;

GgufWriter small() {
  GgufWriter file;
  file.text("general.architecture", "qwen3moe").u32("qwen3moe.block_count", 1);
  file.u32("qwen3moe.embedding_length", 1024).u32("qwen3moe.attention.head_count", 2);
  file.u32("qwen3moe.attention.head_count_kv", 1).u32("qwen3moe.expert_count", 2);
  file.u32("qwen3moe.expert_used_count", 1).u32("qwen3moe.expert_feed_forward_length", 1024);
  file.floats("token_embd.weight", {1024, 4}, std::vector<float>(4096));
  file.floats("blk.0.attn_norm.weight", {4}, std::vector<float>(4));
  return file;
}

std::vector<std::string> notes_of(const GgufWriter& writer) {
  const TempDir folder;
  writer.write(folder / "model.gguf");
  const auto checkpoint = Checkpoint::open(folder / "model.gguf");
  std::vector<std::string> notes;
  for (const CheckpointNote& note : checkpoint->notes()) {
    notes.push_back(note.message);
  }
  return notes;
}

// Rows of 1024 elements are 32 blocks of 34 bytes: 2048 of them 2.1 MiB, as float32 8 MiB.
std::string rows_of_q8(int64_t rows) { return std::string(static_cast<size_t>(rows * 32 * 34), 0); }

TEST(GgufNotes, BlocksOfExpertsThatBecomeFloat32AreCounted) {
  GgufWriter writer = small();
  writer.tensor("blk.0.ffn_up_exps.weight", {1024, 1024, 2}, kQ8, rows_of_q8(2048));
  EXPECT_THAT(notes_of(writer),
              ElementsAre("tensors of Q8_0 become float32: 3 MiB of the file are 8 MiB in memory"));
}

TEST(GgufNotes, BlocksOfLinearsStayOnACpu) {
  GgufWriter writer = small();
  writer.tensor("blk.0.attn_q.weight", {1024, 2048}, kQ8, rows_of_q8(2048));
  writer.tensor("blk.0.ffn_up_exps.weight", {256, 4096, 2}, kQ6K,
                std::string(size_t{8192} * 210, 0));
  EXPECT_THAT(
      notes_of(writer),
      ElementsAre(
          "linears and embeddings of Q8_0 stay so on a CPU: 3 MiB, where a GPU takes 12 MiB",
          "other tensors of Q6_K become float32: 2 MiB of the file are 8 MiB in memory"));
}

TEST(GgufNotes, FloatsAreThemselves) { EXPECT_THAT(notes_of(small()), IsEmpty()); }

}  // namespace
}  // namespace moe4
