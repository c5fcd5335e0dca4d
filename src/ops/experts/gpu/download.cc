// Row-wise copies, so that a TP shard's strided views work too.
#include "ops/experts/gpu/download.h"

#include "base/error.h"
#include "device/cuda/cuda_check.h"

namespace moe4::cuda {
namespace {

// Copies a matrix of bytes to `to`, dense, and makes the view say so.
void download(TensorView& view, uint8_t* to) {
  MOE4_CHECK(size_of(view.dtype) == 1 && view.shape.size() == 2);
  const auto rows = static_cast<size_t>(view.dim(0)), width = static_cast<size_t>(view.dim(1));
  MOE4_CUDA_CHECK(cudaMemcpy2D(to, width, view.data, static_cast<size_t>(view.stride()), width,
                               rows, cudaMemcpyDeviceToHost));
  view.data = to;
  view.row_stride = 0;
}

}  // namespace

LinearWeights download_for_checks(const LinearWeights& linear, std::vector<uint8_t>& storage) {
  LinearWeights copy = linear;
  const bool codes = linear.scheme.is_mxfp4();
  const int64_t scales = linear.scale.num_elements();
  storage.resize(static_cast<size_t>(scales + (codes ? linear.weight.num_elements() : 0)));
  download(copy.scale, storage.data());
  if (codes) download(copy.weight, storage.data() + scales);
  return copy;
}

ExpertWeights download_expert(const ExpertWeights& expert, std::vector<uint8_t>& storage) {
  ExpertWeights copy = expert;
  std::vector<TensorView*> views;
  for (LinearWeights* linear : {copy.gate ? &*copy.gate : nullptr, &copy.up, &copy.down}) {
    if (linear == nullptr) continue;
    views.push_back(&linear->weight);
    views.push_back(&linear->scale);
  }
  int64_t bytes = 0;
  for (const TensorView* view : views) bytes += view->num_elements();
  storage.resize(static_cast<size_t>(bytes));
  uint8_t* next = storage.data();
  for (TensorView* view : views) {
    download(*view, next);
    next += view->num_elements();
  }
  return copy;
}

}  // namespace moe4::cuda
