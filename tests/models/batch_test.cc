// Many sequences in one step: the logits of each are those that it has alone, bit for bit, and a
// step allocates nothing.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <numeric>

#include "ops/experts/registry.h"
#include "support/allocations.h"
#include "support/random_moe.h"
#include "support/sequence.h"

namespace moe4 {
namespace {

using testing::LogitsFor;
using testing::Sequence;

namespace fs = std::filesystem;

struct Case {
  const char* folder;
  DType dtype;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.folder << " " << to_string(c.dtype); }

std::unique_ptr<Model> load(const Case& c, ThreadPool& threads) {
  register_builtin_backends();
  const auto checkpoint = Checkpoint::open(fs::path(MOE4_TEST_DATA) / "checkpoints" / c.folder);
  return Model::load(*checkpoint, {.compute_dtype = c.dtype, .threads = &threads});
}

bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

// A sequence on its way through a runner that it shares.
struct Request {
  std::vector<int32_t> ids;
  int64_t done = 0;
  std::vector<int32_t> pages;
  int32_t slot = 0;
  std::vector<float> logits;  // of all its tokens so far
  std::vector<float> alone;   // what they must be
};

constexpr int64_t kRequests = 6, kContext = 200;

std::vector<Request> make_requests(const Model& model) {
  testing::Random random(3);
  std::vector<Request> requests(kRequests);
  const int64_t blocks = ceil_div(kContext, kPageTokens);
  for (int64_t r = 0; r < kRequests; ++r) {
    Request& request = requests[r];
    request.ids.resize(40 + random.below(kContext - 40));
    for (int32_t& id : request.ids) id = static_cast<int32_t>(random.below(300));
    // Pages of all requests are interleaved and run backwards.
    for (int64_t b = blocks - 1; b >= 0; --b) {
      request.pages.push_back(static_cast<int32_t>(b * kRequests + r));
    }
    request.slot = static_cast<int32_t>(kRequests - 1 - r);
    Sequence sequence(model, kContext);
    sequence.forward(request.ids, LogitsFor::kAllTokens, request.alone);
  }
  return requests;
}

class Batches : public ::testing::TestWithParam<Case> {};

TEST_P(Batches, EverySequenceHasTheLogitsThatItHasAlone) {
  ThreadPool threads(3);
  const auto model = load(GetParam(), threads);
  const int64_t vocab = model->config().vocab_size;
  std::vector<Request> requests = make_requests(*model);
  Runner runner(*model, {.step = {.max_tokens = 150,
                                  .max_seqs = kRequests,
                                  .max_context = kContext,
                                  .max_logits = 150},
                         .num_pages = kRequests * ceil_div(kContext, kPageTokens),
                         .num_state_slots = kRequests});
  testing::Random random(4);
  // The second round takes pages and slots as the first left them.
  for (int round = 0; round < 2; ++round) {
    for (Request& r : requests) {
      r.done = 0;
      r.logits.clear();
    }
    for (int step = 0; step < 400; ++step) {
      // Some generate a token, some take a piece of their prompt, some wait or are done.
      std::vector<SequencePiece> pieces;
      std::vector<Request*> owners;
      const auto add = [&](Request& r, int64_t tokens, bool decode) {
        pieces.push_back({.token_ids = std::span(r.ids).subspan(r.done, tokens),
                          .context = r.done,
                          .pages = r.pages,
                          .state_slot = r.slot,
                          .is_decode = decode,
                          .num_logits = tokens});
        owners.push_back(&r);
      };
      std::vector<bool> used(kRequests);
      for (int64_t i = 0; i < kRequests; ++i) {
        Request& r = requests[i];
        if (r.done < 30 || r.done == static_cast<int64_t>(r.ids.size())) continue;
        if ((used[i] = random.below(3) > 0)) add(r, 1, true);
      }
      for (int64_t i = 0; i < kRequests; ++i) {
        Request& r = requests[i];
        const int64_t left = static_cast<int64_t>(r.ids.size()) - r.done;
        if (used[i] || random.below(2) == 0) continue;
        add(r, std::min<int64_t>(left, random.below(24)), false);  // sometimes no token at all
      }
      const int64_t before = testing::allocations();
      const float* logits = runner.run(pieces).logits.row(0);
      EXPECT_EQ(testing::allocations() - before, 0) << "a step must not allocate";
      size_t at = 0;
      for (size_t i = 0; i < pieces.size(); ++i) {
        Request& r = *owners[i];
        const size_t values = pieces[i].token_ids.size() * static_cast<size_t>(vocab);
        r.logits.insert(r.logits.end(), logits + at, logits + at + values);
        r.done += static_cast<int64_t>(pieces[i].token_ids.size());
        at += values;
      }
    }
    for (size_t i = 0; i < requests.size(); ++i) {
      ASSERT_EQ(requests[i].done, static_cast<int64_t>(requests[i].ids.size()));
      EXPECT_TRUE(same_bits(requests[i].logits, requests[i].alone)) << "request " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, Batches,
    ::testing::Values(
        Case{"qwen3-modelopt-nvfp4", DType::kBF16}, Case{"gpt_oss-mxfp4", DType::kF32},
        Case{"nemotron_h-nano", DType::kF32}, Case{"nemotron_h-super", DType::kBF16},
        Case{"qwen3_5-modelopt-mixed-prefix", DType::kBF16},
        Case{"qwen3_5-ct-nvfp4a16", DType::kF32}, Case{"deepseek_v3-modelopt-nvfp4", DType::kBF16},
        Case{"gemma4-modelopt-nvfp4", DType::kF32}, Case{"glm4_moe-modelopt-nvfp4", DType::kF32},
        Case{"minimax_m2-modelopt-nvfp4", DType::kF32},
        Case{"qwen3_next-modelopt-nvfp4", DType::kBF16},
        Case{"mixtral-modelopt-nvfp4", DType::kBF16},
        Case{"ernie4_5_moe-modelopt-w4a16", DType::kF32}, Case{"mistral4-ct-nvfp4", DType::kBF16},
        Case{"laguna-modelopt-nvfp4", DType::kF32}, Case{"llama4-modelopt-nvfp4", DType::kBF16},
        Case{"mimo_v2_flash-modelopt-nvfp4", DType::kF32},
        Case{"step3p7-modelopt-nvfp4", DType::kF32},
        Case{"deepseek_v32-modelopt-nvfp4", DType::kF32},
        Case{"glm_moe_dsa-modelopt-nvfp4", DType::kBF16},
        Case{"minimax_m3-modelopt-mixed", DType::kF32},
        Case{"deepseek_v4-modelopt-fp8", DType::kF32}, Case{"deepseek_v4-mxfp4", DType::kF32}));

}  // namespace
}  // namespace moe4
