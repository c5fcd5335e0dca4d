// Marks functions that are the same on the host and on the GPU.
#pragma once

#if defined(__CUDACC__)
#define MOE4_HOST_DEVICE __host__ __device__
#else
#define MOE4_HOST_DEVICE
#endif
