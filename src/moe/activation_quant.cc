// Reference quantisers of activations.
#include "moe/activation_quant.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "numerics/nvfp4.h"

namespace moe4 {

void fake_quantize_nvfp4(const float* in, int64_t n, DecodeScale global, float* out) {
  MOE4_CHECK(n % kNvfp4Block == 0);
  uint8_t codes[kNvfp4Block];
  for (int64_t k = 0; k < n; k += kNvfp4Block) {
    const float step = e4m3_to_float(nvfp4_quantize_block(in + k, global, codes)) * global.value;
    for (int i = 0; i < kNvfp4Block; ++i) out[k + i] = e2m1_to_float(codes[i]) * step;
  }
}

void fake_quantize_fp8_static(const float* in, int64_t n, DecodeScale scale, float* out) {
  for (int64_t k = 0; k < n; ++k)
    out[k] = e4m3_to_float(e4m3_from_float(in[k] / scale.value)) * scale.value;
}

void fake_quantize_fp8_dynamic(const float* in, int64_t n, int64_t group, float* out) {
  for (int64_t begin = 0; begin < n; begin += group) {
    const int64_t end = std::min(begin + group, n);
    float amax = 0.0f;
    for (int64_t k = begin; k < end; ++k) amax = std::max(amax, std::abs(in[k]));
    const float scale = amax / kE4m3Max;
    for (int64_t k = begin; k < end; ++k) {
      // A NaN input stays NaN; a row of zeros has no scale.
      out[k] = scale > 0 ? e4m3_to_float(e4m3_from_float(in[k] / scale)) * scale : in[k] - in[k];
    }
  }
}

}  // namespace moe4
