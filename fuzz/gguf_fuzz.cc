// Any bytes as a GGUF file: refused with Error(kBadInput), or its tokenizer, templates and all
// tensors can be read to the last byte.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <functional>
#include <string>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/generation_config.h"
#include "gguf/file.h"
#include "text/template_files.h"
#include "text/tokenizer.h"

namespace {

// Hostile headers may ask for tensors that are made of few bytes but are large.
constexpr int64_t kMostElements = 1 << 20;

void attempt(const std::function<void()>& read) {
  try {
    read();
  } catch (const moe4::Error& error) {
    if (error.code() != moe4::ErrorCode::kBadInput) std::abort();
  }
}

void read_tensors(const moe4::Checkpoint& checkpoint) {
  unsigned sum = 0;
  for (const std::string& name : checkpoint.tensor_names()) {
    attempt([&] {
      if (checkpoint.tensor_header(name).num_elements() > kMostElements) return;
      const moe4::TensorView view = checkpoint.tensor(name);
      const auto* bytes = static_cast<const uint8_t*>(view.data);
      if (bytes != nullptr && view.num_bytes() > 0) sum += bytes[0] + bytes[view.num_bytes() - 1];
    });
  }
  for (const std::string& module : checkpoint.linear_modules()) {
    attempt([&] {
      if (checkpoint.linear_header(module).in_features > kMostElements) return;
      moe4::MadeTensors made;
      const moe4::LinearWeights linear = checkpoint.linear(module, -1, -1, &made);
      if (!linear.weight.empty()) sum += *static_cast<const uint8_t*>(linear.weight.data);
    });
  }
  const int64_t layers = std::min<int64_t>(checkpoint.config().num_layers, 4);
  for (int64_t layer = 0; layer < layers; ++layer) {
    attempt([&] { sum += static_cast<unsigned>(checkpoint.moe_layer(layer).experts.size()); });
  }
  if (sum == ~0u) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const int fd = memfd_create("fuzz", 0);
  if (fd < 0 || write(fd, data, size) != static_cast<ssize_t>(size)) std::abort();
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  if (moe4::is_gguf_file(path)) {
    for (const bool headers_only : {true, false}) {
      attempt([&] {
        const auto checkpoint = moe4::Checkpoint::open(path, {.headers_only = headers_only});
        read_tensors(*checkpoint);
      });
    }
    attempt([&] {
      const auto tokenizer = moe4::Tokenizer::load(path);
      (void)tokenizer->decode(tokenizer->encode("It's 1984, isn't it?\n\n<|im_end|> über 你好"));
    });
    attempt([&] {
      (void)moe4::find_templates(path);
      (void)moe4::find_special_tokens(path);
    });
    std::vector<moe4::CheckpointNote> notes;
    attempt([&] { (void)moe4::read_generation_config(path, notes); });
    attempt([&] { (void)moe4::read_config_eos_ids(path, notes); });
  } else {
    attempt([&] {
      (void)moe4::parse_gguf_header({reinterpret_cast<const char*>(data), size}, "fuzz");
    });
  }
  close(fd);
  return 0;
}
