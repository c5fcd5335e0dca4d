// str.format, after string.Formatter and the sandbox's lookup of attributes and items.
#include <algorithm>
#include <optional>

#include "text/jinja/filters.h"
#include "text/jinja/format_spec.h"
#include "text/jinja/operators.h"
#include "text/jinja/py_string.h"
#include "text/jinja/text_format.h"
#include "text/utf8.h"

namespace moe4::jinja {
namespace {

[[noreturn]] void fail(const std::string& what) { throw TemplateError("format: " + what); }

bool is_number(std::string_view text) {
  return !text.empty() && text.size() <= 9 &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

int64_t number_of(std::string_view text) {
  size_t position = 0;
  return read_count(text, &position);
}

struct Field {
  std::string_view name;
  char conversion = '\0';
  std::string_view spec;
};

class BraceFormat {
 public:
  BraceFormat(const Arguments& arguments, Budget* budget)
      : arguments_(arguments), budget_(budget) {}

  std::string render(std::string_view format, int depth) {
    if (depth < 0) fail("fields are nested too deeply");
    std::string out;
    for (size_t position = 0; position < format.size();) {
      const char c = format[position++];
      const bool doubled = position < format.size() && format[position] == c;
      if (c != '{' && c != '}') {
        out += c;
      } else if (doubled) {
        out += c;
        ++position;
      } else if (c == '}') {
        fail("single '}' in the format");
      } else {
        const Field field = read_field(format, &position);
        Value value = convert(look_up(field.name), field.conversion);
        const std::string spec = render(field.spec, depth - 1);
        out += format_value(value, spec, budget_);
      }
      if (static_cast<int64_t>(out.size()) > kMaxTextBytes) budget_->charge_text(kMaxTextBytes + 1);
    }
    budget_->charge_text(static_cast<int64_t>(out.size()));
    return out;
  }

 private:
  static Field read_field(std::string_view format, size_t* position) {
    Field field;
    const size_t begin = *position;
    char c = '\0';
    while (*position < format.size()) {
      c = format[(*position)++];
      if (c == '{') fail("unexpected '{' in a field's name");
      if (c == '}' || c == ':' || c == '!') break;
      if (c == '[') *position = std::min(format.find(']', *position), format.size());
      c = '\0';
    }
    if (c == '\0') fail("expected '}' before the end of the format");
    field.name = format.substr(begin, *position - 1 - begin);
    if (c == '}') return field;
    if (c == '!') {
      if (*position >= format.size()) fail("a conversion is missing");
      field.conversion = format[(*position)++];
      if (*position < format.size()) {
        c = format[(*position)++];
        if (c == '}') return field;
        if (c != ':') fail("expected ':' after the conversion");
      }
    }
    const size_t spec_begin = *position;
    for (int open = 1; *position < format.size(); ++*position) {
      if (format[*position] == '{') ++open;
      if (format[*position] == '}' && --open == 0) {
        field.spec = format.substr(spec_begin, (*position)++ - spec_begin);
        return field;
      }
    }
    fail("unmatched '{' in a format");
  }

  Value look_up(std::string_view name) {
    size_t end = name.find_first_of(".[");
    Value value = argument(name.substr(0, end));
    while (end < name.size()) {
      const bool attribute = name[end] == '.';
      const size_t begin = end + 1;
      end = std::min(attribute ? name.find_first_of(".[", begin) : name.find(']', begin),
                     name.size());
      const std::string_view part = name.substr(begin, end - begin);
      if (part.empty()) fail("empty attribute in a field's name");
      budget_->charge();
      if (attribute) {
        value = get_attribute(value, std::string(part));
        continue;
      }
      if (end >= name.size()) fail("missing ']' in a field's name");
      ++end;
      if (end < name.size() && name[end] != '.' && name[end] != '[') {
        fail("only '.' or '[' may follow ']'");
      }
      const Value key = is_number(part) ? Value(number_of(part)) : Value(std::string(part));
      Value item = get_item(value, key);
      if (item.is_undefined() && key.is_text()) item = get_attribute(value, std::string(part));
      value = std::move(item);
    }
    return value;
  }

  Value argument(std::string_view name) {
    const bool automatic = name.empty();
    if (automatic || is_number(name)) {
      if (automatic ? numbering_ == Numbering::kManual : numbering_ == Numbering::kAutomatic) {
        fail("numbered and automatic fields cannot be mixed");
      }
      numbering_ = automatic ? Numbering::kAutomatic : Numbering::kManual;
      const auto index = static_cast<size_t>(automatic ? next_++ : number_of(name));
      if (index >= arguments_.positional.size()) {
        fail("there is no argument " + std::to_string(index));
      }
      return arguments_.positional[index];
    }
    for (const auto& [given, value] : arguments_.named) {
      if (given == name) return value;
    }
    fail("there is no argument '" + std::string(name) + "'");
  }

  Value convert(Value value, char conversion) {
    if (conversion == '\0') return value;
    budget_->charge(value.weight());
    if (conversion == 's') return Value(to_text(value));
    if (conversion == 'r') return Value(to_repr(value));
    if (conversion == 'a') return Value(escape_non_ascii(to_repr(value)));
    fail(std::string("unknown conversion '") + conversion + "'");
  }

  enum class Numbering { kUnknown, kAutomatic, kManual };

  const Arguments& arguments_;
  Budget* budget_;
  Numbering numbering_ = Numbering::kUnknown;
  int64_t next_ = 0;
};

}  // namespace

std::string format_braces(const std::string& format, const Arguments& arguments, Budget* budget) {
  return BraceFormat(arguments, budget).render(format, 2);
}

}  // namespace moe4::jinja
