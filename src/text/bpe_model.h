// Byte-pair encoding: a vocabulary of byte strings, or of texts, and the order in which neighbours
// merge.
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

struct BpeOptions {
  /// The vocabulary is of texts, as SentencePiece's are: merging begins with characters. Otherwise
  /// tokens spell bytes in GPT-2's alphabet, and merging begins with bytes.
  bool of_text = false;
  bool ignore_merges = false;  // a piece that is a token is taken whole
  // Of a model of texts only:
  bool byte_fallback = false;  // a character without a token becomes the tokens <0xNN> of its bytes
  std::string unk_token;       // where that fails, this one; empty: nothing
  bool fuse_unk = false;       // one unk_token for several such characters
};

class BpeModel {
 public:
  /// `name` is for messages. Throws Error(kBadInput) for ids given twice, far-away ids, merges of
  /// unknown tokens, and an unk_token that could occur and is not in the vocabulary.
  BpeModel(const TokenizerJson& json, const BpeOptions& options, const std::string& name);
  /// tiktoken's rule: two neighbours merge where their bytes together are a token of the
  /// vocabulary, the lowest id first; a piece that is a token is taken whole. Reads no merges.
  static BpeModel of_ranks(const TokenizerJson& json, const std::string& name);

  BpeModel(BpeModel&&) = default;
  BpeModel& operator=(BpeModel&&) = default;

  /// Ids of one piece of text, appended. O(n log n) in the length of the piece. What neither the
  /// vocabulary nor an option covers vanishes, as it does upstream.
  void encode(std::string_view piece, BpeScratch* scratch, std::vector<int32_t>* ids) const;

  /// Bytes of a token, or its spelling in a model of texts; empty for an id without one.
  std::string_view bytes(int32_t id) const;
  /// By the spelling in the file ("Ġthe").
  std::optional<int32_t> find_spelling(std::string_view spelling) const;
  /// True when all 256 bytes have a token (of texts: by byte_fallback).
  bool covers_all_bytes() const;
  int64_t id_limit() const { return static_cast<int64_t>(bytes_of_id_.size()); }

 private:
  explicit BpeModel(const BpeOptions& options) : options_(options) {}
  void add_vocab(const TokenizerJson& json, const std::string& name);
  void add_merges(const TokenizerJson& json, const std::string& name);
  void add_all_merges();
  int32_t find_piece(std::string_view piece) const;
  void add_byte_symbols(std::string_view piece, std::vector<BpeScratch::Symbol>* symbols) const;
  void add_text_symbols(std::string_view piece, std::vector<BpeScratch::Symbol>* symbols) const;

  std::vector<std::string> bytes_of_id_;
  StringTable id_of_spelling_;
  StringTable id_of_bytes_;                // for ignore_merges only, not for texts
  std::array<int32_t, 256> id_of_byte_{};  // -1: no such token
  MergeTable merges_;
  BpeOptions options_;
  int32_t unk_id_ = -1;
};

}  // namespace moe4
