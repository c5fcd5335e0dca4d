// A cursor over the file's bytes that never reads what is not there.
#include "gguf/header.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <set>

#include "base/checked_math.h"
#include "base/error.h"
#include "gguf/metadata.h"

namespace moe4 {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF data is little-endian");

// Real files have about 60 keys and up to a few thousand tensors; llama.cpp's names are shorter
// than 64 bytes and its tensors have at most 4 dimensions.
constexpr uint64_t kMaxKeys = 65536;
constexpr uint64_t kMaxTensors = 1'000'000;
constexpr uint64_t kMaxNameBytes = 1024;
constexpr uint32_t kMaxDimensions = 4;
constexpr uint64_t kDefaultAlignment = 32;
constexpr uint64_t kMaxAlignment = 1 << 20;

// Bytes of a scalar of fixed size; 0 for strings, arrays and numbers of no type.
int64_t scalar_bytes(GgufValueType type) {
  switch (type) {
    case GgufValueType::kU8:
    case GgufValueType::kI8:
    case GgufValueType::kBool:
      return 1;
    case GgufValueType::kU16:
    case GgufValueType::kI16:
      return 2;
    case GgufValueType::kU32:
    case GgufValueType::kI32:
    case GgufValueType::kF32:
      return 4;
    case GgufValueType::kU64:
    case GgufValueType::kI64:
    case GgufValueType::kF64:
      return 8;
    case GgufValueType::kString:
    case GgufValueType::kArray:
      break;
  }
  return 0;
}

template <typename T>
T take_raw(std::string_view& bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  bytes.remove_prefix(sizeof value);
  return value;
}

class Parser {
 public:
  Parser(std::string_view bytes, const std::string& file)
      : all_(bytes), rest_(bytes), file_(file) {}

  GgufHeader parse();

 private:
  [[noreturn]] void fail(const std::string& what, const std::string& expected,
                         const std::string& found, const std::string& hint = "") const {
    throw_bad_input({.what = what,
                     .file = file_,
                     .tensor = where_,
                     .expected = expected,
                     .found = found,
                     .hint = hint});
  }

  void need(uint64_t bytes) const {
    if (bytes <= rest_.size()) return;
    fail("GGUF file ends inside its header", fmt::format("{} more bytes", bytes),
         fmt::format("{} bytes", rest_.size()), "download the file again");
  }

  template <typename T>
  T take() {
    need(sizeof(T));
    return take_raw<T>(rest_);
  }

  std::string_view take_string() {
    const auto length = take<uint64_t>();
    need(length);
    const std::string_view text = rest_.substr(0, length);
    rest_.remove_prefix(length);
    return text;
  }

  std::string take_name(const char* kind) {
    const std::string_view name = take_string();
    // Messages and JSON have them as they are.
    const auto is_control = [](char c) {
      return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
    };
    if (name.empty() || name.size() > kMaxNameBytes || !is_valid_utf8(name) ||
        std::any_of(name.begin(), name.end(), is_control)) {
      fail(fmt::format("unusable name of a {} in a GGUF file", kind),
           fmt::format("1 to {} bytes of UTF-8 without control characters", kMaxNameBytes),
           fmt::format("{} bytes", name.size()));
    }
    return std::string(name);
  }

  GgufValueType take_type() {
    const auto type = take<uint32_t>();
    if (type > static_cast<uint32_t>(GgufValueType::kF64)) {
      fail("unknown type of a GGUF value", "0 to 12", std::to_string(type));
    }
    return static_cast<GgufValueType>(type);
  }

  void check_bool(uint8_t byte) const {
    if (byte > 1) fail("GGUF value is no bool", "0 or 1", std::to_string(byte));
  }

  GgufScalar take_scalar(GgufValueType type);
  GgufArray take_array();
  void take_metadata(uint64_t count);
  GgufTensor take_tensor();
  uint64_t alignment() const;
  void check_tiling(uint64_t alignment);

