// Arguments are written as an object, by some models as a string of one.
#include "dialog/arguments_reader.h"

#include <nlohmann/json.hpp>
#include <optional>

namespace moe4 {

Progress read_json(TextReader& reader, JsonScanner& scanner, std::string* out) {
  if (out->empty()) reader.skip_space();
  reader.skip(scanner.read(reader.rest(), out));
  if (reader.closed() && reader.empty()) scanner.finish();
  switch (scanner.status()) {
    case JsonScanner::Status::kDone:
      return Progress::kDone;
    case JsonScanner::Status::kBad:
      return Progress::kBad;
    default:
      return Progress::kMore;
  }
}

Progress ArgumentsReader::read(TextReader& reader, std::string* piece) {
  if (kind_ == Kind::kUnknown) {
    reader.skip_space();
    if (reader.empty()) return Progress::kMore;
    const char first = reader.rest().front();
    if (first != '{' && first != '"' && first != 'n') return Progress::kBad;
    kind_ = first == '{' ? Kind::kObject : Kind::kOther;
  }
  if (kind_ == Kind::kObject) {
    reader.skip(scanner_.read(reader.rest(), piece));
    if (scanner_.status() == JsonScanner::Status::kDone) return Progress::kDone;
    return scanner_.status() == JsonScanner::Status::kBad ? Progress::kBad : Progress::kMore;
  }
  const Progress progress = read_json(reader, scanner_, &other_);
  if (progress != Progress::kDone) return progress;
  if (other_ == "null") {
    *piece += "{}";
    return Progress::kDone;
  }
  const auto text = nlohmann::json::parse(other_).get<std::string>();
  const std::optional<std::string> object = as_json(text, "{");
  if (!object) return Progress::kBad;
  *piece += *object;
  return Progress::kDone;
}

}  // namespace moe4
