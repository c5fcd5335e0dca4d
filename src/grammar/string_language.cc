// Lengths, formats and the spelling of JSON strings.
#include "grammar/string_language.h"

#include <algorithm>
#include <array>
#include <initializer_list>
#include <string>

#include "base/error.h"
#include "grammar/regex.h"

namespace moe4::grammar {
namespace {

Dfa whole(const std::string& pattern) { return regex_language(pattern, RegexMatch::kWhole); }

// RFC 3339. Leap years count; leap seconds and the year 0 are left out.
Dfa date_language() {
  const std::string day_of_any_year =
      "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\\d|30)|"
      "02-(?:0[1-9]|1\\d|2[0-8]))";
  const std::string leap_year =
      "(?:\\d\\d(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)";
  return subtract(whole("\\d{4}-" + day_of_any_year + "|" + leap_year + "-02-29"),
                  regex_language("^0000", RegexMatch::kSearch));
}

std::string time_pattern() {
  return "(?:[01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(?:\\.\\d{1,9})?(?:Z|[+-](?:[01]\\d|2[0-3]):[0-5]"
         "\\d)";
}

Dfa date_time_language() {
  const Dfa shape = whole("\\d{4}-\\d\\d-\\d\\dT" + time_pattern());
  // The date's language followed by anything.
  Dfa date = date_language();
  const auto length = static_cast<uint32_t>(date.num_states());
  const Machine machine{.classes = date.classes,
                        .step = [&](uint64_t state, uint8_t byte) -> uint64_t {
                          if (state == length || date.accepting[state] != 0) return length;
                          const uint32_t to = date.step(static_cast<uint32_t>(state), byte);
                          return to == Dfa::kDead ? Machine::kNowhere : to;
                        },
                        .accepts = [&](uint64_t state) { return state == length; }};
  return intersect(shape, build(machine));
}

std::string duration_pattern() {
  const std::string time = "T(?:\\d+H(?:\\d+M(?:\\d+S)?)?|\\d+M(?:\\d+S)?|\\d+S)";
  return "P(?:\\d+W|(?:\\d+D|\\d+M(?:\\d+D)?|\\d+Y(?:\\d+M(?:\\d+D)?)?)(?:" + time + ")?|" + time +
         ")";
}

// Within 253 characters without counting them: three labels of any length, or eight shorter ones.
std::string hostname_pattern() {
  const auto label = [](int most) {
    return "[A-Za-z0-9](?:[A-Za-z0-9-]{0," + std::to_string(most - 2) + "}[A-Za-z0-9])?";
  };
  return "(?:(?:" + label(63) + "\\.){0,2}" + label(63) + "|(?:" + label(30) + "\\.){0,7}" +
         label(30) + ")";
}

// Labels as xn--... would have to be decoded to be judged.
Dfa without_punycode(const Dfa& names) {
  return subtract(names, regex_language("(?:^|[.@])[^.@]{2}--", RegexMatch::kSearch));
}

std::string email_pattern() {
  const std::string character = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]";
  // Within 64 characters: one dot, or up to three between shorter parts.
  const auto atoms = [&](const std::string& most, const std::string& dots) {
    const std::string atom = character + "{1," + most + "}";
    return atom + "(?:\\." + atom + "){0," + dots + "}";
  };
  return "(?:" + atoms("31", "1") + "|" + atoms("15", "3") + ")@" + hostname_pattern();
}

std::string ipv4_pattern() {
  const std::string octet = "(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)";
  return "(?:" + octet + "\\.){3}" + octet;
}

std::string ipv6_pattern() {
  const std::string group = "[0-9A-Fa-f]{1,4}";
  const std::string last = "(?:" + group + ":" + group + "|" + ipv4_pattern() + ")";
  const auto groups = [&](int most) {
    return "(?:(?:" + group + ":){0," + std::to_string(most) + "}" + group + ")?";
  };
  const auto times = [&](int n) { return "(?:" + group + ":){" + std::to_string(n) + "}"; };
  return "(?:" + times(6) + last + "|::" + times(5) + last + "|(?:" + group + ")?::" + times(4) +
         last + "|" + groups(1) + "::" + times(3) + last + "|" + groups(2) + "::" + times(2) +
         last + "|" + groups(3) + "::" + group + ":" + last + "|" + groups(4) + "::" + last + "|" +
         groups(5) + "::" + group + "|" + groups(6) + "::)";
}

std::string uri_pattern(bool is_relative_too) {
  const std::string escaped = "%[0-9A-Fa-f]{2}";
  const std::string name = "(?:[A-Za-z0-9._~!$&'()*+,;=-]|" + escaped + ")";
  const std::string character = "(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|" + escaped + ")";
  const std::string first = "(?:[A-Za-z0-9._~!$&'()*+,;=@-]|" + escaped + ")";  // without a colon
  const std::string segments = "(?:/" + character + "*)*";
  const std::string authority = "//(?:(?:" + name + "|:)*@)?(?:" + name + "*|\\[" + ipv6_pattern() +
                                "\\])(?::\\d*)?" + segments;
  const std::string rooted = "/(?:" + character + "+" + segments + ")?";
  const std::string end = "(?:\\?(?:" + character + "|[/?])*)?(?:#(?:" + character + "|[/?])*)?";
  std::string absolute = "[A-Za-z][A-Za-z0-9+.-]*:(?:" + authority + "|" + rooted + "|" +
                         character + "+" + segments + "|)" + end;
  if (!is_relative_too) return absolute;
  return absolute + "|(?:" + authority + "|" + rooted + "|" + first + "+" + segments + "|)" + end;
}

constexpr const char* kJsonPointer = "(?:/(?:[^/~]|~[01])*)*";

struct ShortEscape {
  uint8_t byte;
  char letter;
};
constexpr std::array<ShortEscape, 7> kShortEscapes = {
    {{'"', '"'}, {'\\', '\\'}, {'\b', 'b'}, {'\f', 'f'}, {'\n', 'n'}, {'\r', 'r'}, {'\t', 't'}}};

// Where in the spelling of a string we are; the low byte of a machine's state, the content's state
// is above it.
enum Mode : uint64_t { kBefore, kContent, kBackslash, kU, kU0, kU00, kU000, kU001, kAfter };

// Classes that tell apart what spelling looks at.
ByteClasses spelling_classes() {
  ByteClasses classes;
  uint32_t count = 1;
  for (size_t b = 0; b < 0x20; ++b) classes.of[b] = static_cast<uint8_t>(count++);
  for (const char c : std::string_view("\"\\/ubfnrt0123456789abcdef")) {
    auto& number = classes.of[static_cast<uint8_t>(c)];
    if (number == 0) number = static_cast<uint8_t>(count++);
  }
  classes.count = count;
  return classes;
}

int hex_value(uint8_t byte) {
  if (byte >= '0' && byte <= '9') return byte - '0';
  if (byte >= 'a' && byte <= 'f') return byte - 'a' + 10;
  return -1;
}

bool has_short_escape(uint8_t byte) {
  return std::any_of(kShortEscapes.begin(), kShortEscapes.end(),
                     [&](const ShortEscape& escape) { return escape.byte == byte; });
}

}  // namespace

