// Values of fields and the words for wrong ones.
#include "server/request_fields.h"

#include <cmath>

#include "base/error.h"

namespace moe4::server {

void refuse_field(const std::string& name, const std::string& what) {
  throw ApiError(400, name + ": " + what, name);
}

bool read_boolean(const JsonValue& value, const std::string& name) {
  if (!value.is_boolean()) {
    refuse_field(name, fmt::format("expected true or false, found {}", type_words(value)));
  }
  return value.get<bool>();
}

std::string read_string(const JsonValue& value, const std::string& name) {
  if (!value.is_string()) {
    refuse_field(name, fmt::format("expected a string, found {}", type_words(value)));
  }
  return value.get<std::string>();
}

int64_t read_integer(const JsonValue& value, const std::string& name, int64_t minimum,
                     int64_t maximum) {
  std::optional<int64_t> number;
  if (value.is_number_unsigned()) {
    const auto found = value.get<uint64_t>();
    if (found <= static_cast<uint64_t>(INT64_MAX)) number = static_cast<int64_t>(found);
  } else if (value.is_number_integer()) {
    number = value.get<int64_t>();
  } else if (value.is_number_float()) {
    const auto found = value.get<double>();
    if (found == std::floor(found) && std::abs(found) < 0x1p53) {
      number = static_cast<int64_t>(found);
    }
  } else {
    refuse_field(name, fmt::format("expected a whole number, found {}", type_words(value)));
  }
  if (!number || *number < minimum || *number > maximum) {
    refuse_field(name, fmt::format("{} is out of range: expected a whole number from {} to {}",
                                   dump(value), minimum, maximum));
  }
  return *number;
}

double read_number(const JsonValue& value, const std::string& name, double minimum,
                   double maximum) {
  if (!value.is_number()) {
    refuse_field(name, fmt::format("expected a number, found {}", type_words(value)));
  }
  const auto number = value.get<double>();
  if (!(number >= minimum && number <= maximum)) {
    refuse_field(name, fmt::format("{} is out of range: expected a number from {} to {}", number,
                                   minimum, maximum));
  }
  return number;
}

const JsonValue& read_object(const JsonValue& value, const std::string& name) {
  if (!value.is_object()) {
    refuse_field(name, fmt::format("expected an object, found {}", type_words(value)));
  }
  return value;
}

const JsonValue& read_array(const JsonValue& value, const std::string& name) {
  if (!value.is_array()) {
    refuse_field(name, fmt::format("expected a list, found {}", type_words(value)));
  }
  return value;
}

}  // namespace moe4::server
