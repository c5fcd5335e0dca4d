// GatedRows, AddScaled and SoftCap on NVIDIA GPUs: a thread takes one vector of eight values, which
// it has read before it writes them, so that results may lie where inputs were.
#include "device/cuda/divisor.h"
#include "device/cuda/launch.h"
#include "device/cuda/ptx/launch.cuh"
#include "ops/cuda/implementation.h"
#include "ops/cuda/row_vectors.cuh"
#include "ops/experts/gpu/activation.cuh"
#include "ops/gated_rows/gated_rows.h"

namespace moe4 {
namespace {

using namespace cuda;

constexpr int kThreads = 256;

// Which vector of which row a thread has; the last block's last threads may be past the end.
struct Vectors {
  int width;
  int64_t total;    // vectors of all rows
  Divisor per_row;  // vectors

  explicit Vectors(const Rows& rows)
      : width(static_cast<int>(rows.width)),
        total(rows.rows * ceil_div(rows.width, kVector)),
        per_row(ceil_div(rows.width, kVector)) {
    MOE4_CHECK(total < int64_t{1} << 31);
  }
  unsigned blocks() const { return static_cast<unsigned>(ceil_div(total, kThreads)); }
  __device__ bool find(int64_t& row, int& column) const {
    const uint32_t id = blockIdx.x * kThreads + threadIdx.x;
    row = per_row.divide(id);
    const int vectors = (width + kVector - 1) / kVector;
    column = static_cast<int>(id - static_cast<uint32_t>(row) * vectors) * kVector;
    return id < total;
  }
};

template <ActivationKind Kind, bool Clamp>
__device__ __forceinline__ void activate_vector(const ActivationParams& p,
                                                const float (&gate)[kVector],
                                                float (&up)[kVector]) {
#pragma unroll
  for (int i = 0; i < kVector; ++i) up[i] = activate<Kind, Clamp>(p, gate[i], up[i]);
}

// One branch for all eight.
__device__ __forceinline__ void activate_vector(const ActivationParams& p,
                                                const float (&gate)[kVector],
                                                float (&up)[kVector]) {
  switch (p.kind) {
    case ActivationKind::kSilu:
      return p.has_limit() ? activate_vector<ActivationKind::kSilu, true>(p, gate, up)
                           : activate_vector<ActivationKind::kSilu, false>(p, gate, up);
    case ActivationKind::kSwigluOai:
      return activate_vector<ActivationKind::kSwigluOai, true>(p, gate, up);
    case ActivationKind::kGeluTanh:
      return activate_vector<ActivationKind::kGeluTanh, false>(p, gate, up);
    case ActivationKind::kRelu2:
      return activate_vector<ActivationKind::kRelu2, false>(p, gate, up);
    case ActivationKind::kSiluLateClamp:
      return activate_vector<ActivationKind::kSiluLateClamp, true>(p, gate, up);
  }
}

template <typename In, typename Out, bool kWhole>
__global__ void __launch_bounds__(kThreads)
    gated_rows_kernel(const ActivationParams activation, const RowsOf<In> gate, const RowsOf<In> up,
                      const RowsOf<Out> y, const Vectors vectors) {
  wait_for_previous_kernel();
  launch_dependents();
  int64_t t;
  int c;
  if (!vectors.find(t, c)) return;
  const int count = vectors.width - c;
  float g[kVector] = {}, u[kVector];
  if (activation.is_gated()) load_vector<kWhole>(gate.row(t) + c, count, g);
  load_vector<kWhole>(up.row(t) + c, count, u);
  activate_vector(activation, g, u);
  store_vector<kWhole>(y.row(t) + c, count, u);
}

template <typename In, typename Gate, typename Out, bool kWhole>
__global__ void __launch_bounds__(kThreads)
    add_scaled_kernel(const RowsOf<In> x, const RowsOf<Gate> gate, const RowsOf<Out> y,
                      const Vectors vectors) {
  wait_for_previous_kernel();
  launch_dependents();
  int64_t t;
  int c;
  if (!vectors.find(t, c)) return;
  const int count = vectors.width - c;
  float a[kVector], b[kVector];
  load_vector<kWhole>(x.row(t) + c, count, a);
  load_vector<kWhole>(y.row(t) + c, count, b);
  const float factor =
      gate.data != nullptr ? 1.0f / (1.0f + expf(-to_float(gate.row(t)[0]))) : 1.0f;
#pragma unroll
  for (int i = 0; i < kVector; ++i) b[i] = fmaf(factor, a[i], b[i]);
  store_vector<kWhole>(y.row(t) + c, count, b);
}

template <typename T, bool kWhole>
__global__ void __launch_bounds__(kThreads)
    soft_cap_kernel(const RowsOf<T> y, const float cap, const Vectors vectors) {
  wait_for_previous_kernel();
  launch_dependents();
  int64_t t;
  int c;
  if (!vectors.find(t, c)) return;
  const int count = vectors.width - c;
  float v[kVector];
  load_vector<kWhole>(y.row(t) + c, count, v);
#pragma unroll
  for (int i = 0; i < kVector; ++i) v[i] = cap * tanhf(v[i] / cap);
  store_vector<kWhole>(y.row(t) + c, count, v);
}

// What the three ops have in common: no weights, no workspace, elements apart.
template <class Op>
class Elementwise : public Prepared<Op> {
 public:
  Elementwise(const typename Op::Problem& problem, const OpOptions& options)
      : Prepared<Op>(problem), dependent_(options.device.sm >= 90) {}

