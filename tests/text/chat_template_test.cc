// Chat templates against what jinja2 rendered (scripts/make_chat_goldens.py).
#include "text/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"

namespace moe4 {
namespace {

using nlohmann::ordered_json;
using testing::HasSubstr;

const ordered_json& goldens() {
  static const ordered_json loaded =
      ordered_json::parse(std::ifstream(MOE4_TEST_DATA "/text/chat_goldens.json"));
  return loaded;
}

std::string read(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

std::string render(const std::string& source, const std::string& context) {
  return ChatTemplate::parse(source, "test")->render(context);
}

std::string error_of(const std::string& source, const std::string& context = "{}") {
  try {
    return "no error but: " + render(source, context).substr(0, 100);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    return error.what();
  }
}

void expect_as_upstream(const std::string& source, const std::string& context,
                        const ordered_json& expected) {
  if (expected.is_null()) {
    EXPECT_THROW(render(source, context), Error) << source;
    return;
  }
  try {
    EXPECT_EQ(render(source, context), expected.get<std::string>()) << source;
  } catch (const Error& error) {
    ADD_FAILURE() << source << "\n" << error.what();
  }
}

TEST(ChatTemplate, EveryConstructRendersAsJinja2Does) {
  const std::string context = goldens()["context"].dump();
  for (const ordered_json& one : goldens()["one_line"]) {
    expect_as_upstream(one["template"].get<std::string>(), context, one["expected"]);
  }
}

TEST(ChatTemplate, WholeConversationsRenderAsJinja2Does) {
  for (const ordered_json& one : goldens()["templates"]) {
    const std::string path = MOE4_TEST_DATA "/text/templates/" + one["file"].get<std::string>();
    expect_as_upstream(read(path), one["context"].dump(), one["expected"]);
  }
}

TEST(ChatTemplate, FormattingAndLargeIntegersRenderAsJinja2Does) {
  const ordered_json formats =
      ordered_json::parse(std::ifstream(MOE4_TEST_DATA "/text/format_goldens.json"));
  const auto expect_grid = [&](const char* kind, const std::string& before,
                               const std::string& middle, const std::string& after) {
    for (const ordered_json& row : formats[kind]) {
      for (size_t i = 0; i < formats["values"].size(); ++i) {
        std::string text = before;
        text.append(row["spec"].get<std::string>()).append(middle);
        text.append(formats["values"][i].get<std::string>()).append(after);
        expect_as_upstream(text, "{}", row["expected"][i]);
      }
    }
  };
  expect_grid("braces", "{{ '{:", "}'.format(", ") }}");
  expect_grid("percent", "{{ '%", "' % (", ",) }}");
  for (const ordered_json& one : formats["integers"]) {
    expect_as_upstream(one["template"].get<std::string>(), "{}", one["expected"]);
  }
}

// jinja2 cannot write infinity as a constant; these are Python's.
TEST(ChatTemplate, InfinityIsFormattedAsPythonDoes) {
  EXPECT_EQ(render("{{ '{:08.1f}|{:+E}|{:,}|{:<5}|{:%}'.format(x, x, x, x, -x) }}"
                   "{{ '|%08.1f|%+d|%G' % (x, 1, -x) }}",
                   R"({"x": 0})"),
            "000000.0|+0.000000E+00|0|0    |0.000000%|000000.0|+1|0");
  EXPECT_EQ(
      render("{% set x = 'inf'|float %}{{ '{:08.1f}|{:+E}|{:,}|{:<5}|{:%}'.format(x, x, x, x, "
             "-x) }}{{ '|%08.1f|%-6e|%G' % (x, x, -x) }}",
             "{}"),
      "00000inf|+INF|inf|inf  |-inf%|00000inf|inf   |-INF");
  EXPECT_THAT(error_of("{{ '%d' % ('inf'|float,) }}"), HasSubstr("no integer"));
}

// Golden values: Python's json and jinja2 on the same text.
TEST(ChatTemplate, IntegersOfTheContextKeepEveryDigit) {
  const std::string context =
      R"({"n": 12345678901234567890123, "args": {"id": 18446744073709551616, "m": -9223372036854775809,
          "u": 18446744073709551615, "z": -0, "f": 1e22, "g": 1.0}})";
  EXPECT_EQ(render("{{ n }} {{ args | tojson }} {{ n + 1 }}", context),
            "12345678901234567890123 {\"id\": 18446744073709551616, \"m\": -9223372036854775809, "
            "\"u\": 18446744073709551615, \"z\": 0, \"f\": 1e+22, \"g\": 1.0} "
            "12345678901234567890124");
  EXPECT_THAT(error_of("x", "{\"n\": " + std::string(5000, '9') + "}"),
              HasSubstr("number overflow"));
}

