// Counts the bytes of every type of block.
#include "checkpoint/gguf_notes.h"

#include <fmt/format.h>

#include <set>

#include "base/memory_limit.h"

namespace moe4 {
namespace {

// Tensors of quantised floats that have one fate.
struct Blocks {
  std::set<std::string> types;
  int64_t stored = 0, elements = 0;  // they are in the file, so that a few bytes each fit

  void add(const TensorInfo& info) {
    int64_t count = 1;
    for (const int64_t dim : info.shape) count *= dim;
    types.insert(info.dtype_name);
    stored += info.end - info.begin;
    elements += count;
  }
  std::string names() const { return fmt::format("{}", fmt::join(types, ", ")); }
};

// A GPU holds a float32 as the sum of three BF16 numbers.
constexpr int64_t kBytesOnGpu = 6;

}  // namespace

std::vector<std::string> gguf_notes(const TensorTable& tensors) {
  bool has_nvfp4 = false;
  Blocks kept, expanded;
  for (const std::string& name : tensors.names()) {
    const TensorInfo& info = *tensors.find(name);
    has_nvfp4 |= info.dtype == DType::kF8E4M3;  // its scales
    if (info.dtype != DType::kF32 || info.dtype_name == to_string(DType::kF32)) continue;
    (tensors.block_rows(name) ? kept : expanded).add(info);
  }
  std::vector<std::string> notes;
  if (has_nvfp4) {
    notes.emplace_back(
        "activations of NVFP4 tensors stay BF16: GGUF does not say what they are to be");
  }
  if (!kept.types.empty()) {
    notes.push_back(fmt::format(
        "linears and embeddings of {} stay so on a CPU: {}, where a GPU takes {}", kept.names(),
        memory_text(kept.stored), memory_text(kBytesOnGpu * kept.elements)));
  }
  if (!expanded.types.empty()) {
    notes.push_back(
        fmt::format("{} of {} become float32: {} of the file are {} in memory",
                    kept.types.empty() ? "tensors" : "other tensors", expanded.names(),
                    memory_text(expanded.stored),
                    memory_text(expanded.elements * static_cast<int64_t>(sizeof(float)))));
  }
  return notes;
}

}  // namespace moe4
