// Hyper-connections (DeepSeek-V4): several residual streams a token, of which every block reads one
// mixture and into which its result is spread. Rows are float32; on a GPU the results of blocks may
// be BF16 too.
#pragma once

#include "ops/op.h"
#include "ops/tensor_ref.h"

namespace moe4 {

/// A residual of `num_streams` rows of `width` a token, one after the other; at most kMost of them.
struct StreamShape {
  static constexpr int64_t kMost = 8;
  int64_t width = 0;
  int64_t num_streams = 0;

  int64_t all() const { return num_streams * width; }
  /// Of a row of coefficients: what spreads a block's result, then what mixes the streams.
  int64_t num_coefficients() const { return num_streams + num_streams * num_streams; }
};

/// streams[t, i] = x[t] for every i.
struct FillStreams {
  static constexpr std::string_view kName = "fill_streams";
  using Problem = StreamShape;
  struct Weights {};
  struct Args {
    Rows x;        ///< [T, width]
    Rows streams;  ///< out [T, num_streams * width]
  };
  static void check(const Problem& problem, const Args& args);
};

/// What a block reads of the streams S of token t, and how its result joins them. With
///   mix = fn . S / sqrt(mean(S^2) + norm_eps)        over all streams together
/// cut into n, n and n x n values, n = num_streams:
///   x[t] = sum_i (sigmoid(scale_0 mix_i + base_i) + eps) S_i
///   coefficients[t] = [2 sigmoid(scale_1 mix_i + base_i), i < n | A, n x n]
/// A begins as the softmax of every row of scale_2 mix + base, plus eps; its columns are divided by
/// their sum plus eps, then `iterations` - 1 times its rows and again its columns.
/// With `is_head` fn, base and scale have the first part alone, and there are no coefficients.
struct MixStreams {
  static constexpr std::string_view kName = "mix_streams";
  struct Problem {
    StreamShape shape;
    int64_t iterations = 1;
    float eps = 1e-6f;
    float norm_eps = 1e-6f;
    bool is_head = false;

    int64_t num_mixes() const {
      return is_head ? shape.num_streams : shape.num_streams + shape.num_coefficients();
    }
  };
  struct Weights {
    TensorRef fn;     ///< [num_mixes, num_streams * width]
    TensorRef base;   ///< [num_mixes]
    TensorRef scale;  ///< [3], of a head [1]
  };
  struct Args {
    Rows streams;                   ///< [T, num_streams * width]
    const int32_t* rows = nullptr;  ///< [x.rows]: of the streams, or null: the first
    Rows x;                         ///< out [x.rows, width]
    Rows coefficients;              ///< out [x.rows, num_coefficients]; empty of a head
  };
  static void check(const Problem& problem, const Args& args);
};

/// streams[t, i] <- spread_i y[t] + sum_j A_ji streams[t, j], with the coefficients of MixStreams
/// (A transposed).
struct AddToStreams {
  static constexpr std::string_view kName = "add_to_streams";
  using Problem = StreamShape;
  struct Weights {};
  struct Args {
    Rows y;             ///< [T, width]
    Rows coefficients;  ///< [T, num_coefficients]
    Rows streams;       ///< [T, num_streams * width], in place
  };
  static void check(const Problem& problem, const Args& args);
};

}  // namespace moe4
