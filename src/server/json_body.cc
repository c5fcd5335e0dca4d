// Builds documents event by event: nlohmann's own parser of ordered objects searches each for every
// member, and a hostile body would cost minutes.
#include "server/json_body.h"

#include <unordered_set>
#include <utility>
#include <vector>

#include "base/error.h"
#include "server/api_error.h"

namespace moe4::server {
namespace {

constexpr size_t kMaxDepth = 100;

class DocumentBuilder final : public nlohmann::json_sax<JsonValue> {
 public:
  explicit DocumentBuilder(JsonValue& root) : root_(root) {}

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t&) override { return add(value); }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t&) override { return false; }
  bool start_object(size_t) override { return open(JsonValue::object()); }
  bool start_array(size_t) override { return open(JsonValue::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& key) override {
    if (!open_.back().names.insert(key).second) {
      throw ApiError(400, "the JSON body names the member '" + printable(key, 80) + "' twice");
    }
    key_ = std::move(key);
    return true;
  }

  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    const std::string at = " at byte " + std::to_string(position);
    if (dynamic_cast<const JsonValue::out_of_range*>(&error) != nullptr) {
      throw ApiError(400, "the body has a number that is out of range" + at);
    }
    const bool utf8 = std::string_view(error.what()).find("UTF-8") != std::string_view::npos;
    throw ApiError(400, (utf8 ? "the body is not valid UTF-8" : "the body is not valid JSON") + at);
  }

 private:
  struct Container {
    JsonValue* value;  // stays where it is: only the innermost container grows
    std::unordered_set<std::string> names;
  };

  bool add(JsonValue value) {
    place(std::move(value));
    return true;
  }

  bool open(JsonValue value) {
    if (open_.size() == kMaxDepth) {
      throw ApiError(
          400, "the JSON body is nested deeper than " + std::to_string(kMaxDepth) + " levels");
    }
    open_.push_back({place(std::move(value)), {}});
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  JsonValue* place(JsonValue value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    JsonValue& container = *open_.back().value;
    if (container.is_array()) {
      container.push_back(std::move(value));
      return &container.back();
    }
    // Past the search for an equal name, which key() has done.
    using Object = JsonValue::object_t;
    auto& members = static_cast<Object::Container&>(container.get_ref<Object&>());
    members.emplace_back(std::move(key_), std::move(value));
    return &members.back().second;
  }

  JsonValue& root_;
  std::vector<Container> open_;
  std::string key_;
};

}  // namespace

JsonValue parse_body(const std::string& text) {
  JsonValue root;
  DocumentBuilder builder(root);
  JsonValue::sax_parse(text, &builder);
  return root;
}

std::string dump(const JsonValue& value) {
  return value.dump(-1, ' ', false, JsonValue::error_handler_t::replace);
}

const char* type_words(const JsonValue& value) {
  switch (value.type()) {
    case JsonValue::value_t::null:
      return "null";
    case JsonValue::value_t::boolean:
      return "a boolean";
    case JsonValue::value_t::number_integer:
    case JsonValue::value_t::number_unsigned:
      return "a whole number";
    case JsonValue::value_t::number_float:
      return "a number";
    case JsonValue::value_t::string:
      return "a string";
    case JsonValue::value_t::array:
      return "a list";
    case JsonValue::value_t::object:
      return "an object";
    default:
      return "something else";
  }
}

}  // namespace moe4::server
