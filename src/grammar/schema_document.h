// The text of a JSON schema: its places, and references between them.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace moe4::grammar {

/// Keeps the order of members.
using SchemaJson = nlohmann::ordered_json;

/// Parsed once, never changed: places are addresses.
class SchemaDocument {
 public:
  static constexpr size_t kMaxBytes = 1'000'000;
  static constexpr size_t kMaxValues = 100'000;
  static constexpr size_t kMaxMembers = 2'000;  ///< of one object
  static constexpr size_t kMaxDepth = 200;

  /// Throws Error(kUsage) for text that is no JSON, has a key twice, or is past the limits.
  explicit SchemaDocument(std::string_view text);
  SchemaDocument(const SchemaDocument&) = delete;
  SchemaDocument& operator=(const SchemaDocument&) = delete;

  const SchemaJson& root() const { return root_; }
  /// A number for every value of the document, in its order.
  uint32_t id(const SchemaJson& place) const { return places_.at(&place).id; }
  const SchemaJson& place(uint32_t id) const { return *order_[id]; }
  /// "/properties/name"; "" for the root.
  std::string pointer(const SchemaJson& place) const;
  /// Whether it says that it follows a draft before 2019-09, where $ref stands alone.
  bool ref_stands_alone() const { return ref_stands_alone_; }

  /// What `"$ref": reference` means in the schema `from`. Throws Error(kUsage) for one that leads
  /// nowhere or out of the document.
  const SchemaJson& resolve(const SchemaJson& from, const std::string& reference) const;

  /// Throws Error(kUsage): the schema's keyword at its pointer, and what is wrong with it.
  [[noreturn]] void fail(const SchemaJson& schema, std::string_view keyword,
                         const std::string& what) const;

 private:
  struct Place {
    const SchemaJson* parent = nullptr;
    std::string key;  // in the parent
    uint32_t id = 0;
  };

  bool is_data(const SchemaJson& place) const;
  void index(const SchemaJson& value, const SchemaJson* parent, std::string key);

  SchemaJson root_;
  bool ref_stands_alone_ = false;
  std::unordered_map<const SchemaJson*, Place> places_;
  std::vector<const SchemaJson*> order_;
};

}  // namespace moe4::grammar