TEST(ChatTemplate, TheLastOfEqualKeysCounts) {
  EXPECT_EQ(render("{{ d }}", R"({"d": {"a": 1, "b": 2, "a": 3}})"), "{'a': 3, 'b': 2}");
}

TEST(ChatTemplate, ErrorsNameTheConstructAndItsLine) {
  EXPECT_THAT(error_of("a\nb\n{{ x|sparkle }}"),
              testing::AllOf(HasSubstr("line 3"), HasSubstr("filter 'sparkle'")));
  EXPECT_THAT(error_of("\n{{ x is shiny }}"),
              testing::AllOf(HasSubstr("line 2"), HasSubstr("test 'shiny'")));
  EXPECT_THAT(error_of("{% extends 'x' %}"), HasSubstr("tag 'extends'"));
  EXPECT_THAT(error_of("{% block b %}x{% endblock %}"), HasSubstr("tag 'block'"));
  EXPECT_THAT(error_of("x\n{{ y.z }}"), testing::AllOf(HasSubstr("line 2"), HasSubstr("'y'")));
  EXPECT_THAT(error_of("{{ 'a'.encode('utf-8') }}"), HasSubstr("str.encode"));
  EXPECT_THAT(error_of("{{ raise_exception('No\nway') }}"), HasSubstr("No\\x0away"));
  for (const char* method :
       {"append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"}) {
    EXPECT_THAT(error_of(std::string("{{ [].") + method + "(1) }}"), HasSubstr("changes a list"));
  }
  for (const char* method : {"clear", "pop", "popitem", "setdefault", "update"}) {
    EXPECT_THAT(error_of(std::string("{{ {}.") + method + "(1) }}"), HasSubstr("changes a dict"));
  }
  // Python's methods without parameters take none.
  EXPECT_THAT(error_of("{{ 'a'.upper(1) }}"), HasSubstr("argument"));
  EXPECT_THAT(error_of("{{ {}.copy(1) }}"), HasSubstr("copy takes"));
  EXPECT_THAT(error_of("{{ {}.get('a', 1, 2) }}"), HasSubstr("get takes"));
  EXPECT_THAT(error_of("{{ {}.get('a', otherwise=1) }}"), HasSubstr("get"));
  EXPECT_THAT(error_of("{{ joiner(',', 1) }}"), HasSubstr("joiner takes"));
  EXPECT_THAT(error_of("{{ y|dictsort }}"), HasSubstr("'y' is undefined"));
  // A filter's own line, not that of its last argument.
  EXPECT_THAT(error_of("{{ {}\n|dictsort(\nby=y.z|default('neither')) }}", R"({"y": {"z": "a"}})"),
              testing::AllOf(HasSubstr("key or value"), HasSubstr("line 2")));
}

TEST(ChatTemplate, IntReadsPythonsPrefixesOfItsBase) {
  // What Python's int(text, base) says; the filter's default is 0.
  EXPECT_EQ(render("{{ '0o17'|int(base=8) }} {{ '0O17'|int(base=8) }} {{ '0x1f'|int(base=16) }} "
                   "{{ '0b101'|int(base=2) }} {{ '-0o17'|int(base=8) }} {{ '0o17'|int }}",
                   "{}"),
            "15 15 31 5 -15 0");
}