Dfa any_text() { return whole("[^]*"); }

Dfa text_of_length(int64_t min, std::optional<int64_t> max) {
  static const Dfa character = whole("[^]");
  if (max && *max < min) return {};
  // Past `min` without an upper bound, characters are no longer counted.
  const int64_t most = max.value_or(min);
  if (most >= static_cast<int64_t>(kMaxDfaStates)) {
    throw TooComplex("a length above " + std::to_string(kMaxDfaStates));
  }
  const uint64_t states = character.num_states();
  return build({.classes = character.classes,
                .step = [&](uint64_t state, uint8_t byte) -> uint64_t {
                  const uint64_t count = state / states;
                  const uint32_t to = character.step(static_cast<uint32_t>(state % states), byte);
                  if (to == Dfa::kDead) return Machine::kNowhere;
                  if (character.accepting[to] == 0) {
                    const bool is_full = max && count == static_cast<uint64_t>(most);
                    return is_full ? Machine::kNowhere : count * states + to;
                  }
                  if (count < static_cast<uint64_t>(most)) return (count + 1) * states;
                  return max ? Machine::kNowhere : count * states;
                },
                .accepts =
                    [&](uint64_t state) {
                      return state % states == 0 && state / states >= static_cast<uint64_t>(min);
                    }});
}

