// Regular expressions against the standard library's, and what is refused.
#include "grammar/regex.h"

#include <gtest/gtest.h>

#include <random>
#include <regex>
#include <string>

#include "base/error.h"
#include "grammar/string_language.h"

namespace moe4::grammar {
namespace {

TEST(RegexLanguage, AgreesWithTheStandardLibraryOnRandomTexts) {
  const char* const patterns[] = {
      "a",
      "ab|c",
      "^a",
      "a$",
      "^a|b$",
      "^(a|b)*c$",
      "a{2}",
      "^a{2,3}b?$",
      "^a{0,2}$",
      "(ab)+c*",
      "[a-c]1",
      "[^ab]",
      "^[^ab]*$",
      "a.c",
      "^\\d+$",
      "\\w\\s\\w",
      "^$",
      "",
      "(^|b)a",
      "a(b|$)",
      "^(?:a|(b|c)2)+",
      "a*?b",
      "[\\d-]b",
      "^\\-?1",
      "(a|ab)(c|bc)$",
      "^((a{1,2}b){2}|c)$",
      "[]a]",
      "\\x61\\u0062",
      "^a{2}{",
      "x{,2}",
  };
  std::mt19937 rng(1);
  int matches = 0, others = 0;
  for (const std::string pattern : patterns) {
    if (pattern == "[]a]" || pattern == "^a{2}{" || pattern == "x{,2}")
      continue;  // dialects differ
    const std::regex expected(pattern, std::regex::ECMAScript);
    const Dfa search = regex_language(pattern, RegexMatch::kSearch);
    const Dfa whole = regex_language(pattern, RegexMatch::kWhole);
    for (int i = 0; i < 2'000; ++i) {
      std::string text;
      for (size_t n = rng() % 7; n > 0; --n) text += "abc12- _"[rng() % 8];
      const bool found = std::regex_search(text, expected);
      EXPECT_EQ(search.accepts(text), found) << pattern << " in '" << text << "'";
      EXPECT_EQ(whole.accepts(text), std::regex_match(text, expected)) << pattern << ", " << text;
      ++(found ? matches : others);
    }
  }
  EXPECT_GT(matches, 5'000);
  EXPECT_GT(others, 5'000);
}

TEST(RegexLanguage, KnowsCodePoints) {
  const auto whole = [](const char* pattern, const std::string& text) {
    return regex_language(pattern, RegexMatch::kWhole).accepts(text);
  };
  EXPECT_TRUE(whole(".", "é"));
  EXPECT_TRUE(whole("[^a]{2}", "€𝄞"));
  EXPECT_FALSE(whole(".", "\xC3"));
  EXPECT_FALSE(whole("[^]", "\xED\xA0\x80"));  // a surrogate
  EXPECT_FALSE(whole("[^]", "\xF4\x90\x80\x80"));
  EXPECT_TRUE(whole("[à-ü]+", "éèü"));
  EXPECT_FALSE(whole("[à-ü]+", "éa"));
  EXPECT_TRUE(whole("\\u{1D11E}\\uD834\\uDD1E", "𝄞𝄞"));
  EXPECT_TRUE(whole("\\p{Lu}\\p{Letter}*\\P{L}", "Éaz1"));
  EXPECT_FALSE(whole("\\p{Lu}", "é"));
}

TEST(RegexLanguage, RefusesWhatItDoesNotKnow) {
  const auto message = [](const std::string& pattern) -> std::string {
    try {
      regex_language(pattern, RegexMatch::kWhole);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUsage);
      return error.what();
    } catch (const TooComplex& error) {
      return std::string("too complex: ") + error.what();
    }
    return "accepted";
  };
  const auto expect = [&](const std::string& pattern, const std::string& part) {
    EXPECT_NE(message(pattern).find(part), std::string::npos)
        << pattern << ": " << message(pattern);
  };
  expect("a(?=b)", "look-around");
  expect("(?<!a)b", "look-around");
  expect("(a)\\1", "backreferences");
  expect("\\bfoo", "word boundaries");
  expect("(?i)a", "no flags");
  expect("a++", "possessive");
  expect("(a", "without its ')'");
  expect("a)", "without its '('");
  expect("[a", "ends too early");
  expect("*a", "nothing to repeat");
  expect("a{3,2}", "below the lower");
  expect("[b-a]", "out of order");
  expect("\\q", "not known");
  expect("\\p{Klingon}", "categories");
  expect("\xC3", "UTF-8");
  expect("(a{1000}){1000}", "too complex");
  expect("(a|b)*a(a|b){30}", "too complex");
  expect(std::string(500, '('), "nest deeper");
  expect("a{9999999999}", "a repeat above");
}

TEST(StringLanguage, FormatsAreWhatTheirRfcsSay) {
  const auto has = [](const char* format, const std::string& text) {
    return format_language(format).accepts(text);
  };
  EXPECT_TRUE(has("date", "2024-02-29"));
  EXPECT_FALSE(has("date", "2023-02-29"));
  EXPECT_FALSE(has("date", "1900-02-29"));
  EXPECT_TRUE(has("date", "2000-02-29"));
  EXPECT_FALSE(has("date", "2024-04-31"));
  EXPECT_FALSE(has("date", "0000-01-01"));
  EXPECT_TRUE(has("date-time", "2024-02-29T23:59:59.25Z"));
  EXPECT_FALSE(has("date-time", "2023-02-29T23:59:59Z"));
  EXPECT_FALSE(has("date-time", "2024-02-28T23:59:59"));
  EXPECT_TRUE(has("time", "08:30:06-08:00"));
  EXPECT_FALSE(has("time", "24:00:00Z"));
  EXPECT_TRUE(has("duration", "P3Y6M4DT12H30M5S"));
  EXPECT_FALSE(has("duration", "P"));
  EXPECT_FALSE(has("duration", "PT"));
  EXPECT_TRUE(has("ipv4", "255.0.10.1"));
  EXPECT_FALSE(has("ipv4", "256.0.0.1"));
  EXPECT_FALSE(has("ipv4", "1.2.3.04"));
  for (const char* good : {"::", "::1", "1::", "1:2:3:4:5:6:7:8", "1:2::7:8", "::ffff:1.2.3.4",
                           "1:2:3:4:5:6::8", "1:2:3:4:5:6:7::"}) {
    EXPECT_TRUE(has("ipv6", good)) << good;
  }
  for (const char* bad :
       {":", "1:2:3:4:5:6:7", "1::2::3", "1:2:3:4:5:6:7:8:9", "12345::", "::1%eth0"}) {
    EXPECT_FALSE(has("ipv6", bad)) << bad;
  }
  EXPECT_TRUE(has("uuid", "2EB8AA08-aa98-11ea-b4aa-73b441d16380"));
  EXPECT_FALSE(has("uuid", "2eb8aa08aa98-11ea-b4aa-73b441d16380"));
  EXPECT_TRUE(has("email", "joe.bloggs@example.com"));
  EXPECT_FALSE(has("email", "joe..bloggs@example.com"));
  EXPECT_TRUE(has("uri", "http://foo.bar/?baz=qux#quux"));
  EXPECT_TRUE(has("uri", "ldap://[2001:db8::7]/c=GB?objectClass?one"));
  EXPECT_FALSE(has("uri", "//foo.bar/?baz"));
  EXPECT_FALSE(has("uri", "http:// a"));
  EXPECT_TRUE(has("uri-reference", "/abc#frag"));
  EXPECT_TRUE(has("json-pointer", "/foo/bar~0/~1"));
  EXPECT_FALSE(has("json-pointer", "foo"));
}

TEST(StringLanguage, SpellsEveryCharacterOneWay) {
  const Dfa three = json_spelling(text_of_length(3, 3));
  EXPECT_TRUE(three.accepts("\"a\\n\xE2\x82\xAC\""));
  EXPECT_TRUE(three.accepts("\"\\u001f\\\\\\\"\""));
  EXPECT_FALSE(three.accepts("\"ab\""));
  EXPECT_FALSE(three.accepts("\"abcd\""));
  EXPECT_FALSE(three.accepts("\"ab\\u0063\""));  // c is written as c
  EXPECT_FALSE(three.accepts("\"ab\\u000a\""));  // a line break as \n
  EXPECT_FALSE(three.accepts("\"ab\n\""));
  const Dfa any = any_json_string();
  EXPECT_TRUE(any.accepts("\"\\u0063\\ud834\\udd1e\\/\""));
  EXPECT_FALSE(any.accepts("\"\\ud834\""));
}

}  // namespace
}  // namespace moe4::grammar
