// Ssm's kernels: one launch for sequences that generate, three for prompts.
#pragma once

#include <cuda_runtime_api.h>

#include "ops/ssm/ssm.h"

namespace moe4::cuda {

struct SsmWeights {
  const float* conv;        ///< [conv_taps, channels]: of the newest input first
  const float* conv_bias;   ///< [channels]
  const float* decay_rate;  ///< [num_heads]: -exp(a_log)
  const float* d;           ///< [num_heads]
  const float* dt_bias;     ///< [num_heads]
  const float* norm;        ///< [inner]
};

/// What kernels leave each other, F16 as bits. A chunk's rows begin at its first token.
struct SsmBuffers {
  uint16_t* x;    ///< [T, inner]
  uint16_t* b;    ///< [num_groups, T, 128], zeros past state_dim
  uint16_t* c;    ///< the same
  float* scores;  ///< [num_groups, T, 64]: c b^T within the chunk, blocks up to the diagonal
  float* dt;      ///< [num_heads, T]
  float* decays;  ///< [num_heads, T]: logarithms, summed from the chunk's beginning
  float* gated;   ///< [T, inner]: y silu(z) before the norm
};

struct SsmCall {
  const Ssm::Problem& problem;
  const Ssm::Args& args;
  SsmWeights weights;
  SsmBuffers buffers;
  int sm;
  int scan_stages;  ///< prepare_ssm_scan()
  cudaStream_t stream;
};

/// For the current device, before the first launch. Returns how many chunks its shared memory holds
/// at a time.
int prepare_ssm_scan();

/// The sequences that generate; true: launch_ssm_norm() has to follow for them.
bool launch_ssm_decodes(const SsmCall& call);
/// Prompts, in this order: the convolution and all that chunks compute for themselves;
void launch_ssm_chunks(const SsmCall& call);
/// the states from chunk to chunk, what they give out, and its gate;
void launch_ssm_scan(const SsmCall& call);
/// the norm over groups, and the convolution's inputs for the next step, of sequences [first,
/// num_seqs).
void launch_ssm_norm(const SsmCall& call, int64_t first, int64_t num_seqs);

}  // namespace moe4::cuda
