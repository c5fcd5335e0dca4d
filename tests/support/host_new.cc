// operator new that counts its calls for cuda_calls().
#include <cstdlib>
#include <new>

#include "support/cuda_calls.h"

void* operator new(size_t bytes) {
  moe4::testing::count_host_allocation();
  if (void* p = std::malloc(bytes == 0 ? 1 : bytes)) return p;
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }
