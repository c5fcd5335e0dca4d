// What is said of tensors that become something else.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "checkpoint/gguf_notes.h"
#include "gguf/gguf_writer.h"
#include "support/temp_dir.h"

namespace moe4 {
namespace {

using ::testing::ElementsAre;
using testing::GgufWriter;
using ::testing::IsEmpty;
using testing::TempDir;

std::vector<std::string> notes_of(const GgufWriter& writer) {
  const TempDir folder;
  writer.write(folder / "model.gguf");
  return gguf_notes(GgufModel::open(folder / "model.gguf"));
}

// Rows of 1024 elements are 32 blocks of 34 bytes: 2048 of them 2.1 MiB, as float32 8 MiB.
TEST(GgufNotes, BlocksThatBecomeFloat32AreCounted) {
  constexpr uint32_t kF32 = 0, kQ8 = 8;
  GgufWriter writer;
  writer.tensor("a", {1024, 2048}, kQ8, std::string(size_t{2048} * 32 * 34, '\0'));
  writer.tensor("b", {4}, kF32, std::string(16, '\0'));
  EXPECT_THAT(notes_of(writer),
              ElementsAre("tensors of Q8_0 become float32: 3 MiB of the file are 8 MiB in memory"));
}

TEST(GgufNotes, FloatsAreThemselves) {
  GgufWriter writer;
  writer.tensor("b", {4}, 0, std::string(16, '\0'));
  EXPECT_THAT(notes_of(writer), IsEmpty());
}

}  // namespace
}  // namespace moe4
