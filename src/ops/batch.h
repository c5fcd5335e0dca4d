// One step of a model: which tokens of which sequences, and where their caches are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <variant>
#include <vector>

#include "base/dtype.h"

namespace moe4 {

/// Tokens of a page of keys and values. Attention works on blocks of as many keys, so pages do not
/// change its arithmetic.
inline constexpr int64_t kPageTokens = 64;

/// Where the sequences of a step keep what one group of layers remembers. Layers with equal
/// CacheSpecs share a table: page or slot numbers are the same in each of their pools.
struct CacheTable {
  /// [num_seqs, max_blocks]: the pages of each sequence in order of position, every page below
  /// ceil(context_len / 64) valid, then -1. Null for recurrent layers.
  const int32_t* blocks = nullptr;
  int64_t max_blocks = 0;
  /// [num_tokens]: page * 64 + place in the page where a token's key and value go; -1: nowhere
  /// (a padding token). Null for recurrent layers.
  const int32_t* slots = nullptr;
  /// [num_seqs]: state slot; -1: none (a padding sequence). Null for paged layers. A slot whose
  /// sequence has nothing in it yet (context_len is the number of its tokens in this step) is
  /// taken to be all zeros, whatever an earlier owner left in it.
  const int32_t* state = nullptr;
};

/// Tokens of several sequences, laid out one sequence after the other ("ragged"), decodes first.
/// Arrays are on the device that runs the step and stay in place from step to step, so that a CUDA
/// graph may hold them. Sequences may be empty (no tokens in this step). Tokens past
/// query_start[num_seqs] are padding: their rows may hold anything and their results mean nothing.
struct Batch {
  int64_t num_tokens = 0;  ///< T, padding included
  int64_t num_seqs = 0;    ///< S, padding included
  /// Sequences at the front that generate; the others are pieces of prompts. A piece of a prompt
  /// begins at a multiple of kPageTokens of its sequence.
  int64_t num_decodes = 0;
  int64_t query_of_decode = 1;  ///< tokens of each decode: 1 and its drafts

  /// What the host promises of the arrays below, so that kernels can size their grids (and graphs
  /// their keys) without reading device memory.
  int64_t max_query = 0;    ///< tokens of any sequence in this step
  int64_t max_context = 0;  ///< of context_len

  const int32_t* token_ids = nullptr;    ///< [T]
  const int32_t* positions = nullptr;    ///< [T], from 0 in each sequence
  const int32_t* query_start = nullptr;  ///< [S + 1]: first token of each sequence, then their end
  const int32_t* context_len = nullptr;  ///< [S]: tokens of the sequence with those of this step
  const int32_t* logits_rows = nullptr;  ///< [num_logits]: tokens whose logits are wanted, rising
  int64_t num_logits = 0;
  int64_t num_decode_logits = 0;       ///< of them, at the front: those of sequences that generate
  std::span<const CacheTable> tables;  ///< one a group of layers, see LayerCache::table
};

/// Attention that keeps keys and values of all (or a window of) positions in pages.
///
/// Page p of a layer lies at data + p * page_bytes(spec): the keys [num_kv_heads, 64, key_dim],
/// then the values [num_kv_heads, 64, value_dim]. Latent attention has one head of keys and no
/// values (value_dim 0): they are the first elements of its keys.
struct PagedSpec {
  int64_t num_kv_heads = 0;
  int64_t key_dim = 0;    ///< of a head
  int64_t value_dim = 0;  ///< of a head
  /// kF16, kF32 or kF8E4M3. F16 has eight times the resolution of BF16 at the same size, and
  /// normalised keys need no range. F8E4M3 elements are times a scale of their layer's keys or
  /// values, which is the affair of the ops.
  DType dtype = DType::kF16;
  /// Positions back from a token, its own included, that are still read; 0: all. Layers with other
  /// windows are other groups, so that pages behind a window could go to somebody else; today they
  /// are kept.
  int64_t window = 0;
  /// Tokens that share one key: a divisor of kPageTokens, or a multiple of it. Key j is of the
  /// tokens [j ratio, (j + 1) ratio) and lies in the page of the last of them, whose keys are those
  /// of one head side by side: keys_of_page() of them, or one in every so-many-th page.
  int64_t ratio = 1;
  bool operator==(const PagedSpec&) const = default;

  int64_t keys_of_page() const { return ratio < kPageTokens ? kPageTokens / ratio : 1; }
  /// Which of a sequence's pages key j lies in; its place there is j % keys_of_page().
  int64_t page_of(int64_t key) const { return ((key + 1) * ratio - 1) / kPageTokens; }
};

/// Layers with a state of fixed size a sequence (delta net, convolutions): float32 arrays of these
/// sizes one after the other, each a multiple of 16 floats apart.
struct RecurrentSpec {
  std::vector<int64_t> floats;
  bool operator==(const RecurrentSpec&) const = default;
};

/// What a layer asks to keep of every sequence. A layer may ask for several.
using CacheSpec = std::variant<PagedSpec, RecurrentSpec>;

/// Bytes of one page, or of one sequence's state. A multiple of 64.
int64_t cache_unit_bytes(const CacheSpec& spec);

/// The memory behind one CacheSpec of one layer.
struct LayerCache {
  std::byte* data = nullptr;  ///< pages or state slots, `unit_bytes` apart, 64-byte aligned
  int64_t unit_bytes = 0;     ///< at least cache_unit_bytes(spec)
  int32_t table = 0;          ///< index into Batch::tables
};

}  // namespace moe4