  std::string_view all_, rest_;
  const std::string& file_;
  std::string where_;  // "key K" or "tensor T", for messages
  GgufHeader header_;
};

GgufScalar Parser::take_scalar(GgufValueType type) {
  if (type == GgufValueType::kString) return take_string();
  need(static_cast<uint64_t>(scalar_bytes(type)));
  if (type == GgufValueType::kBool) check_bool(static_cast<uint8_t>(rest_.front()));
  return take_gguf_scalar(type, rest_);
}

GgufArray Parser::take_array() {
  const GgufValueType type = take_type();
  const auto count = take<uint64_t>();
  if (type == GgufValueType::kArray) {
    fail("array of arrays in a GGUF file", "an array of numbers, bools or strings",
         "an array of arrays");
  }
  // The least that an element takes bounds the count before anything is multiplied.
  const auto element = static_cast<uint64_t>(std::max<int64_t>(scalar_bytes(type), 1));
  const uint64_t least = type == GgufValueType::kString ? 8 : element;
  if (count > rest_.size() / least) {
    fail("GGUF array is longer than its file", fmt::format("at most {}", rest_.size() / least),
         fmt::format("{} elements", count), "download the file again");
  }
  const std::string_view begin = rest_;
  if (type == GgufValueType::kString) {
    for (uint64_t i = 0; i < count; ++i) take_string();
  } else {
    if (type == GgufValueType::kBool) {
      for (uint64_t i = 0; i < count; ++i) check_bool(static_cast<uint8_t>(rest_[i]));
    }
    rest_.remove_prefix(count * element);
  }
  return {.type = type,
          .count = static_cast<int64_t>(count),
          .bytes = begin.substr(0, begin.size() - rest_.size())};
}

void Parser::take_metadata(uint64_t count) {
  for (uint64_t i = 0; i < count; ++i) {
    where_ = fmt::format("key number {}", i);
    std::string key = take_name("key");
    where_ = "key " + key;
    GgufValue value{.type = take_type(), .value = {}};
    if (value.type == GgufValueType::kArray) {
      value.value = take_array();
    } else {
      value.value = take_scalar(value.type);
    }
    if (!header_.metadata.emplace(std::move(key), value).second) {
      fail("key appears twice in a GGUF file", "", "");
    }
  }
}

GgufTensor Parser::take_tensor() {
  GgufTensor tensor{.name = take_name("tensor")};
  where_ = "tensor " + tensor.name;
  const auto dimensions = take<uint32_t>();
  if (dimensions > kMaxDimensions) {
    fail("tensor has too many dimensions", fmt::format("at most {}", kMaxDimensions),
         std::to_string(dimensions));
  }
  std::optional<int64_t> elements = 1;
  for (uint32_t d = 0; d < dimensions; ++d) {
    const auto size = take<uint64_t>();
    if (size == 0 || size > static_cast<uint64_t>(INT64_MAX)) {
      fail("unusable dimension of a tensor", "1 to 2^63 - 1", std::to_string(size));
    }
    // Files have the fastest dimension first.
    tensor.shape.insert(tensor.shape.begin(), static_cast<int64_t>(size));
    if (elements) elements = checked_mul(*elements, tensor.shape.front());
  }
  tensor.type_id = take<uint32_t>();
  tensor.type = find_ggml_type(tensor.type_id);
  const auto offset = take<uint64_t>();
  if (offset > static_cast<uint64_t>(INT64_MAX)) {
    fail("tensor lies beyond any file", "an offset below 2^63", std::to_string(offset));
  }
  tensor.begin = static_cast<int64_t>(offset);
  if (tensor.type == nullptr) return tensor;
  const int64_t row = tensor.shape.empty() ? 1 : tensor.shape.back();
  if (row % tensor.type->block_elements != 0) {
    fail(fmt::format("row of a {} tensor is not whole blocks", tensor.type->name),
         fmt::format("a multiple of {} elements", tensor.type->block_elements),
         std::to_string(row));
  }
  const auto bytes =
      elements ? checked_mul(*elements / tensor.type->block_elements, tensor.type->block_bytes)
               : std::nullopt;
  if (!bytes) fail("tensor takes more than 2^63 bytes", "", "");
  tensor.bytes = *bytes;
  return tensor;
}

uint64_t Parser::alignment() const {
  const auto found = header_.metadata.find("general.alignment");
  if (found == header_.metadata.end()) return kDefaultAlignment;
  const auto* scalar = std::get_if<GgufScalar>(&found->second.value);
  const auto* value = scalar != nullptr ? std::get_if<uint64_t>(scalar) : nullptr;
  if (value == nullptr || !std::has_single_bit(*value) || *value > kMaxAlignment) {
    throw_bad_input({.what = "unusable alignment of a GGUF file",
                     .file = file_,
                     .tensor = "key general.alignment",
                     .expected = fmt::format("a power of two up to {}", kMaxAlignment),
                     .found = value != nullptr ? std::to_string(*value) : "no unsigned number"});
  }
  return *value;
}

// As llama.cpp demands: every tensor begins where the padding behind the one before it ends, so
// that there is no byte that two names share. Where a type is unknown, its size is what is left.
void Parser::check_tiling(uint64_t alignment) {
  const auto unit = static_cast<int64_t>(alignment);
  std::vector<const GgufTensor*> by_offset;
  by_offset.reserve(header_.tensors.size());
  for (const GgufTensor& tensor : header_.tensors) by_offset.push_back(&tensor);
  std::sort(by_offset.begin(), by_offset.end(), [](const GgufTensor* a, const GgufTensor* b) {
    return std::pair(a->begin, a->bytes) < std::pair(b->begin, b->bytes);
  });
  int64_t end = 0;  // of the tensor before
  bool is_exact = true;
  for (const GgufTensor* tensor : by_offset) {
    where_ = "tensor " + tensor->name;
    const auto padded = checked_add(end, unit - 1);
    if (!padded) fail("tensor lies beyond any file", "", "");
    const int64_t expected = *padded / unit * unit;
    if (tensor->begin % unit != 0 || tensor->begin < expected ||
        (is_exact && tensor->begin != expected)) {
      fail(tensor->begin < end ? "tensor overlaps its neighbour in a GGUF file"
                               : "tensor is not where the one before it ends in a GGUF file",
           fmt::format("offset {}", expected), std::to_string(tensor->begin));
    }
    const auto after = checked_add(tensor->begin, tensor->bytes);
    if (!after || !checked_add(*after, header_.data_begin)) {
      fail("tensor lies beyond any file", "", std::to_string(tensor->begin));
    }
    end = *after;
    is_exact = tensor->type != nullptr;
    if (is_exact) header_.data_bytes = std::max(header_.data_bytes, end);
  }
}

GgufHeader Parser::parse() {
  if (!rest_.starts_with(kGgufMagic)) {
    fail("not a GGUF file", "a file that begins with GGUF",
         printable(std::string(rest_.substr(0, 4)), 40));
  }
  rest_.remove_prefix(kGgufMagic.size());
  const auto version = take<uint32_t>();
  if (version != 2 && version != 3) {
    const bool swapped = version != 0 && (version & 0xffff) == 0;
    fail(swapped ? "big-endian GGUF file" : "unsupported version of GGUF",
         "version 2 or 3, little-endian", std::to_string(version), "convert the model again");
  }
  const auto num_tensors = take<uint64_t>();
  const auto num_keys = take<uint64_t>();
  if (num_tensors > kMaxTensors || num_keys > kMaxKeys) {
    fail("GGUF file has too many tensors or keys",
         fmt::format("at most {} and {}", kMaxTensors, kMaxKeys),
         fmt::format("{} and {}", num_tensors, num_keys));
  }
  take_metadata(num_keys);
  std::set<std::string_view> names;
  header_.tensors.reserve(std::min<uint64_t>(num_tensors, rest_.size() / 24));
  for (uint64_t i = 0; i < num_tensors; ++i) {
    where_ = fmt::format("tensor number {}", i);
    header_.tensors.push_back(take_tensor());
  }
  for (const GgufTensor& tensor : header_.tensors) {
    where_ = "tensor " + tensor.name;
    if (!names.insert(tensor.name).second) fail("tensor appears twice in a GGUF file", "", "");
  }
  where_.clear();
  const uint64_t unit = alignment();
  const uint64_t header_bytes = all_.size() - rest_.size();
  header_.data_begin = static_cast<int64_t>((header_bytes + unit - 1) / unit * unit);
  check_tiling(unit);
  return std::move(header_);
}

}  // namespace

