// NormRoute: bits of the three ops that it consists of.
#include "ops/norm_route/norm_route.h"

#include <gtest/gtest.h>

#include "ops/linear_formats.h"

namespace moe4 {
namespace {

using namespace moe4::testing;

struct Case {
  int64_t width = 2048;
  RouterConfig route;
  bool correction_bias = false, expert_scale = false, linear_bias = false;
  NormSpec norm = {};
  float scale = 1.0f;  // of the residual
};

const Case kCases[] = {
    {.route = {.num_experts = 256, .top_k = 8, .shared_experts = 1, .shared_gate = true}},
    {.route = {.num_experts = 128, .top_k = 8}, .norm = {.one_plus = true}},
    {.width = 4096, .route = {.num_experts = 8, .top_k = 2}, .scale = 0.7f},
    {.width = 2880,
     .route = {.scoring = ScoringFunction::kSoftmaxOverSelected, .num_experts = 128, .top_k = 4},
     .linear_bias = true},
    {.width = 3072,
     .route = {.scoring = ScoringFunction::kSigmoid,
               .num_experts = 256,
               .top_k = 8,
               .scaling_factor = 2.5f},
     .correction_bias = true},
    {.route = {.scoring = ScoringFunction::kSigmoid,
               .num_experts = 64,
               .top_k = 6,
               .renormalize = false,
               .scaling_factor = 1.8f,
               .shared_experts = 2},
     .correction_bias = true,
     .expert_scale = true},
    {.route = {.num_experts = 512, .top_k = 10, .shared_experts = 1, .shared_gate = true}},
    {.route = {.num_experts = 512, .top_k = 16, .renormalize = false}, .norm = {.eps = 0.5f}},
    // Widths of incomplete chunks, warps of the norm and shares.
    {.width = 1000, .route = {.num_experts = 37, .top_k = 5}, .correction_bias = true},
    {.width = 456, .route = {.num_experts = 60, .top_k = 4}, .norm = {.has_weight = false}},
    {.width = 3544, .route = {.num_experts = 200, .top_k = 16, .shared_experts = 1}}};

struct Parts {
  Parts(const Case& c, const OpOptions& options)
      : weight(normals(c.width, 1, 0.3f, 1.0f)), linears{{}, {}} {
    linears.weights.members.push_back(
        make_linear(memory, kLinearFormats[0], c.route.num_experts, c.width, c.linear_bias));
    if (c.route.shared_gate) {
      linears.weights.members.push_back(make_linear(memory, kLinearFormats[0], 1, c.width, false));
    }
    linears.options.resize(linears.weights.members.size());
    problem = {.norm = {.width = c.width, .norm = c.norm},
               .router = linears.problem(),
               .bf16_router = true,
               .route = c.route};
    norm = prepare<AddNorm>(problem.norm, {tensor_of(weight)}, options);
    router = prepare<LinearGroup>(problem.router, linears.weights, options);
    const int64_t experts = c.route.num_experts;
    const Route::Weights values{
        c.correction_bias ? normals(experts, 11, 0.3f) : std::vector<float>{},
        c.expert_scale ? normals(experts, 13, 0.3f, 1.0f) : std::vector<float>{}};
    route = prepare<Route>(problem.route, values, options);
    weights = {norm.get(), router.get(), route.get()};
  }

