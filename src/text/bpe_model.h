// Byte-pair encoding: a vocabulary of byte strings and the order in which neighbours merge.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/string_table.h"
#include "text/tokenizer_json.h"

namespace moe4 {

/// Exact lookup of a pair of ids: open addressing, one cache line a hit.
class MergeTable {
 public:
  struct Merge {
    uint32_t rank;   // position in the list of merges, or a token's id; lower merges first
    int32_t result;  // id of the joined token
  };

  void reserve(size_t count);
  void insert(int32_t left, int32_t right, Merge merge);  // a later entry replaces an earlier one
  const Merge* find(int32_t left, int32_t right) const;

 private:
  struct Slot {
    uint64_t pair = kEmpty;
    Merge merge{};
  };
  static constexpr uint64_t kEmpty = ~uint64_t{0};
  size_t slot_of(uint64_t pair) const;

  std::vector<Slot> slots_;  // a power of two, at most half full
};

/// Working memory of BpeModel::encode, reused from piece to piece.
struct BpeScratch {
  struct Symbol {
    int32_t id;  // -1 once merged into its left neighbour
    int32_t previous;
    int32_t next;  // -1: none
  };
  struct Candidate {
    uint32_t rank;
    int32_t position;
    int32_t result;

    // std::push_heap keeps the greatest on top: the lowest rank, then the leftmost.
    bool operator<(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : position > other.position;
    }
  };
  std::vector<Symbol> symbols;
  std::vector<Candidate> heap;
};

class BpeModel {
 public:
  /// `name` is for messages. Throws Error(kBadInput) for ids given twice, far-away ids, and merges
  /// of unknown tokens.
  BpeModel(const TokenizerJson& json, bool ignore_merges, const std::string& name);
  /// tiktoken's rule: two neighbours merge where their bytes together are a token of the
  /// vocabulary, the lowest id first; a piece that is a token is taken whole. Reads no merges.
  static BpeModel of_ranks(const TokenizerJson& json, const std::string& name);

  BpeModel(BpeModel&&) = default;
  BpeModel& operator=(BpeModel&&) = default;

  /// Ids of one piece of text, appended. O(n log n) in the length of the piece. Bytes that the
  /// vocabulary lacks vanish, as they do upstream.
  void encode(std::string_view piece, BpeScratch* scratch, std::vector<int32_t>* ids) const;

  /// Bytes of a token; empty for an id without one.
  std::string_view bytes(int32_t id) const;
  /// By the spelling in the file ("Ġthe").
  std::optional<int32_t> find_spelling(std::string_view spelling) const;
  /// True when all 256 bytes have a token.
  bool covers_all_bytes() const;
  int64_t id_limit() const { return static_cast<int64_t>(bytes_of_id_.size()); }

 private:
  explicit BpeModel(bool ignore_merges) : ignore_merges_(ignore_merges) {}
  void add_vocab(const TokenizerJson& json, const std::string& name);
  void add_merges(const TokenizerJson& json, const std::string& name);
  void add_all_merges();

  std::vector<std::string> bytes_of_id_;
  StringTable id_of_spelling_;
  StringTable id_of_bytes_;                // filled for ignore_merges_ only
  std::array<int32_t, 256> id_of_byte_{};  // -1: no such token
  MergeTable merges_;
  bool ignore_merges_;
};

}  // namespace moe4