TEST(ChatTemplate, BadContextsAreRefused) {
  EXPECT_THAT(error_of("x", "{"), HasSubstr("not valid JSON"));
  EXPECT_THAT(error_of("x", "[]"), HasSubstr("not a JSON object"));
  EXPECT_THAT(error_of("x", "{\"a\":" + std::string(500, '[') + std::string(500, ']') + "}"),
              HasSubstr("nested too deeply"));
}

TEST(ChatTemplate, HostileTemplatesEndInAnError) {
  const std::string repeat_100k = "{% for i in range(100000) %}";
  const auto repeat = [](const std::string& text, int count) {
    std::string out;
    for (int i = 0; i < count; ++i) out += text;
    return out;
  };
  const auto keys = [](int count) {
    std::string out = "k0=0";
    for (int i = 1; i < count; ++i) out += ", k" + std::to_string(i) + "=1";
    return out;
  };
  EXPECT_THAT(error_of(repeat_100k + repeat_100k + "{% endfor %}{% endfor %}"),
              HasSubstr("too long"));
  EXPECT_THAT(error_of("{{ range(100001) }}"), HasSubstr("range"));
  EXPECT_THAT(error_of("{{ 'x' * 9999999999 }}"), HasSubstr("too long"));
  EXPECT_THAT(error_of("{{ [0] * 9999999999 }}"), HasSubstr("too long"));
  EXPECT_THAT(error_of("{% set n = namespace(x='ab') %}" + repeat_100k +
                       "{% set n.x = n.x + n.x %}{% endfor %}"),
              HasSubstr("too long"));
  EXPECT_THAT(
      error_of("{% set n = namespace(x=[]) %}" + repeat_100k + "{% set n.x = [n.x] %}{% endfor %}"),
      HasSubstr("nested too deeply"));
  EXPECT_THAT(error_of("{% set n = namespace(x=[1]) %}" + repeat_100k +
                       "{% set n.x = [n.x, n.x] %}{% endfor %}"),
              HasSubstr("too"));
  EXPECT_THAT(error_of("{% macro m(x) %}{{ m(x) }}{% endmacro %}{{ m(1) }}"),
              HasSubstr("recurses too deeply"));
  EXPECT_THAT(error_of("{{ " + repeat("(", 5000) + "1" + repeat(")", 5000) + " }}"),
              HasSubstr("nested too deeply"));
  EXPECT_THAT(error_of("{{ 1" + repeat(" + 1", 5000) + " }}"), HasSubstr("nested too deeply"));
  EXPECT_THAT(error_of("{{ " + repeat("not ", 5000) + "1 }}"), HasSubstr("nested too deeply"));
  EXPECT_THAT(error_of("{{ x" + repeat(".y", 5000) + " }}"), HasSubstr("nested too deeply"));
  EXPECT_THAT(error_of(repeat("{% if 1 %}", 5000)), HasSubstr("nested too deeply"));
  EXPECT_THAT(error_of("{{ 'a' * 30000000 in 'b' + 'a' * 29999998 }}"), HasSubstr("no error"));
  EXPECT_THAT(error_of("{{ 2 ** (10 ** 9) }}"), HasSubstr("16384 bits"));
  EXPECT_THAT(error_of("{{ 2 ** (2 ** 70) }}"), HasSubstr("exponent"));
  EXPECT_THAT(error_of("{% set n = namespace(x=3) %}" + repeat_100k +
                       "{% set n.x = n.x * n.x %}{% endfor %}"),
              HasSubstr("16384 bits"));
  EXPECT_THAT(error_of("{{ 1" + repeat("0", 5000) + " }}"), HasSubstr("4300 digits"));
  // Much is read for a short text.
  EXPECT_THAT(error_of("{% set many = range(1000)|list %}" + repeat_100k +
                       "{% set text = '%.1s' % many %}{% endfor %}"),
              HasSubstr("runs for too long"));
  EXPECT_THAT(error_of("{% set many = dict(" + keys(300) + ") %}" + repeat_100k +
                       "{% set text = 'a'.format_map(many) %}{% endfor %}"),
              HasSubstr("runs for too long"));
  for (const char* part : {"t.partition('b')", "t.rpartition('b')"}) {
    EXPECT_THAT(error_of("{% set t = 'a' * 1000000 %}" + repeat_100k + "{{ " + part +
                         "|length }}{% endfor %}"),
                HasSubstr("runs for too long"))
        << part;
  }
  for (const char* source :
       {"{{ '%1000000000d' % 1 }}", "{{ '%99999999999999999999d' % 1 }}",
        "{{ '%*d' % (10**9, 1) }}", "{{ '%.1000000000f' % 1 }}", "{{ '%.1000000000d' % 1 }}",
        "{{ '%1000000000s' % 'a' }}", "{{ '{:>1000000000}'.format(1) }}",
        "{{ '{:.1000000000f}'.format(1.5) }}", "{{ '{:0100000000000000000000,}'.format(1) }}",
        "{{ '{:{}}'.format('a', 10**9) }}", "{{ '{:40000000}'.format('a') }}",
        "{{ '%40000000s' % 'a' }}", "{{ ('{:9000000}' * 9).format(1,1,1,1,1,1,1,1,1) }}",
        "{{ 'a'.zfill(10**9) }}", "{{ '\\t'.expandtabs(10**9) }}",
        "{{ 'a'|truncate(10**9) }}{{ 'a'.ljust(10**9) }}", "{{ [1]|batch(10**9, 0)|list }}",
        "{{ [1]|slice(10**9)|list }}"}) {
    EXPECT_THAT(error_of(source),
                testing::AnyOf(HasSubstr("too long"), HasSubstr("runs for too long")))
        << source;
  }
}