  size_t workspace_size(const typename Op::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override { return 0; }

 protected:
  LaunchShape shape(const Vectors& vectors, const Stream& stream) const {
    return {.grid = dim3(vectors.blocks()),
            .block = dim3(kThreads),
            .stream = static_cast<cudaStream_t>(stream.handle),
            .dependent = dependent_};
  }

 private:
  bool dependent_;
};

// Calls f with std::true_type where rows are whole vectors.
template <typename F>
void with_whole(bool whole, const F& f) {
  if (whole) {
    f(std::true_type{});
  } else {
    f(std::false_type{});
  }
}

class CudaGatedRows final : public Elementwise<GatedRows> {
 public:
  using Elementwise::Elementwise;

  void run(const GatedRows::Args& args, std::span<std::byte>, const Stream& stream) const override {
    if (args.y.rows == 0) return;
    const ActivationParams& activation = problem().activation;
    const Rows& gate = activation.is_gated() ? args.gate : args.up;
    MOE4_CHECK(gate.format == args.up.format);
    const Vectors vectors(args.y);
    with_element(args.up.format, [&](auto in) {
      with_element(args.y.format, [&](auto out) {
        with_whole(are_vectors({gate, args.up, args.y}), [&](auto whole) {
          using In = decltype(in);
          using Out = decltype(out);
          launch(gated_rows_kernel<In, Out, decltype(whole)::value>, shape(vectors, stream),
                 activation, RowsOf<In>(gate), RowsOf<In>(args.up), RowsOf<Out>(args.y), vectors);
        });
      });
    });
  }
};

class CudaAddScaled final : public Elementwise<AddScaled> {
 public:
  using Elementwise::Elementwise;

  void run(const AddScaled::Args& args, std::span<std::byte>, const Stream& stream) const override {
    if (args.y.rows == 0) return;
    const Vectors vectors(args.y);
    const Rows gate = problem().gated ? args.gate : Rows{};
    with_element(args.x.format, [&](auto in) {
      with_element(gate.format, [&](auto of_gate) {
        with_element(args.y.format, [&](auto out) {
          with_whole(are_vectors({args.x, args.y}), [&](auto whole) {
            using In = decltype(in);
            using Gate = decltype(of_gate);
            using Out = decltype(out);
            launch(add_scaled_kernel<In, Gate, Out, decltype(whole)::value>, shape(vectors, stream),
                   RowsOf<In>(args.x), RowsOf<Gate>(gate), RowsOf<Out>(args.y), vectors);
          });
        });
      });
    });
  }
};

class CudaSoftCap final : public Elementwise<SoftCap> {
 public:
  using Elementwise::Elementwise;

  void run(const SoftCap::Args& args, std::span<std::byte>, const Stream& stream) const override {
    if (args.y.rows == 0) return;
    const Vectors vectors(args.y);
    with_element(args.y.format, [&](auto element) {
      with_whole(are_vectors({args.y}), [&](auto whole) {
        using T = decltype(element);
        launch(soft_cap_kernel<T, decltype(whole)::value>, shape(vectors, stream),
               RowsOf<T>(args.y), problem().cap, vectors);
      });
    });
  }
};

}  // namespace

template <>
std::unique_ptr<Prepared<GatedRows>> prepare_on_cuda<GatedRows>(const GatedRows::Problem& problem,
                                                                const GatedRows::Weights&,
                                                                const OpOptions& options) {
  return std::make_unique<CudaGatedRows>(problem, options);
}

template <>
std::unique_ptr<Prepared<AddScaled>> prepare_on_cuda<AddScaled>(const AddScaled::Problem& problem,
                                                                const AddScaled::Weights&,
                                                                const OpOptions& options) {
  return std::make_unique<CudaAddScaled>(problem, options);
}

template <>
std::unique_ptr<Prepared<SoftCap>> prepare_on_cuda<SoftCap>(const SoftCap::Problem& problem,
                                                            const SoftCap::Weights&,
                                                            const OpOptions& options) {
  return std::make_unique<CudaSoftCap>(problem, options);
}

}  // namespace moe4
