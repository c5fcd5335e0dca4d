// nlohmann reads, our own writer follows json.dumps.
#include "text/jinja/json.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <nlohmann/json.hpp>

#include "text/utf8.h"

namespace moe4::jinja {
namespace {

using nlohmann::json;

// Builds values while nlohmann reads, because a tree of its own would make floats of large integers
// and forget the order of keys.
class Reader : public nlohmann::json_sax<json> {
 public:
  Value take() { return std::move(root_); }
  const std::string& error() const { return error_; }

  bool null() override { return put(Value()); }
  bool boolean(bool value) override { return put(Value(value)); }
  bool number_integer(number_integer_t value) override { return put(Value(int64_t{value})); }
  bool number_unsigned(number_unsigned_t value) override {
    if (value <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return put(Value(static_cast<int64_t>(value)));
    }
    return put(integer(std::to_string(value)));
  }
  // Integers beyond 64 bits come here with their digits.
  bool number_float(number_float_t value, const string_t& digits) override {
    const bool whole = digits.find_first_not_of("-0123456789") == std::string::npos;
    return put(whole ? integer(digits) : Value(value));
  }
  bool string(string_t& value) override { return put(Value(std::move(value))); }
  bool binary(binary_t&) override { return false; }

  bool start_object(size_t) override { return open(true); }
  bool key(string_t& name) override {
    open_.back().key = Value(std::move(name));
    return true;
  }
  bool end_object() override {
    Open done = close();
    return put(Value::dict(std::move(done.dict)));
  }
  bool start_array(size_t) override { return open(false); }
  bool end_array() override {
    Open done = close();
    return put(Value::list(std::move(done.items)));
  }
  bool parse_error(size_t, const std::string&, const json::exception& error) override {
    error_ = error.what();
    return false;
  }

 private:
  struct Open {
    bool object = false;
    Value key;
    Dict dict;
    std::vector<Value> items;
  };

  static Value integer(const std::string& text) {
    const bool negative = text.starts_with('-');
    const auto value = BigInt::parse(std::string_view(text).substr(negative ? 1 : 0), 10);
    return Value::integer(negative ? value->negated() : *value);
  }

  bool put(Value value) {
    if (open_.empty()) {
      root_ = std::move(value);
    } else if (open_.back().object) {
      open_.back().dict.set(open_.back().key, std::move(value));
    } else {
      open_.back().items.push_back(std::move(value));
    }
    return true;
  }

  bool open(bool object) {
    if (static_cast<int>(open_.size()) >= kMaxValueDepth) {
      throw TemplateError("JSON is nested too deeply");
    }
    open_.emplace_back().object = object;
    return true;
  }

  Open close() {
    Open done = std::move(open_.back());
    open_.pop_back();
    return done;
  }

  Value root_;
  std::vector<Open> open_;
  std::string error_;
};

class Writer {
 public:
  Writer(const JsonStyle& style, Budget* budget) : style_(style), budget_(budget) {}

  void write(const Value& value, int level) {
    budget_->charge_text(static_cast<int64_t>(out_.size() - charged_));
    charged_ = out_.size();
    if (static_cast<int64_t>(charged_) > kMaxTextBytes) {
      throw TemplateError("tojson makes a text that is too long");
    }
    if (value.is_none()) {
      out_ += "null";
    } else if (value.is_bool()) {
      out_ += value.as_bool() ? "true" : "false";
    } else if (value.is_int()) {
      out_ += std::to_string(value.as_int());
    } else if (value.is_big()) {
      out_ += value.as_big().to_string();
    } else if (value.is_float()) {
      write_float(value.as_float());
    } else if (const Text* text = value.text_or_null()) {
      write_string(text->bytes);
    } else if (const List* list = value.list_or_null(); list != nullptr && list->plain()) {
      write_list(*list, level);
    } else if (const Dict* dict = value.dict_or_null()) {
      write_dict(*dict, level);
    } else {
      throw TemplateError("tojson: a value of type " + value.type_name() +
                          " cannot be written as JSON");
    }
  }

  std::string take() { return std::move(out_); }

 private:
  void write_float(double value) {
    if (std::isnan(value)) {
      out_ += "NaN";
    } else if (std::isinf(value)) {
      out_ += value > 0 ? "Infinity" : "-Infinity";
    } else {
      out_ += float_repr(value);
    }
  }

  void write_unit(char32_t unit) {
    char escaped[16];
    std::snprintf(escaped, sizeof escaped, "\\u%04x", static_cast<unsigned>(unit));
    out_ += escaped;
  }

  void write_string(const std::string& text) {
    out_ += '"';
    for (size_t position = 0; position < text.size();) {
      const size_t begin = position;
      const char32_t c = next_code_point(text, &position);
      const size_t plain = std::string_view("\"\\\n\r\t\f\b").find(static_cast<char>(c));
      if (c < 0x80 && plain != std::string_view::npos) {
        out_ += '\\';
        out_ += "\"\\nrtfb"[plain];
      } else if (c < 0x20 || (style_.ensure_ascii && c >= 0x7F && c < 0x10000)) {
        write_unit(c);
      } else if (style_.ensure_ascii && c >= 0x10000) {
        write_unit(0xD800 + ((c - 0x10000) >> 10));
        write_unit(0xDC00 + ((c - 0x10000) & 0x3FF));
      } else {
        out_.append(text, begin, position - begin);
      }
    }
    out_ += '"';
  }

  void new_line(int level) {
    if (!style_.indent) return;
    out_ += '\n';
    for (int i = 0; i < level; ++i) out_ += *style_.indent;
  }

  void write_list(const List& list, int level) {
    out_ += '[';
    bool first = true;
    for (const Value& item : list.items) {
      if (!first) out_ += style_.item_separator;
      first = false;
      new_line(level + 1);
      write(item, level + 1);
    }
    if (!first) new_line(level);
    out_ += ']';
  }

  void write_dict(const Dict& dict, int level) {
    auto entries = dict.entries();
    if (style_.sort_keys) {
      std::stable_sort(entries.begin(), entries.end(),
                       [](const auto& a, const auto& b) { return compare(a.first, b.first) < 0; });
    }
    out_ += '{';
    bool first = true;
    for (const auto& [key, item] : entries) {
      if (!first) out_ += style_.item_separator;
      first = false;
      new_line(level + 1);
      if (const Text* text = key.text_or_null()) {
        write_string(text->bytes);
      } else {
        out_ += '"';
        write(key, level + 1);
        out_ += '"';
      }
      out_ += style_.key_separator;
      write(item, level + 1);
    }
    if (!first) new_line(level);
    out_ += '}';
  }

  const JsonStyle& style_;
  Budget* budget_;
  std::string out_;
  size_t charged_ = 0;
};

}  // namespace

Value parse_json(std::string_view text) {
  Reader reader;
  if (!json::sax_parse(text, &reader)) {
    throw TemplateError("not valid JSON: " + reader.error());
  }
  return reader.take();
}

std::string to_json(const Value& value, const JsonStyle& style, Budget* budget) {
  Writer writer(style, budget);
  writer.write(value, 0);
  return writer.take();
}

}  // namespace moe4::jinja
