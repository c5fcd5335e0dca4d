// Counts the bytes of every type of block.
#include "checkpoint/gguf_notes.h"

#include <fmt/format.h>

#include <set>

#include "base/memory_limit.h"

namespace moe4 {
namespace {

bool is_fp4(const GgmlType& type) {
  return type.id == GgmlTypeId::kNVFP4 || type.id == GgmlTypeId::kMXFP4;
}

}  // namespace

std::vector<std::string> gguf_notes(const GgufModel& model) {
  bool has_nvfp4 = false;
  std::set<std::string_view> names;
  int64_t stored = 0, made = 0;  // the elements are in the file, so that four bytes each fit
  for (const auto& file : model.files()) {
    for (const GgufTensor& tensor : file->header().tensors) {
      const GgmlType* type = tensor.type;
      if (type == nullptr || !type->is_decoded) continue;
      has_nvfp4 |= type->id == GgmlTypeId::kNVFP4;
      if (type->block_elements == 1 || is_fp4(*type)) continue;
      names.insert(type->name);
      stored += tensor.bytes;
      made += tensor.bytes / type->block_bytes * type->block_elements *
              static_cast<int64_t>(sizeof(float));
    }
  }
  std::vector<std::string> notes;
  if (has_nvfp4) {
    notes.emplace_back(
        "activations of NVFP4 tensors stay BF16: GGUF does not say what they are to be");
  }
  if (!names.empty()) {
    notes.push_back(fmt::format("tensors of {} become float32: {} of the file are {} in memory",
                                fmt::join(names, ", "), memory_text(stored), memory_text(made)));
  }
  return notes;
}

}  // namespace moe4
