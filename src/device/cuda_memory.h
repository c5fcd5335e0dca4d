// What memory.cc asks of CUDA. Programs built without it have no_cuda.cc instead.
#pragma once

#include "device/memory.h"

namespace moe4::cuda {

std::byte* allocate_bytes(const Device& device, size_t bytes);
std::byte* allocate_pinned_bytes(const Device& device, size_t bytes);
void free_bytes(const Device& device, std::byte* p, bool is_pinned);
void copy_bytes(const Stream& stream, void* to, const void* from, size_t bytes);
void copy_little_bytes(const Stream& stream, void* to, const void* from, size_t bytes);
void wait_for(const Stream& stream);
void* make_stream(const Device& device);
void destroy_stream(const Stream& stream);
void* make_event(const Device& device);
void destroy_event(void* event);
void record_event(void* event, const Stream& stream);
void wait_for_event(void* event);
MemoryOfDevice memory_of(const Device& device);

}  // namespace moe4::cuda
