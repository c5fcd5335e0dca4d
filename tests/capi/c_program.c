/* A C program that uses libmoe4.so alone: shows that the header is C and the library complete. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "moe4/moe4.h"

enum { kHidden = 32, kWidth = 16, kTokens = 3 };

static int failures = 0;

static void expect(int ok, const char* claim) {
  if (ok) return;
  printf("FAILED: %s (last error: %s)\n", claim, moe4_last_error());
  ++failures;
}

/* All weights are 1 (code 2, scale 1.0 in E4M3) times the global scale. */
static moe4_linear all_ones(const uint8_t* codes, const uint8_t* scales, float global_scale) {
  moe4_linear linear;
  memset(&linear, 0, sizeof linear);
  linear.codes = codes;
  linear.scales = scales;
  linear.global_scale = global_scale;
  return linear;
}

int main(void) {
  static uint8_t codes[kHidden * kWidth / 2], scales[kHidden * kWidth / 16];
  memset(codes, 0x22, sizeof codes);
  memset(scales, 0x38, sizeof scales);
  /* Expert 1 answers twice what expert 0 does. */
  const moe4_linear gate[2] = {all_ones(codes, scales, 1.0f / kHidden),
                               all_ones(codes, scales, 1.0f / kHidden)};
  const moe4_linear down[2] = {all_ones(codes, scales, 1.0f / kWidth),
                               all_ones(codes, scales, 2.0f / kWidth)};
  moe4_layer_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.struct_size = sizeof desc;
  desc.hidden_size = kHidden;
  desc.intermediate_size = kWidth;
  desc.num_experts = desc.num_local_experts = 2;
  desc.top_k = 1;
  desc.activation = MOE4_SILU;
  desc.gate = desc.up = gate;
  desc.down = down;
  desc.device = -1;

  moe4_layer* layer = NULL;
  expect(moe4_layer_create(&desc, &layer) == MOE4_OK, "the layer is created");
  if (layer == NULL) return 1;
  expect(moe4_layer_intermediate_size(layer) == kWidth, "nothing was cut");

  uint16_t* x = aligned_alloc(64, kTokens * kHidden * 2);
  uint16_t* y = aligned_alloc(64, kTokens * kHidden * 2);
  const size_t bytes = moe4_layer_workspace_size(layer, kTokens, MOE4_BF16);
  void* workspace = aligned_alloc(256, (bytes + 255) / 256 * 256);
  for (int i = 0; i < kTokens * kHidden; ++i) x[i] = 0x3f80; /* 1.0 */
  memset(y, 0xff, kTokens * kHidden * 2);
  const int32_t ids[kTokens] = {0, 1, -1};
  const float weights[kTokens] = {1.0f, 0.5f, 1.0f};
  moe4_apply_args args;
  memset(&args, 0, sizeof args);
  args.struct_size = sizeof args;
  args.num_tokens = kTokens;
  args.hidden_states = x;
  args.topk_ids = ids;
  args.topk_weights = weights;
  args.output = y;
  args.workspace = workspace;
  args.workspace_bytes = bytes;
  expect(moe4_layer_apply(layer, &args) == MOE4_OK, "the layer is applied");
  /* silu(1) * 1 = 0.73106 -> bf16 0x3f3b; twice of it halved; nothing. */
  for (int i = 0; i < kHidden; ++i) {
    expect(y[i] == 0x3f3b, "expert 0 gives silu(1)");
    expect(y[kHidden + i] == 0x3f3b, "expert 1 at half weight gives silu(1)");
    expect(y[2 * kHidden + i] == 0, "a token without experts gets zeros");
  }

  args.hidden_states = NULL;
  expect(moe4_layer_apply(layer, &args) == MOE4_USAGE, "a NULL pointer is refused");
  expect(strstr(moe4_last_error(), "NULL") != NULL, "the message says so");
  args.num_tokens = 0;
  expect(moe4_layer_apply(layer, &args) == MOE4_OK, "no tokens is no work");

  free(workspace);
  free(y);
  free(x);
  moe4_layer_destroy(layer);
  if (failures == 0) printf("ok\n");
  return failures != 0;
}
