// Every launch of every golden's steps, of all sizes, held against what GPUs allow. Needs no GPU:
// the runtime is a stand-in (support/cuda_stand_in.h), so nothing is computed.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "device/cuda/describe_device.h"
#include "engine/runner.h"
#include "models/model.h"
#include "ops/experts/registry.h"
#include "support/cuda_stand_in.h"
#include "support/gpu_folders.h"
#include "support/temp_dir.h"
#include "synth/synth.h"

namespace moe4 {
namespace {

namespace fs = std::filesystem;
using testing::StandInGpu;

// A100, H100 and H200, RTX 5090 and GB10 (CUDA C++ Programming Guide, compute capabilities).
constexpr StandInGpu kGpus[] = {
    {.sm = 80, .sm_count = 108, .shared_bytes = 163 << 10},
    {.sm = 90, .sm_count = 132, .shared_bytes = 227 << 10},
    {.sm = 120, .sm_count = 170, .shared_bytes = 99 << 10},
    {.sm = 121, .sm_count = 48, .shared_bytes = 99 << 10},
};

constexpr int64_t kMostSeqs = 257, kContext = 200, kPagesOfSeq = 4;

struct Steps {
  explicit Steps(const Model& model)
      : runner(model, {.step = {.max_tokens = 1024,
                                .max_seqs = kMostSeqs,
                                .max_context = kPagesOfSeq * kPageTokens,
                                .max_logits = kMostSeqs},
                       .num_pages = kPagesOfSeq,
                       .num_state_slots = 1}),
        pages(static_cast<size_t>(kPagesOfSeq)),
        ids(1024, 1) {
    for (size_t i = 0; i < pages.size(); ++i) pages[i] = static_cast<int32_t>(i);
  }
  SequencePiece piece(int64_t tokens, bool is_decode) const {
    return {.token_ids = std::span(ids).first(static_cast<size_t>(tokens)),
            .context = is_decode ? kContext : 0,
            .pages = pages,
            .state_slot = 0,
            .is_decode = is_decode,
            .num_logits = 1};
  }
  // `decodes` sequences that generate and, unless 0, a prompt of so many tokens.
  void run(int64_t decodes, int64_t prompt) {
    std::vector<SequencePiece> pieces(static_cast<size_t>(decodes), piece(1, true));
    if (prompt > 0) pieces.push_back(piece(prompt, false));
    runner.run(pieces);
  }

  Runner runner;
  std::vector<int32_t> pages, ids;
};

void try_all_sizes(const fs::path& folder, const StandInGpu& gpu, ThreadPool& threads) {
  SCOPED_TRACE(folder.filename().string() + " on sm_" + std::to_string(gpu.sm));
  testing::use_stand_in(gpu);
  const auto checkpoint = Checkpoint::open(folder);
  ModelOptions options{.threads = &threads};
  options.moe.device = cuda::describe_device(0);
  const int64_t before = testing::stand_in_launches();
  try {
    const auto model = Model::load(*checkpoint, options);
    Steps steps(*model);  // records graphs of all sizes
    for (const int64_t prompt : {1, 2, 3, 15, 16, 17, 63, 64, 65, 128, 129, 200}) {
      steps.run(0, prompt);
    }
    for (int64_t decodes = 1; decodes < kMostSeqs; decodes += decodes < 40 ? 1 : 23) {
      steps.run(decodes, 64);  // with a prompt: launch by launch, no graph
    }
    steps.run(kMostSeqs - 1, 0);
  } catch (const Error& error) {
    ADD_FAILURE() << error.what();
  }
  EXPECT_EQ(testing::take_refused_launches(), std::vector<std::string>());
  EXPECT_GT(testing::stand_in_launches() - before, 1000) << "nothing was launched";
}

TEST(GpuLaunches, StepsOfAllSizesAskForNoMoreThanAGpuGives) {
  register_builtin_backends();
  ThreadPool threads(2);
  for (const std::string& name : testing::gpu_folders()) {
    for (const StandInGpu& gpu : kGpus) {
      try_all_sizes(testing::test_data() / "checkpoints" / name, gpu, threads);
    }
  }
}

// Partial results of attention are most of what a step without a prompt needs.
TEST(GpuLaunches, GeneratedTokensHaveTheirWorkspaceWhereStepsHaveNoRoomForMore) {
  register_builtin_backends();
  ThreadPool threads(2);
  constexpr int64_t kSeqs = 64, kPages = 64;
  testing::use_stand_in(kGpus[1]);
  for (const std::string& name : testing::gpu_folders()) {
    SCOPED_TRACE(name);
    const auto checkpoint = Checkpoint::open(testing::test_data() / "checkpoints" / name);
    ModelOptions options{.threads = &threads};
    options.moe.device = cuda::describe_device(0);
    const auto model = Model::load(*checkpoint, options);
    // It records graphs of all sizes and contexts.
    EXPECT_NO_THROW(Runner(*model, {.step = {.max_tokens = kSeqs,
                                             .max_seqs = kSeqs,
                                             .max_context = kPages * kPageTokens,
                                             .max_logits = kSeqs},
                                    .num_pages = kPages,
                                    .num_state_slots = 1}));
  }
  testing::take_refused_launches();
}

// Layers of the full width take kernels that the goldens are too small for.
TEST(GpuLaunches, FullSizeLayersAskForNoMoreThanAGpuGives) {
  register_builtin_backends();
  ThreadPool threads(2);
  const std::pair<const char*, SynthFormat> kinds[] = {
      {"qwen3.6-35b-a3b", SynthFormat::kModelOptMixed},
      {"qwen3-30b-a3b", SynthFormat::kModelOptNvfp4}};
  for (const auto& [preset, format] : kinds) {
    const testing::TempDir folder;
    write_synthetic_checkpoint(
        folder / preset, {.preset = preset, .num_layers = 4, .num_experts = 16, .format = format});
    for (const StandInGpu& gpu : kGpus) try_all_sizes(folder / preset, gpu, threads);
  }
}

// The stand-in itself: it must refuse what a GPU refuses.
TEST(GpuLaunches, TheStandInRefuses) {
  register_builtin_backends();
  ThreadPool threads(2);
  const fs::path folder = testing::test_data() / "checkpoints" / "qwen3-modelopt-nvfp4";
  testing::use_stand_in({.sm = 90, .sm_count = 132, .shared_bytes = 16 << 10});
  const auto checkpoint = Checkpoint::open(folder);
  ModelOptions options{.threads = &threads};
  options.moe.device = cuda::describe_device(0);
  EXPECT_THROW(
      {
        const auto model = Model::load(*checkpoint, options);
        Steps steps(*model);
        steps.run(4, 64);
      },
      Error);
  testing::take_refused_launches();
}

}  // namespace
}  // namespace moe4