  std::vector<float> weight;
  RandomMoe memory;
  LinearCase linears;
  NormRoute::Problem problem;
  std::unique_ptr<Prepared<AddNorm>> norm;
  std::unique_ptr<Prepared<LinearGroup>> router;
  std::unique_ptr<Prepared<Route>> route;
  NormRoute::Weights weights;
};

struct Results {
  std::vector<float> residual, y;
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

struct Call {
  int64_t tokens = 1, decodes = 1, real = 1;  // rows from `real` on are padding
};

Results run_norm_route(const Prepared<NormRoute>& op, const Case& c, const Call& call,
                       ThreadPool& threads) {
  const RowFormat format = activation_formats().back();
  const int64_t slots = c.route.num_slots();
  OwnedRows residual(call.tokens, c.width, 2, 3.0f);
  OwnedRows delta(call.tokens, c.width, 3, 1.0f, format);
  for (int64_t r = call.real; r < call.tokens; ++r) {
    for (int64_t k = 0; k < c.width; ++k) residual.set(r, k, NAN);
  }
  OwnedRows y(call.tokens, c.width, -7.0f, format);
  Results results;
  results.ids.assign(static_cast<size_t>(call.tokens * slots), -7);
  results.weights.assign(static_cast<size_t>(call.tokens * slots), -7.0f);
  const std::vector<int32_t> num_rows = {static_cast<int32_t>(call.real)};
  run_op(op,
         {.residual = residual.view(),
          .delta = delta.view(),
          .scale = c.scale,
          .y = y.view(),
          .topk_ids = results.ids.data(),
          .topk_weights = results.weights.data(),
          .num_rows = call.real < call.tokens ? num_rows.data() : nullptr,
          .num_decode_tokens = call.decodes},
         threads);
  results.residual = residual.dense();
  results.y = y.dense();
  return results;
}

/// The three ops by themselves.
Results run_one_by_one(const Parts& parts, const Case& c, const Call& call, ThreadPool& threads) {
  const RowFormat format = activation_formats().back();
  const int64_t slots = c.route.num_slots(), experts = c.route.num_experts;
  OwnedRows residual(call.tokens, c.width, 2, 3.0f);
  OwnedRows delta(call.tokens, c.width, 3, 1.0f, format);
  for (int64_t r = call.real; r < call.tokens; ++r) {
    for (int64_t k = 0; k < c.width; ++k) residual.set(r, k, NAN);
  }
  OwnedRows y(call.tokens, c.width, -7.0f, format);
  OwnedRows logits(call.tokens, c.route.num_logits(), -7.0f);
  Results results;
  results.ids.assign(static_cast<size_t>(call.tokens * slots), -7);
  results.weights.assign(static_cast<size_t>(call.tokens * slots), -7.0f);
  const std::vector<int32_t> num_rows = {static_cast<int32_t>(call.real)};
  run_op(*parts.norm,
         {.residual = residual.view(), .delta = delta.view(), .scale = c.scale, .y = y.view()},
         threads);
  std::vector<Rows> members = {logits.view().columns(0, experts)};
  if (c.route.shared_gate) members.push_back(logits.view().columns(experts, 1));
  run_op(*parts.router, {.x = y.view(), .y = members, .num_decode_tokens = call.decodes}, threads);
  run_op(*parts.route,
         {.logits = logits.view(),
          .topk_ids = results.ids.data(),
          .topk_weights = results.weights.data(),
          .num_rows = call.real < call.tokens ? num_rows.data() : nullptr},
         threads);
  results.residual = residual.dense();
  results.y = y.dense();
  return results;
}

// All implementations against the three ops.
void expect_same_bits(const Case& c, const std::vector<Call>& calls) {
  ThreadPool threads(2);
  {
    SCOPED_TRACE(std::to_string(c.route.top_k) + " of " + std::to_string(c.route.num_experts) +
                 ", " + std::to_string(c.width) + " wide");
    for (const OpOptions& options : op_options(threads)) {
      if (options.device.is_cpu() && c.width % 16 != 0) continue;
      const Parts parts(c, options);
      for (const Call& call : calls) {
        if (options.device.is_cpu() && call.tokens > 33) continue;
        SCOPED_TRACE(std::to_string(call.tokens) + " tokens, " + std::to_string(call.decodes) +
                     " generated, " + std::to_string(call.real) + " real");
        is_judging = true;
        judged_device = options.device;
        const Results expected = run_one_by_one(parts, c, call, threads);
        is_judging = false;
        each_implementation<NormRoute>(
            parts.problem,
            [&](const Implementation<NormRoute>& implementation, const OpOptions& used) {
              if (used.isa != options.isa) return;
              const auto op = implementation.prepare(parts.problem, parts.weights, used);
              const Results found = run_norm_route(*op, c, call, threads);
              EXPECT_TRUE(same_bits(found.residual, expected.residual));
              EXPECT_TRUE(same_bits(found.y, expected.y));
              EXPECT_EQ(found.ids, expected.ids);
              EXPECT_TRUE(same_bits(found.weights, expected.weights));
            },
            threads);
        if (::testing::Test::HasFailure()) return;
      }
    }
  }
}

TEST(NormRoute, HasTheBitsOfItsOpsOneByOne) {
  std::vector<Call> calls;
  for (const int64_t tokens : {1, 2, 7, 8, 9, 16, 17, 31, 32, 33, 48, 64, 65, 127, 200, 256}) {
    calls.push_back({tokens, tokens, tokens});
  }
  for (const Case& c : kCases) {
    expect_same_bits(c, calls);
    if (HasFailure()) return;
  }
}

TEST(NormRoute, PaddingAndPromptsBesideGeneratedTokensHaveThemToo) {
  for (const Case& c : {kCases[0], kCases[8]}) {
    expect_same_bits(c,
                     {{3, 0, 3}, {9, 5, 9}, {40, 33, 38}, {12, 12, 7}, {5, -1, 5}, {80, 70, 79}});
  }
}

TEST(NormRoute, WhatNoKernelTakesIsComposed) {
  const NormRoute::Problem problem{
      .norm = {.width = 2048},
      .router = {.in_features = 2048, .members = {{256, kUnquantized, {}}}},
      .bf16_router = true,
      .route = {.num_experts = 256, .top_k = 8}};
  const auto chosen = [](const NormRoute::Problem& p, const Device& device) {
    return std::string(select<NormRoute>(p, device).implementation->name());
  };
  EXPECT_EQ(chosen(problem, Device::cpu()), "composed");
  EXPECT_EQ(chosen(problem, Device::cuda_sm(90)), "cluster_sm90");
  for (const int sm : {80, 100, 121}) EXPECT_EQ(chosen(problem, Device::cuda_sm(sm)), "composed");
  const auto changed = [&](auto change) {
    NormRoute::Problem p = problem;
    change(p);
    return chosen(p, Device::cuda_sm(90));
  };
  EXPECT_EQ(changed([](auto& p) { p.bf16_router = false; }), "composed");
  EXPECT_EQ(changed([](auto& p) { p.norm.width = 2052; }), "composed");
  EXPECT_EQ(changed([](auto& p) { p.norm.width = 448; }), "composed");
  EXPECT_EQ(changed([](auto& p) { p.norm.width = 7168; }), "composed");
  EXPECT_EQ(changed([](auto& p) { p.route.num_experts = 513; }), "composed");
  EXPECT_EQ(changed([](auto& p) { p.route.top_k = 33; }), "composed");
  EXPECT_EQ(changed([](auto& p) { p.route.num_groups = 8; }), "composed");
}

}  // namespace
}  // namespace moe4
