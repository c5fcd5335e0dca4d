// Parses safetensors headers event by event, without a document tree: real ones have 200,000
// tensors.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/checked_math.h"
#include "base/error.h"
#include "checkpoint/safetensors.h"

namespace moe4 {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxRank = 16;

// Accepts exactly {"name": {"dtype": str, "shape": [int], "data_offsets": [int, int]}, ...,
// "__metadata__": {str: str}}; anything else stops the parser with a reason.
class HeaderHandler : public nlohmann::json_sax<Json> {
 public:
  explicit HeaderHandler(SafetensorsHeader& header) : header_(header) {}

  const std::string& problem() const { return problem_; }
  const std::string& where() const { return name_; }
  size_t error_byte() const { return error_byte_; }

  bool start_object(size_t) override {
    if (depth_ == 2 || in_array_) return stop("an object where a value belongs");
    ++depth_;
    return true;
  }

  bool end_object() override {
    if (--depth_ == 1) {
      if (!in_metadata_ && !finish_tensor()) return false;
      in_metadata_ = false;
    }
    return true;
  }

  bool key(string_t& key) override {
    if (depth_ == 1) {
      name_ = key;
      if (key == "__metadata__") {
        if (metadata_seen_) return stop("__metadata__ appears twice");
        in_metadata_ = metadata_seen_ = true;
      } else {
        tensor_ = TensorInfo{.name = key};
        offsets_.clear();
        has_dtype_ = has_shape_ = has_offsets_ = false;
      }
      return true;
    }
    key_ = key;
    if (in_metadata_) return true;
    bool* seen = key == "dtype"          ? &has_dtype_
                 : key == "shape"        ? &has_shape_
                 : key == "data_offsets" ? &has_offsets_
                                         : nullptr;
    if (seen == nullptr) return stop("unknown key '" + printable(key, 40) + "'");
    if (*seen) return stop("duplicate key '" + key + "'");
    return *seen = true;
  }

  bool string(string_t& value) override {
    if (depth_ != 2) return stop("a string where an object belongs");
    if (in_metadata_) {
      if (!header_.metadata.emplace(key_, value).second) return stop("duplicate metadata key");
      return true;
    }
    if (key_ != "dtype") return stop("a string in '" + key_ + "'");
    tensor_.dtype_name = value;
    tensor_.dtype = parse_dtype(value);
    return true;
  }

  bool start_array(size_t) override {
    if (depth_ != 2 || in_array_ || in_metadata_ || key_ == "dtype") {
      return stop("an array where it does not belong");
    }
    return in_array_ = true;
  }

  bool end_array() override {
    in_array_ = false;
    return true;
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (!in_array_) return stop("a number where it does not belong");
    if (value > static_cast<uint64_t>(INT64_MAX)) return stop("'" + key_ + "' above 2^63");
    std::vector<int64_t>& list = key_ == "shape" ? tensor_.shape : offsets_;
    if (list.size() == kMaxRank) return stop("too many numbers in '" + key_ + "'");
    list.push_back(static_cast<int64_t>(value));
    return true;
  }

  bool number_integer(number_integer_t) override {
    return stop("a negative number in '" + key_ + "'");
  }
  bool number_float(number_float_t, const string_t&) override {
    return stop("a number in '" + key_ + "' that is not a 64-bit whole number");
  }
  bool null() override { return stop("null"); }
  bool boolean(bool) override { return stop("true or false"); }
  bool binary(binary_t&) override { return stop("binary data"); }
  bool parse_error(size_t position, const std::string&, const Json::exception&) override {
    error_byte_ = position;
    name_.clear();
    return stop("JSON syntax error or invalid UTF-8");
  }

 private:
  bool stop(std::string problem) {
    problem_ = std::move(problem);
    return false;
  }