TEST(ChatTemplate, WhatPythonRefusesIsRefused) {
  EXPECT_THAT(error_of("{% for x in [1] %}{{ loop.changed(x=x) }}{% endfor %}"),
              HasSubstr("no named arguments"));
  EXPECT_THAT(error_of("{% macro m(a=1, b) %}{% endmacro %}"), HasSubstr("without default"));
  for (const std::string test : {"even", "odd", "divisibleby(2)"}) {
    EXPECT_THAT(error_of("{{ 'a' is " + test + " }}"), HasSubstr("needs a number, not ")) << test;
  }
}

TEST(ChatTemplate, NamedArgumentsOfSortsAndMethodsOfTuples) {
  EXPECT_EQ(render("{{ ['a', 'B']|sort|join }}{{ ['a', 'B']|sort(case_sensitive=true)|join }}"
                   "{{ ['a', 'B']|sort(reverse=true)|join }}",
                   "{}"),
            "aBBaBa");
  EXPECT_EQ(render("{% for k, v in {'a': 1, 'B': 2}|dictsort(case_sensitive=true) %}{{ k }}"
                   "{% endfor %}",
                   "{}"),
            "Ba");
  EXPECT_EQ(render("{{ (1, 2, 1).count(1) }}{{ (1, 2).index(2) }}", "{}"), "21");
  EXPECT_EQ(render("{{ 'a\\tb'.expandtabs(tabsize=2) }}", "{}"), "a b");
  EXPECT_EQ(render("{{ [['a', 'd'], ['b', 'c']]|map(attribute='1')|join }}"
                   "{{ [['a', 'd'], ['b', 'c']]|sort(attribute='1')|map(attribute=0)|join }}",
                   "{}"),
            "dcba");
  EXPECT_EQ(render("{{ [1, 2, 3]|batch(linecount=2, fill_with=0)|list }}", "{}"),
            "[[1, 2], [3, 0]]");
  EXPECT_EQ(render("{% set j = joiner(sep='; ') %}{{ j() }}a{{ j() }}b", "{}"), "a; b");
}

TEST(ChatTemplate, QuotientsOfTheLargestIntegersAreThoseOfPython) {
  EXPECT_EQ(
      render("{% set n = 2**8000 * 2**8382 %}{{ n / (n // 2) }} {{ 1 / n }} {{ 3 / 2**1022 }}",
             "{}"),
      "2.0 0.0 6.675221575521604e-308");
}

