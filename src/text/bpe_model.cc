// Merging with a heap over a doubly linked list: the pair of lowest rank first, the leftmost of
// equals.
#include "text/bpe_model.h"

#include <algorithm>

#include "base/error.h"
#include "text/byte_alphabet.h"
#include "text/utf8.h"

namespace moe4 {
namespace {

uint64_t pair_key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

// The finaliser of splitmix64: every input bit reaches every output bit.
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

constexpr size_t kMaxPieceBytes = size_t{1} << 30;

// <0x0A>, as SentencePiece names the tokens of bytes.
std::string byte_token(unsigned char byte) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  return std::string("<0x") + kDigits[byte >> 4] + kDigits[byte & 15] + ">";
}

void append_symbol(int32_t id, std::vector<BpeScratch::Symbol>* symbols) {
  const auto position = static_cast<int32_t>(symbols->size());
  symbols->push_back({id, position - 1, position + 1});
}

}  // namespace

void MergeTable::reserve(size_t count) {
  size_t size = 16;
  while (size < 2 * count) size *= 2;
  slots_.assign(size, Slot{});
}

size_t MergeTable::slot_of(uint64_t pair) const {
  const size_t mask = slots_.size() - 1;
  size_t slot = mix(pair) & mask;
  while (slots_[slot].pair != pair && slots_[slot].pair != kEmpty) slot = (slot + 1) & mask;
  return slot;
}

void MergeTable::insert(int32_t left, int32_t right, Merge merge) {
  const uint64_t pair = pair_key(left, right);
  slots_[slot_of(pair)] = {pair, merge};
}

const MergeTable::Merge* MergeTable::find(int32_t left, int32_t right) const {
  const Slot& slot = slots_[slot_of(pair_key(left, right))];
  return slot.pair == kEmpty ? nullptr : &slot.merge;
}

BpeModel::BpeModel(const TokenizerJson& json, const BpeOptions& options, const std::string& name)
    : options_(options) {
  add_vocab(json, name);
  add_merges(json, name);
  if (options_.unk_token.empty()) return;
  unk_id_ = id_of_spelling_.find(options_.unk_token);
  if (unk_id_ < 0 && !covers_all_bytes()) {
    throw_bad_input({.what = "unk_token is not in the vocabulary",
                     .file = name,
                     .tensor = "model.unk_token",
                     .found = options_.unk_token});
  }
}

BpeModel BpeModel::of_ranks(const TokenizerJson& json, const std::string& name) {
  BpeModel model(BpeOptions{.ignore_merges = true});
  model.add_vocab(json, name);
  model.add_all_merges();
  return model;
}

void BpeModel::add_vocab(const TokenizerJson& json, const std::string& name) {
  if (json.vocab.empty()) {
    throw_bad_input({.what = "vocabulary is empty", .file = name, .tensor = "model.vocab"});
  }
  int64_t limit = 0;
  for (const auto& [spelling, id] : json.vocab) limit = std::max<int64_t>(limit, int64_t{id} + 1);
  // Added tokens may sit in holes of the vocabulary, but a table of ids must not be mostly holes.
  const int64_t most = 2 * static_cast<int64_t>(json.vocab.size()) + 65536;
  if (limit > most) {
    throw_bad_input({.what = "token ids have large holes",
                     .file = name,
                     .tensor = "model.vocab",
                     .expected = "ids below " + std::to_string(most),
                     .found = std::to_string(limit - 1)});
  }
  std::vector<bool> taken(static_cast<size_t>(limit));
  bytes_of_id_.resize(static_cast<size_t>(limit));
  id_of_byte_.fill(-1);
  id_of_spelling_ = StringTable(json.vocab.size());
  const bool by_bytes = options_.ignore_merges && !options_.of_text;
  if (by_bytes) id_of_bytes_ = StringTable(json.vocab.size());
  for (const auto& [spelling, id] : json.vocab) {
    const auto index = static_cast<size_t>(id);
    if (taken[index]) {
      throw_bad_input({.what = "token id " + std::to_string(id) + " is given twice",
                       .file = name,
                       .tensor = "model.vocab",
                       .found = spelling});
    }
    taken[index] = true;
    std::string& bytes = bytes_of_id_[index];
    if (options_.of_text) {
      bytes = spelling;
    } else {
      const std::optional<std::string> spelled = bytes_of_spelling(spelling);
      bytes = spelled ? *spelled : spelling;
      if (spelled && bytes.size() == 1) id_of_byte_[static_cast<unsigned char>(bytes[0])] = id;
      if (spelled && by_bytes) id_of_bytes_.insert(bytes, id);
    }
    if (!id_of_spelling_.insert(spelling, id)) {
      throw_bad_input({.what = "token with id " + std::to_string(id) + " is listed twice",
                       .file = name,
                       .tensor = "model.vocab",
                       .found = spelling});
    }
  }
  if (!options_.of_text || !options_.byte_fallback) return;
  for (size_t byte = 0; byte < id_of_byte_.size(); ++byte) {
    id_of_byte_[byte] = id_of_spelling_.find(byte_token(static_cast<unsigned char>(byte)));
  }
}

void BpeModel::add_merges(const TokenizerJson& json, const std::string& name) {
  merges_.reserve(json.merges.size());
  uint32_t rank = 0;
  std::string joined;
  for (const auto& merge : json.merges) {
    const std::string& left = merge.first;
    const std::string& right = merge.second;
    joined.assign(left).append(right);
    const auto known = [&](const std::string& token) {
      const int32_t id = id_of_spelling_.find(token);
      if (id < 0) {
        throw_bad_input({.what = "merge number " + std::to_string(rank) + " of \"" +
                                 printable(left, 60) + "\" and \"" + printable(right, 60) +
                                 "\" needs a token that the vocabulary lacks",
                         .file = name,
                         .tensor = "model.merges",
                         .found = token});
      }
      return id;
    };
    const int32_t left_id = known(left);
    const int32_t right_id = known(right);
    merges_.insert(left_id, right_id, {rank, known(joined)});
    ++rank;
  }
}

