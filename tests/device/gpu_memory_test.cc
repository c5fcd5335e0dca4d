// Copies between pinned memory and a real GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "base/thread_pool.h"
#include "device/cuda/describe_device.h"
#include "device/memory.h"

namespace moe4 {
namespace {

TEST(GpuMemory, LittleCopiesMoveEveryByteAndNoneBeyond) {
  const Device device = cuda::describe_device(0);
  if (device.is_cpu()) GTEST_SKIP() << "no GPU";
  ThreadPool threads(1);
  const OwnedStream stream(device, threads);
  // Around whole pieces of 16 bytes, whole blocks, and the size from which a copy engine takes
  // over.
  for (const size_t bytes : {1, 4, 15, 16, 17, 4095, 4096, 4100, 65535, 65536, 65537, 200000}) {
    const HostMemory from(device, bytes + 16), back(device, bytes + 16);
    const DeviceMemory there(device, bytes + 16);
    for (size_t i = 0; i < bytes; ++i) from.data()[i] = static_cast<std::byte>(i * 7 + bytes);
    std::fill_n(back.data(), bytes + 16, std::byte{0x55});
    copy(stream.get(), there.data(), back.data(), bytes + 16);
    copy_little(stream.get(), there.data(), from.data(), bytes);
    copy_little(stream.get(), back.data(), there.data(), bytes);
    wait(stream.get());
    EXPECT_EQ(std::memcmp(back.data(), from.data(), bytes), 0) << bytes;
    copy(stream.get(), back.data(), there.data(), bytes + 16);
    wait(stream.get());
    EXPECT_TRUE(std::all_of(back.data() + bytes, back.data() + bytes + 16, [](std::byte b) {
      return b == std::byte{0x55};
    })) << bytes;
  }
}

}  // namespace
}  // namespace moe4
