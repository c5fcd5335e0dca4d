// DeltaNet's kernels: one launch for sequences that generate, three for prompts.
#pragma once

#include <cuda_runtime_api.h>

#include "ops/delta_net/delta_net.h"

namespace moe4::cuda {

/// Sequences that all SMs together can work on at once, in small blocks.
inline constexpr int64_t kFewDeltaDecodes = 2;
/// Up to so many each value head has a block of a cluster; of more, blocks that wait for each other
/// lose more than they share.
inline constexpr int64_t kSomeDeltaDecodes = 32;

struct DeltaNetWeights {
  const float* conv;        ///< [conv_taps, channels]: of the newest input first
  const float* decay_rate;  ///< [num_value_heads]: -exp(a_log)
  const float* dt_bias;     ///< [num_value_heads]
  const float* norm;        ///< [value_dim]
};

/// What the kernels for prompts leave each other, F16 as bits. Rows of heads are 128 wide, zeros
/// past key_dim and value_dim; a chunk's rows begin at its first token.
struct DeltaNetBuffers {
  uint16_t* queries;  ///< [num_key_heads, T, 128], of unit length
  uint16_t* keys;     ///< [num_key_heads, T, 128], of unit length
  uint16_t* w;        ///< [num_value_heads, T, 128]: what the state's part of a value is read with
  uint16_t* u;        ///< [num_value_heads, T, 128]: values without that part; then the output
  uint16_t* scores;   ///< [num_value_heads, T, 64]: decayed q k^T within the chunk
  float* decays;      ///< [num_value_heads, T]: logarithms, summed from the chunk's beginning
};

struct DeltaNetCall {
  const DeltaNet::Problem& problem;
  const DeltaNet::Args& args;
  DeltaNetWeights weights;
  DeltaNetBuffers buffers;
  int sm;
  int decode_blocks;  ///< prepare_delta_decodes()
  int scan_stages;    ///< prepare_delta_scan()
  cudaStream_t stream;
};

/// For the current device, before the first launch. Returns how many blocks it holds at a time.
int prepare_delta_decodes();
void prepare_delta_chunks();
/// Returns how many chunks the device's shared memory holds at a time.
int prepare_delta_scan();

/// The sequences that generate: everything, one by one through the SMs;
void launch_delta_decodes(const DeltaNetCall& call);
/// many of them, or on a GPU before SM90;
void prepare_many_delta_decodes();
void launch_many_delta_decodes(const DeltaNetCall& call);
/// few of them, where takes_few_delta_decodes().
bool takes_few_delta_decodes(const DeltaNetCall& call);
void launch_few_delta_decodes(const DeltaNetCall& call);
/// Prompts, in this order: the convolution and all that chunks compute for themselves;
void launch_delta_chunks(const DeltaNetCall& call);
/// the states from chunk to chunk, and what they give out;
void launch_delta_scan(const DeltaNetCall& call);
/// the gated norm, and the convolution's inputs for the next step.
void launch_delta_norm(const DeltaNetCall& call);

}  // namespace moe4::cuda