std::string_view to_string(GgufValueType type) {
  constexpr std::string_view kNames[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                         "bool", "string", "array", "u64", "i64", "f64"};
  return kNames[static_cast<size_t>(type)];
}

GgufScalar take_gguf_scalar(GgufValueType type, std::string_view& bytes) {
  switch (type) {
    case GgufValueType::kU8:
      return uint64_t{take_raw<uint8_t>(bytes)};
    case GgufValueType::kI8:
      return int64_t{take_raw<int8_t>(bytes)};
    case GgufValueType::kU16:
      return uint64_t{take_raw<uint16_t>(bytes)};
    case GgufValueType::kI16:
      return int64_t{take_raw<int16_t>(bytes)};
    case GgufValueType::kU32:
      return uint64_t{take_raw<uint32_t>(bytes)};
    case GgufValueType::kI32:
      return int64_t{take_raw<int32_t>(bytes)};
    case GgufValueType::kF32:
      return double{take_raw<float>(bytes)};
    case GgufValueType::kBool:
      return take_raw<uint8_t>(bytes) != 0;
    case GgufValueType::kU64:
      return take_raw<uint64_t>(bytes);
    case GgufValueType::kI64:
      return take_raw<int64_t>(bytes);
    case GgufValueType::kF64:
      return take_raw<double>(bytes);
    case GgufValueType::kString: {
      const auto length = take_raw<uint64_t>(bytes);
      const std::string_view text = bytes.substr(0, length);
      bytes.remove_prefix(length);
      return text;
    }
    case GgufValueType::kArray:
      break;
  }
  MOE4_CHECK(false);
  return uint64_t{0};
}

GgufHeader parse_gguf_header(std::string_view bytes, const std::string& file) {
  return Parser(bytes, file).parse();
}

}  // namespace moe4
