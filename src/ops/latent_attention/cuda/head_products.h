// Products of every head's vectors with a small matrix of that head.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <functional>

#include "base/thread_pool.h"
#include "device/cuda/device_buffer.h"
#include "ops/attention/query_temperature.h"
#include "ops/rows.h"

namespace moe4::cuda {

/// One matrix [outputs, inputs] a head, as fragments of mma.m16n8k16: tile (head, 16 outputs,
/// 16 inputs) is 32 times 16 bytes, the registers of each lane one after the other.
///
/// BF16 matrices are exact. Others are the sum of two BF16 matrices: 16 significant bits, an error
/// of 2^-17 at most.
struct HeadMatrices {
  int num_heads = 0, outputs = 0, inputs = 0;
  DeviceArray<uint4> high, low;  // low null: high is exact

  int output_tiles() const { return (outputs + 15) / 16; }
  int input_tiles() const { return (inputs + 15) / 16; }
};

/// `at(head, output, input)` may be called by all threads at once.
HeadMatrices pack_head_matrices(int num_heads, int outputs, int inputs, bool is_bf16,
                                ThreadPool* threads, const std::function<float(int, int, int)>& at);

/// y[t, h] = matrix of head first_head + h times x[t, h] for num_heads heads. Sums are float32, in
/// the order of inputs; x is read as the sum of two BF16 numbers (float32 loses what is below
/// 2^-17, BF16 nothing).
struct HeadProduct {
  int first_head = 0, num_heads = 0;
  Rows x;  // [T, ..]: head h at column h * x_head_stride
  int64_t x_head_stride = 0;
  Rows y;  // [T, ..]
  int64_t y_head_stride = 0;
  // Of an absorbed query alone: y[t, h] goes on with x's next rope_dim elements turned by pairs,
  // and all of it is multiplied by the temperature of positions[t].
  int rope_dim = 0;
  Rows angles;  // [T, rope_dim]
  const int32_t* positions = nullptr;
  QueryTemperature temperature;
};
void multiply_heads(const HeadMatrices& matrices, const HeadProduct& product, cudaStream_t stream,
                    bool dependent);

}  // namespace moe4::cuda
