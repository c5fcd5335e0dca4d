// A layer behind the C interface, and one call of it.
#pragma once

#include <memory>
#include <string>

#include "base/device.h"
#include "base/dtype.h"
#include "moe/experts.h"
#include "moe4/moe4.h"

struct moe4_layer {
  std::unique_ptr<moe4::PreparedExperts> prepared;
  moe4::ThreadPool* threads = nullptr;
  moe4::Device device;
  std::string backend;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t top_k = 0;
  int64_t num_experts = 0;  // that ids of the caller count
  int64_t num_local_experts = 0;
  bool map_per_call = false;
};

namespace moe4::capi {

/// Bytes of a call's workspace at any alignment.
size_t workspace_size(const moe4_layer& layer, int64_t tokens, DType hidden_dtype);

/// Checks the call and runs it; throws before anything is written.
void apply(const moe4_layer& layer, const moe4_apply_args& args);

}  // namespace moe4::capi
