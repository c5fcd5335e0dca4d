// nlohmann reads (it keeps the order of keys when asked), our own writer follows json.dumps.
#include "text/jinja/json.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <nlohmann/json.hpp>

#include "text/utf8.h"

namespace moe4::jinja {
namespace {

using nlohmann::ordered_json;

Value from_json(const ordered_json& json, int depth) {
  if (depth > kMaxValueDepth) throw TemplateError("the context is nested too deeply");
  switch (json.type()) {
    case ordered_json::value_t::boolean:
      return Value(json.get<bool>());
    case ordered_json::value_t::number_integer:
      return Value(json.get<int64_t>());
    case ordered_json::value_t::number_unsigned:
      if (json.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        throw TemplateError("the context has an integer beyond 64 bits: " + json.dump());
      }
      return Value(json.get<int64_t>());
    case ordered_json::value_t::number_float:
      return Value(json.get<double>());
    case ordered_json::value_t::string:
      return Value(json.get<std::string>());
    case ordered_json::value_t::array: {
      std::vector<Value> items;
      items.reserve(json.size());
      for (const ordered_json& item : json) items.push_back(from_json(item, depth + 1));
      return Value::list(std::move(items));
    }
    case ordered_json::value_t::object: {
      Dict dict;
      for (const auto& item : json.items()) {
        dict.set(Value(item.key()), from_json(item.value(), depth + 1));
      }
      return Value::dict(std::move(dict));
    }
    default:
      return {};
  }
}

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
    } else if (value.is_float()) {
      write_float(value.as_float());
    } else if (const Text* text = value.text_or_null()) {
      write_string(text->bytes);
    } else if (const List* list = value.list_or_null()) {
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
      } else if (c < 0x20 || (style_.ensure_ascii && c >= 0x7F && c < 0x10000 && c != 0x7F)) {
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

Dict parse_json_object(const std::string& text) {
  ordered_json json;
  try {
    json = ordered_json::parse(text);
  } catch (const ordered_json::exception& error) {
    throw TemplateError(std::string("the context is not valid JSON: ") + error.what());
  }
  if (!json.is_object()) throw TemplateError("the context is not a JSON object");
  return *from_json(json, 0).dict_or_null();
}

std::string to_json(const Value& value, const JsonStyle& style, Budget* budget) {
  Writer writer(style, budget);
  writer.write(value, 0);
  return writer.take();
}

}  // namespace moe4::jinja