FormatKind format_kind(std::string_view name) {
  const auto any_of = [&](std::initializer_list<std::string_view> names) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  if (any_of({"date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid",
              "uri", "uri-reference", "json-pointer", "relative-json-pointer", "byte"})) {
    return FormatKind::kLanguage;
  }
  return any_of({"password", "binary"}) ? FormatKind::kAnnotation : FormatKind::kUnknown;
}

Dfa format_language(std::string_view name) {
  if (name == "date") return date_language();
  if (name == "time") return whole(time_pattern());
  if (name == "date-time") return date_time_language();
  if (name == "duration") return whole(duration_pattern());
  if (name == "hostname") return without_punycode(whole(hostname_pattern()));
  if (name == "email") return without_punycode(whole(email_pattern()));
  if (name == "ipv4") return whole(ipv4_pattern());
  if (name == "ipv6") return whole(ipv6_pattern());
  if (name == "uuid") return whole("[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}");
  if (name == "uri") return whole(uri_pattern(false));
  if (name == "uri-reference") return whole(uri_pattern(true));
  if (name == "json-pointer") return whole(kJsonPointer);
  if (name == "relative-json-pointer") {
    return whole(std::string("(?:0|[1-9]\\d*)(?:#|") + kJsonPointer + ")");
  }
  MOE4_CHECK(name == "byte");
  return whole("(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?");
}

Dfa any_json_string() {
  return whole(
      "\"(?:[^\"\\\\\\x00-\\x1f]|\\\\[\"\\\\/bfnrt]|\\\\u(?:[0-9a-cA-Ce-fE-F][0-9a-fA-F]{3}|"
      "[dD][0-7][0-9a-fA-F]{2}|[dD][89abAB][0-9a-fA-F]{2}\\\\u[dD][c-fC-F][0-9a-fA-F]{2}))*\"");
}

Dfa json_spelling(const Dfa& content) {
  if (content.is_empty()) return {};
  const auto at = [](uint32_t state, Mode mode) -> uint64_t {
    return state == Dfa::kDead ? Machine::kNowhere : uint64_t{state} << 8 | mode;
  };
  const auto step = [&](uint64_t key, uint8_t byte) -> uint64_t {
    const auto state = static_cast<uint32_t>(key >> 8);
    const auto go = [&](bool fits, Mode mode) {
      return fits ? at(state, mode) : Machine::kNowhere;
    };
    switch (static_cast<Mode>(key & 0xFF)) {
      case kBefore:
        return go(byte == '"', kContent);
      case kContent:
        if (byte == '"') return go(content.accepting[state] != 0, kAfter);
        if (byte == '\\') return at(state, kBackslash);
        return byte < 0x20 ? Machine::kNowhere : at(content.step(state, byte), kContent);
      case kBackslash:
        if (byte == 'u') return at(state, kU);
        for (const ShortEscape& escape : kShortEscapes) {
          if (byte == static_cast<uint8_t>(escape.letter)) {
            return at(content.step(state, escape.byte), kContent);
          }
        }
        return Machine::kNowhere;
      case kU:
        return go(byte == '0', kU0);
      case kU0:
        return go(byte == '0', kU00);
      case kU00:
        return byte == '1' ? at(state, kU001) : go(byte == '0', kU000);
      case kU000:
      case kU001: {
        const int digit = hex_value(byte);
        if (digit < 0) return Machine::kNowhere;
        const auto code = static_cast<uint8_t>(digit + ((key & 0xFF) == kU001 ? 16 : 0));
        return has_short_escape(code) ? Machine::kNowhere : at(content.step(state, code), kContent);
      }
      case kAfter:
        break;
    }
    return Machine::kNowhere;
  };
  return build({.classes = refine(content.classes, spelling_classes()),
                .start = kBefore,
                .step = step,
                .accepts = [](uint64_t key) { return (key & 0xFF) == kAfter; }});
}

}  // namespace moe4::grammar