TEST(ChatTemplate, LoopsThatRememberThemselvesDoNotLeak) {
  EXPECT_EQ(render("{% for x in [1, 2] %}{{ loop.changed(loop) }}{% endfor %}", "{}"), "TrueFalse");
  EXPECT_THROW(render("{% for x in [1] %}{{ loop.changed(loop) }}{{ 1 / 0 }}{% endfor %}", "{}"),
               Error);
  EXPECT_EQ(render("{% set n = namespace() %}{% set n.c = cycler(n) %}{{ n.c.next() is sameas n }}",
                   "{}"),
            "True");
}

TEST(ChatTemplate, NamespacesThatHoldThemselvesDoNotLeak) {
  EXPECT_EQ(
      render("{% set a = namespace() %}{% set a.self = a %}{% set a.list = [a] %}{{ a.self.list"
             "|length }}",
             "{}"),
      "1");
}

TEST(ChatTemplate, TheDateIsFilledIn) {
  EXPECT_THAT(render("{{ strftime_now('%Y-%m-%d') }}", "{}"),
              testing::MatchesRegex("20[0-9][0-9]-[01][0-9]-[0-3][0-9]"));
}

TEST(ChatTemplate, ALongConversationIsWithinTheLimits) {
  ordered_json context = {{"messages", ordered_json::array()}};
  for (int i = 0; i < 1000; ++i) {
    context["messages"].push_back(
        {{"role", i % 2 == 0 ? "user" : "assistant"}, {"content", std::string(4000, 'x')}});
  }
  const std::string source = read(MOE4_TEST_DATA "/text/templates/tools_and_thinking.jinja");
  EXPECT_GT(render(source, context.dump()).size(), 4000000u);
}

class Folder {
 public:
  Folder() : path_(testing::TempDir() + "moe4_template_" + std::to_string(getpid())) {
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  void write(const char* name, const std::string& text) const {
    std::ofstream(path_ / name) << text;
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

TEST(ChatTemplate, IsFoundInTheFolder) {
  const Folder folder;
  EXPECT_EQ(ChatTemplate::load(folder.path()), nullptr);
  folder.write("tokenizer_config.json",
               R"({"bos_token": "<s>", "eos_token": {"content": "</s>"}})");
  EXPECT_EQ(ChatTemplate::load(folder.path()), nullptr);
  folder.write("tokenizer_config.json",
               R"({"bos_token": "<s>", "eos_token": {"content": "</s>"},
                   "chat_template": "{{ bos_token }}a{{ eos_token }}"})");
  EXPECT_EQ(ChatTemplate::load(folder.path())->render("{}"), "<s>a</s>");
  EXPECT_EQ(ChatTemplate::load(folder.path())->render(R"({"bos_token": "!"})"), "!a</s>");
  folder.write("tokenizer_config.json",
               R"({"chat_template": [{"name": "rag", "template": "r"},
                                     {"name": "default", "template": "d"}]})");
  EXPECT_EQ(ChatTemplate::load(folder.path())->render("{}"), "d");
  folder.write("chat_template.jinja", "own {{ tools is none }}");
  EXPECT_EQ(ChatTemplate::load(folder.path())->render("{}"), "own True");
  folder.write("tokenizer_config.json", "{");
  EXPECT_THROW(ChatTemplate::load(folder.path()), Error);
}

TEST(ChatTemplate, ChatTemplateJsonServesWhenTheOthersHaveNone) {
  const Folder folder;
  folder.write("chat_template.json", R"({"chat_template": "json {{ bos_token }}"})");
  EXPECT_EQ(ChatTemplate::load(folder.path())->render("{}"), "json ");
  folder.write("tokenizer_config.json", R"({"bos_token": "<s>", "chat_template": null})");
  EXPECT_EQ(ChatTemplate::load(folder.path())->render("{}"), "json <s>");
  folder.write("tokenizer_config.json", R"({"chat_template": "config"})");
  EXPECT_EQ(ChatTemplate::load(folder.path())->render("{}"), "config");
  folder.write("tokenizer_config.json", "{}");
  for (const char* broken : {"[1]", "{", R"({"chat_template": 5})", R"({"chat_template": []})",
                             R"({"chat_template": [{"name": "a"}]})"}) {
    folder.write("chat_template.json", broken);
    EXPECT_THROW(ChatTemplate::load(folder.path()), Error) << broken;
  }
}

