// Programs built without CUDA have no GPU to ask.
#include "base/error.h"
#include "device/cuda_memory.h"
#include "device/graph.h"

namespace moe4 {
namespace {

[[noreturn]] void throw_no_cuda() {
  throw Error(ErrorCode::kUnavailable, "this program was built without CUDA");
}

}  // namespace

namespace cuda {

std::byte* allocate_bytes(const Device&, size_t) { throw_no_cuda(); }
std::byte* allocate_pinned_bytes(const Device&, size_t) { throw_no_cuda(); }
void free_bytes(const Device&, std::byte*, bool) {}
void copy_bytes(const Stream&, void*, const void*, size_t) { throw_no_cuda(); }
void copy_little_bytes(const Stream&, void*, const void*, size_t) { throw_no_cuda(); }
void wait_for(const Stream&) { throw_no_cuda(); }
void* make_stream(const Device&) { throw_no_cuda(); }
void destroy_stream(const Stream&) {}
void* make_event(const Device&) { throw_no_cuda(); }
void destroy_event(void*) {}
void record_event(void*, const Stream&) { throw_no_cuda(); }
void wait_for_event(void*) { throw_no_cuda(); }
MemoryOfDevice memory_of(const Device&) { throw_no_cuda(); }

}  // namespace cuda

struct Graph::Recorded {};
Graph::Graph(const Stream&, const std::function<void()>&) { throw_no_cuda(); }
Graph::~Graph() = default;
Graph::Graph(Graph&&) noexcept = default;
Graph& Graph::operator=(Graph&&) noexcept = default;
void Graph::launch(const Stream&) const { throw_no_cuda(); }

}  // namespace moe4