  bool finish_tensor() {
    if (!has_dtype_ || !has_shape_ || !has_offsets_) {
      return stop("dtype, shape or data_offsets is missing");
    }
    if (offsets_.size() != 2) return stop("data_offsets must be two numbers");
    tensor_.begin = offsets_[0];
    tensor_.end = offsets_[1];
    if (tensor_.begin > tensor_.end) {
      return stop(fmt::format("data_offsets [{}, {}] run backwards", tensor_.begin, tensor_.end));
    }
    // Zero dimensions are left out of the product first, so that no order of multiplying the shape
    // can overflow later.
    std::optional<int64_t> bytes = tensor_.dtype ? size_of(*tensor_.dtype) : 1;
    for (int64_t dim : tensor_.shape)
      bytes = bytes ? checked_mul(*bytes, std::max<int64_t>(dim, 1)) : bytes;
    const std::string what = tensor_.dtype_name + " " + shape_to_string(tensor_.shape);
    if (!bytes) return stop(what + " takes more than 2^63 bytes");
    if (std::find(tensor_.shape.begin(), tensor_.shape.end(), 0) != tensor_.shape.end()) bytes = 0;
    if (tensor_.dtype && *bytes != tensor_.end - tensor_.begin) {
      return stop(fmt::format("{} takes {} bytes, data_offsets span {}", what, *bytes,
                              tensor_.end - tensor_.begin));
    }
    header_.tensors.push_back(std::move(tensor_));
    return true;
  }

  SafetensorsHeader& header_;
  std::string problem_;
  std::string name_;  // of the tensor being read
  std::string key_;
  TensorInfo tensor_;
  std::vector<int64_t> offsets_;
  int depth_ = 0;
  size_t error_byte_ = 0;
  bool in_array_ = false;
  bool in_metadata_ = false;
  bool metadata_seen_ = false;
  bool has_dtype_ = false;
  bool has_shape_ = false;
  bool has_offsets_ = false;
};

// The reference implementation demands that tensors tile the data: no hole in which something could
// hide, no byte that two names share.
void check_tiling(const SafetensorsHeader& header, const std::string& file) {
  std::vector<const TensorInfo*> by_offset;
  by_offset.reserve(header.tensors.size());
  for (const TensorInfo& tensor : header.tensors) by_offset.push_back(&tensor);
  std::sort(by_offset.begin(), by_offset.end(), [](const TensorInfo* a, const TensorInfo* b) {
    return std::pair(a->begin, a->end) < std::pair(b->begin, b->end);
  });
  int64_t end = 0;
  for (const TensorInfo* tensor : by_offset) {
    if (tensor->begin != end) {
      throw_bad_input({.what = tensor->begin < end ? "tensor overlaps its neighbour"
                                                   : "gap before tensor in safetensors data",
                       .file = file,
                       .tensor = "tensor " + tensor->name,
                       .expected = fmt::format("data_offsets from {}", end),
                       .found = std::to_string(tensor->begin)});
    }
    end = tensor->end;
  }
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::string_view json, const std::string& file) {
  SafetensorsHeader header;
  if (json.empty() || json.front() != '{') {
    throw_bad_input({.what = "safetensors header does not begin with '{'",
                     .file = file,
                     .hint = "this is not a safetensors file"});
  }
  HeaderHandler handler(header);
  if (!Json::sax_parse(json.begin(), json.end(), &handler)) {
    const bool syntax = handler.where().empty() && handler.error_byte() != 0;
    throw_bad_input(
        {.what = "bad safetensors header",
         .file = file,
         .tensor = handler.where().empty() ? "" : "tensor " + handler.where(),
         .found = syntax ? fmt::format("{} at byte {}", handler.problem(), handler.error_byte() + 8)
                         : handler.problem()});
  }
  std::sort(header.tensors.begin(), header.tensors.end(),
            [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; });
  for (size_t i = 1; i < header.tensors.size(); ++i) {
    if (header.tensors[i - 1].name == header.tensors[i].name) {
      throw_bad_input({.what = "tensor appears twice in safetensors header",
                       .file = file,
                       .tensor = "tensor " + header.tensors[i].name});
    }
  }
  for (const TensorInfo& tensor : header.tensors) {
    header.data_bytes = std::max(header.data_bytes, tensor.end);
  }
  check_tiling(header, file);
  return header;
}

}  // namespace moe4