TEST(ChatTemplate, ToolsChooseTheTemplateOfThatName) {
  const Folder folder;
  folder.write("tokenizer_config.json",
               R"({"chat_template": [{"name": "default", "template": "d"},
                                     {"name": "tool_use", "template": "t{{ tools|length }}"},
                                     {"name": "rag", "template": "{% broken %}"}]})");
  const auto chat = ChatTemplate::load(folder.path());
  EXPECT_EQ(chat->render("{}"), "d");
  EXPECT_EQ(chat->render(R"({"tools": null})"), "d");
  EXPECT_EQ(chat->render(R"({"tools": []})"), "t0");
  EXPECT_EQ(chat->render(R"({"tools": [{}]})"), "t1");
  folder.write(
      "tokenizer_config.json",
      R"({"chat_template": [{"name": "a", "template": "x"}, {"name": "b", "template": ""}]})");
  try {
    ChatTemplate::load(folder.path())->render("{}");
    ADD_FAILURE() << "there is no default";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::AllOf(HasSubstr("no default"), HasSubstr("a, b")));
  }
  std::filesystem::create_directories(folder.path() / "additional_chat_templates");
  folder.write("additional_chat_templates/a.jinja", "x");
  folder.write("additional_chat_templates/b.jinja", "y");
  try {
    ChatTemplate::load(folder.path())->render("{}");
    ADD_FAILURE() << "there is no default";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::AllOf(HasSubstr("a.jinja"), HasSubstr("a, b")));
  }
  folder.write("additional_chat_templates/tool_use.jinja", "file t");
  folder.write("chat_template.jinja", "file d");
  EXPECT_EQ(ChatTemplate::load(folder.path())->render("{}"), "file d");
  EXPECT_EQ(ChatTemplate::load(folder.path())->render(R"({"tools": []})"), "file t");
  folder.write("additional_chat_templates/tool_use.jinja", "{% broken %}");
  EXPECT_EQ(ChatTemplate::load(folder.path())->render("{}"), "file d");
  EXPECT_THROW(ChatTemplate::load(folder.path())->render(R"({"tools": []})"), Error);
}

TEST(ChatTemplate, SpecialTokensComeFromBothFiles) {
  const Folder folder;
  folder.write("chat_template.jinja",
               "{{ bos_token }}{{ eos_token }}{{ image_token }}"
               "{{ additional_special_tokens }}");
  folder.write(
      "special_tokens_map.json",
      R"({"bos_token": "<map>", "additional_special_tokens": ["<a>", {"content": "<b>"}]})");
  EXPECT_EQ(ChatTemplate::load(folder.path())->render("{}"), "<map>['<a>', '<b>']");
  folder.write("tokenizer_config.json", R"({"bos_token": "<config>", "eos_token": "</s>",
                                            "added_tokens_decoder": {},
                                            "extra_special_tokens": {"image_token": "<img>"}})");
  EXPECT_EQ(ChatTemplate::load(folder.path())->render("{}"), "<config></s><img>");
}

TEST(ChatTemplate, TheEmbeddedModelHasChatMl) {
  const auto chat =
      ChatTemplate::load(std::string(MOE4_EMBEDDED_MODELS) + "/tiny-qwen3_5-moe-nvfp4");
  ASSERT_NE(chat, nullptr);
  EXPECT_EQ(chat->render(R"({"messages": [{"role": "user", "content": "Hi"}],
                             "add_generation_prompt": true})"),
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
}

}  // namespace
}  // namespace moe4
