// Any bytes as a safetensors file: refused with Error(kBadInput) or readable to the last byte.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <string>

#include "base/error.h"
#include "checkpoint/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const int fd = memfd_create("fuzz", 0);
  if (fd < 0 || write(fd, data, size) != static_cast<ssize_t>(size)) std::abort();
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  for (bool headers_only : {false, true}) {
    try {
      const auto file = moe4::SafetensorsFile::open(path, headers_only);
      unsigned sum = 0;
      for (const moe4::TensorInfo& info : file->tensors()) {
        if (!info.dtype) continue;
        const moe4::TensorView view = file->tensor(info.name);
        const auto* bytes = static_cast<const uint8_t*>(view.data);
        if (bytes != nullptr && view.num_bytes() > 0) sum += bytes[0] + bytes[view.num_bytes() - 1];
      }
      if (sum == ~0u) std::abort();
    } catch (const moe4::Error& error) {
      if (error.code() != moe4::ErrorCode::kBadInput) std::abort();
    }
  }
  close(fd);
  try {
    moe4::parse_safetensors_header({reinterpret_cast<const char*>(data), size}, "fuzz");
  } catch (const moe4::Error& error) {
    if (error.code() != moe4::ErrorCode::kBadInput) std::abort();
  }
  return 0;
}
