// Upper, lower and title case of whole texts, as Python's str has them.
#pragma once

#include <string>
#include <string_view>

namespace moe4::jinja {

std::string upper(std::string_view text);
std::string lower(std::string_view text);       // with the final sigma
std::string capitalize(std::string_view text);  // str.capitalize()
std::string title(std::string_view text);       // str.title()
std::string swap_case(std::string_view text);   // str.swapcase()
std::string fold_case(std::string_view text);   // str.casefold()

bool is_upper(std::string_view text);
bool is_lower(std::string_view text);
bool is_title(std::string_view text);

}  // namespace moe4::jinja
