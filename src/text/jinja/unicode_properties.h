// What Python's str knows of characters, exactly as of Unicode 14 (Python 3.11).
#pragma once

namespace moe4::jinja {

bool is_space(char32_t c);           // str.isspace()
bool is_letter(char32_t c);          // str.isalpha()
bool is_decimal(char32_t c);         // str.isdecimal()
bool is_digit(char32_t c);           // str.isdigit(): with superscripts and digits in circles
bool is_numeric(char32_t c);         // str.isnumeric(): with fractions, Roman and Han numerals
bool is_alphanumeric(char32_t c);    // str.isalnum()
bool is_printable(char32_t c);       // str.isprintable()
bool is_lowercase(char32_t c);       // str.islower()
bool is_uppercase(char32_t c);       // str.isupper()
bool is_titlecase(char32_t c);       // general category Lt
bool is_cased(char32_t c);           // Unicode's Cased
bool is_case_ignorable(char32_t c);  // Unicode's Case_Ignorable, without those that are Cased

}  // namespace moe4::jinja
