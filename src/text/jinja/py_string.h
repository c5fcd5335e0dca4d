// Python's string operations on UTF-8: positions count code points.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace moe4::jinja {

int64_t count_code_points(std::string_view text);
std::vector<std::string_view> code_points(std::string_view text);

/// Bytes of the first `count` characters.
size_t code_point_offset(std::string_view text, int64_t count);
/// The first `count` characters; all when it is negative.
std::string_view first_code_points(std::string_view text, int64_t count);

/// Byte position, or npos. Linear in the text, whatever the needle.
size_t find_bytes(std::string_view text, std::string_view needle, size_t from = 0);
size_t rfind_bytes(std::string_view text, std::string_view needle);

/// nullopt strips white space, otherwise any of the given characters.
std::string_view strip(std::string_view text, const std::optional<std::string>& characters,
                       bool left, bool right);

/// str.split: at white space without a separator; `max_splits` < 0 is no limit. The separator must
/// not be empty.
std::vector<std::string> split(std::string_view text, const std::optional<std::string>& separator,
                               int64_t max_splits);
std::vector<std::string> rsplit(std::string_view text, const std::optional<std::string>& separator,
                                int64_t max_splits);
std::vector<std::string> split_lines(std::string_view text, bool keep_ends);

/// `count` < 0 replaces all.
std::string replace(std::string_view text, std::string_view old, std::string_view fresh,
                    int64_t count);

/// Not empty, and the predicate (one of unicode_properties.h) holds for every character.
bool all_of(std::string_view text, bool (*predicate)(char32_t));

std::string repr(std::string_view text);              // with Python's choice of quotes
std::string escape_non_ascii(std::string_view text);  // what ascii() does after repr()
std::string escape_html(std::string_view text);       // as markupsafe does

}  // namespace moe4::jinja
