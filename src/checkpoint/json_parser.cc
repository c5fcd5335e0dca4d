// Builds JSON documents event by event: with limits, and in linear time (nlohmann's own filtering
// parser is quadratic in the members of an object).
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/git_lfs.h"
#include "checkpoint/json_reader.h"

namespace moe4 {
namespace {

constexpr size_t kMaxDepth = 64;

// Python writes NaN and Infinity where JSON has no word for them (Mamba's time_step_limit is
// [0, Infinity]). They are replaced in place, so that byte positions in messages stay true.
void replace_python_numbers(std::string& text) {
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
    } else if (c == '"') {
      in_string = true;
    } else if (c == 'I' && text.compare(i, 8, "Infinity") == 0) {
      text.replace(i, 8, "1e308   ");
      i += 7;
    } else if (c == 'N' && text.compare(i, 3, "NaN") == 0) {
      text.replace(i, 3, "\"?\"");
      i += 2;  // the quotes are ours
    }
  }
}

class DocumentBuilder : public nlohmann::json_sax<Json> {
 public:
  DocumentBuilder(Json& root, const std::string& file, std::vector<std::string>* group_order)
      : root_(root), file_(file), group_order_(group_order) {}

  bool start_object(size_t) override { return open(Json::object()); }
  bool start_array(size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& key) override {
    Container& object = open_.back();
    const auto [it, fresh] = object.value->emplace(key, nullptr);
    if (!fresh) {
      throw_bad_input({.what = "duplicate key in JSON",
                       .file = file_,
                       .tensor = "key " + key,
                       .hint = "remove one of the two"});
    }
    if (object.is_groups && group_order_ != nullptr) group_order_->push_back(key);
    member_ = &*it;
    member_is_groups_ = key == "config_groups";
    return true;
  }

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t&) override { return add(value); }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t&) override { return false; }

  bool parse_error(size_t position, const std::string&, const Json::exception& error) override {
    if (dynamic_cast<const Json::out_of_range*>(&error) != nullptr) {
      throw_bad_input({.what = "a number in JSON is out of range",
                       .file = file_,
                       .found = fmt::format("byte {}", position)});
    }
    const bool utf8 = std::string_view(error.what()).find("UTF-8") != std::string_view::npos;
    throw_bad_input({.what = utf8 ? "invalid UTF-8 in JSON" : "JSON syntax error",
                     .file = file_,
                     .found = fmt::format("byte {}", position),
                     .hint = "the file may be incomplete; download it again"});
  }

 private:
  struct Container {
    Json* value;  // stays where it is: only the innermost container grows
    bool is_groups;
  };

  bool add(Json value) {
    *place() = std::move(value);
    return true;
  }

  bool open(Json value) {
    if (open_.size() == kMaxDepth) {
      throw_bad_input({.what = "JSON nested too deeply",
                       .file = file_,
                       .expected = fmt::format("at most {} levels", kMaxDepth)});
    }
    const bool is_groups = member_ != nullptr && member_is_groups_;
    Json* at = place();
    *at = std::move(value);
    open_.push_back({at, is_groups});
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  // Where the next value goes: the member whose key was just read, a new array element, the root.
  Json* place() {
    if (open_.empty()) return &root_;
    if (member_ != nullptr) return std::exchange(member_, nullptr);
    open_.back().value->push_back(nullptr);
    return &open_.back().value->back();
  }

  Json& root_;
  const std::string& file_;
  std::vector<std::string>* group_order_;
  std::vector<Container> open_;
  Json* member_ = nullptr;
  bool member_is_groups_ = false;
};

}  // namespace

Json parse_json(std::string text, const std::string& file, std::vector<std::string>* group_order) {
  refuse_git_lfs_pointer(text, file);
  replace_python_numbers(text);
  Json root;
  DocumentBuilder builder(root, file, group_order);
  Json::sax_parse(text, &builder);
  return root;
}

}  // namespace moe4