// Every cut of every token into two tokens.
void BpeModel::add_all_merges() {
  struct Cut {
    int32_t left, right, result;
  };
  std::vector<Cut> cuts;
  for (size_t id = 0; id < bytes_of_id_.size(); ++id) {
    const std::string_view whole = bytes_of_id_[id];
    for (size_t at = 1; at < whole.size(); ++at) {
      const int32_t left = id_of_bytes_.find(whole.substr(0, at));
      const int32_t right = left < 0 ? -1 : id_of_bytes_.find(whole.substr(at));
      if (right >= 0) cuts.push_back({left, right, static_cast<int32_t>(id)});
    }
  }
  merges_.reserve(cuts.size());
  for (const Cut& cut : cuts) {
    merges_.insert(cut.left, cut.right, {static_cast<uint32_t>(cut.result), cut.result});
  }
}

int32_t BpeModel::find_piece(std::string_view piece) const {
  return options_.of_text ? id_of_spelling_.find(piece) : id_of_bytes_.find(piece);
}

void BpeModel::add_byte_symbols(std::string_view piece,
                                std::vector<BpeScratch::Symbol>* symbols) const {
  for (const char c : piece) {
    const int32_t id = id_of_byte_[static_cast<unsigned char>(c)];
    if (id >= 0) append_symbol(id, symbols);
  }
}

void BpeModel::add_text_symbols(std::string_view piece,
                                std::vector<BpeScratch::Symbol>* symbols) const {
  // Upstream puts an unk_token down when the next known character comes: bytes that lie between
  // the two stand before it.
  bool unk_waits = false;
  const auto put_unk = [&] {
    if (unk_waits) append_symbol(unk_id_, symbols);
    unk_waits = false;
  };
  for (size_t position = 0; position < piece.size();) {
    const size_t begin = position;
    next_code_point(piece, &position);
    const std::string_view character = piece.substr(begin, position - begin);
    if (const int32_t id = id_of_spelling_.find(character); id >= 0) {
      put_unk();
      append_symbol(id, symbols);
      continue;
    }
    const auto has_token = [&](char c) { return id_of_byte_[static_cast<unsigned char>(c)] >= 0; };
    if (options_.byte_fallback && std::all_of(character.begin(), character.end(), has_token)) {
      add_byte_symbols(character, symbols);
      continue;
    }
    if (unk_id_ < 0) continue;
    if (!options_.fuse_unk) put_unk();
    unk_waits = true;
  }
  put_unk();
}

void BpeModel::encode(std::string_view piece, BpeScratch* scratch,
                      std::vector<int32_t>* ids) const {
  if (options_.ignore_merges) {
    if (const int32_t id = find_piece(piece); id >= 0) {
      ids->push_back(id);
      return;
    }
  }
  if (piece.size() > kMaxPieceBytes) {
    throw_bad_input({.what = "text has a word of more than 2^30 bytes"});
  }
  std::vector<BpeScratch::Symbol>& symbols = scratch->symbols;
  std::vector<BpeScratch::Candidate>& heap = scratch->heap;
  symbols.clear();
  heap.clear();
  if (options_.of_text) {
    add_text_symbols(piece, &symbols);
  } else {
    add_byte_symbols(piece, &symbols);
  }
  if (symbols.empty()) return;
  symbols.back().next = -1;

  const auto consider = [&](int32_t position) {
    const BpeScratch::Symbol& left = symbols[static_cast<size_t>(position)];
    if (left.next < 0) return;
    const auto* merge = merges_.find(left.id, symbols[static_cast<size_t>(left.next)].id);
    if (merge == nullptr) return;
    heap.push_back({merge->rank, position, merge->result});
    std::push_heap(heap.begin(), heap.end());
  };
  for (size_t i = 0; i + 1 < symbols.size(); ++i) consider(static_cast<int32_t>(i));

  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    const BpeScratch::Candidate best = heap.back();
    heap.pop_back();
    BpeScratch::Symbol& left = symbols[static_cast<size_t>(best.position)];
    if (left.id < 0 || left.next < 0) continue;
    BpeScratch::Symbol& right = symbols[static_cast<size_t>(left.next)];
    const auto* merge = merges_.find(left.id, right.id);
    if (merge == nullptr || merge->result != best.result) continue;  // a neighbour changed since
    left.id = best.result;
    right.id = -1;
    left.next = right.next;
    if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = best.position;
    if (left.previous >= 0) consider(left.previous);
    consider(best.position);
  }
  for (int32_t i = 0; i >= 0; i = symbols[static_cast<size_t>(i)].next) {
    ids->push_back(symbols[static_cast<size_t>(i)].id);
  }
}

std::string_view BpeModel::bytes(int32_t id) const {
  if (id < 0 || static_cast<size_t>(id) >= bytes_of_id_.size()) return {};
  return bytes_of_id_[static_cast<size_t>(id)];
}

std::optional<int32_t> BpeModel::find_spelling(std::string_view spelling) const {
  const int32_t id = id_of_spelling_.find(spelling);
  if (id < 0) return std::nullopt;
  return id;
}

bool BpeModel::covers_all_bytes() const {
  return std::none_of(id_of_byte_.begin(), id_of_byte_.end(), [](int32_t id) { return id < 0; });
}

}  // namespace moe4
