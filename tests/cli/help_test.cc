// docs/cli.md and the program's help name the same flags for every command.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>

#include "support/run_program.h"

namespace moe4 {
namespace {

using Flags = std::set<std::string>;

std::string read(const std::string& file) {
  std::ifstream in(file);
  return {std::istreambuf_iterator<char>(in), {}};
}

Flags flags_in(const std::string& text) {
  static const std::regex flag("--[a-z][a-z0-9-]*");
  return {std::sregex_token_iterator(text.begin(), text.end(), flag), {}};
}

// The names at the start of a help entry: "  -n,     --max-tokens INT ..." or "  --json ...".
Flags flags_of_help(const std::string& command) {
  const testing::ProgramResult result = testing::run_program({command, "--help"});
  EXPECT_EQ(result.status, 0);
  Flags flags;
  std::istringstream lines(result.out);
  static const std::regex entry("^ +(-[A-Za-z], *)?(--[a-z][a-z0-9-]*)");
  for (std::string line; std::getline(lines, line);) {
    std::smatch match;
    if (std::regex_search(line, match, entry)) flags.insert(match[2]);
  }
  flags.erase("--help");
  return flags;
}

// "[name]" in a synopsis stands for the flags that the line "`[name]`..." defines: those of its
// paragraph and those in the first column of a table right after it.
std::map<std::string, std::string> groups_of(const std::string& docs) {
  std::map<std::string, std::string> groups;
  static const std::regex begin("^`\\[([a-z]+)\\]`");
  std::istringstream lines(docs);
  enum class Where { kOutside, kParagraph, kGap, kTable } where = Where::kOutside;
  std::string name;
  for (std::string line; std::getline(lines, line);) {
    std::smatch match;
    if (std::regex_search(line, match, begin)) {
      name = match[1];
      where = Where::kParagraph;
    }
    const bool row = line.starts_with("|");
    if (where == Where::kParagraph && line.empty()) {
      where = Where::kGap;
    } else if (where == Where::kGap || where == Where::kTable) {
      where = row ? Where::kTable : Where::kOutside;
    }
    if (where == Where::kParagraph)
      groups[name] += (match.empty() ? line : match.suffix().str()) + "\n";
    if (where == Where::kTable) groups[name] += line.substr(0, line.find('|', 1)) + "\n";
  }
  return groups;
}

// The line "`moe4 COMMAND ...`" with its groups replaced, again and again.
std::string synopsis_of(const std::string& docs, const std::string& command) {
  const std::string begin = "\n`moe4 " + command + " ";
  const size_t at = docs.find(begin);
  if (at == std::string::npos) return "";
  std::string text = docs.substr(at + 2, docs.find('`', at + 2) - at - 2);
  const auto groups = groups_of(docs);
  for (bool changed = true; changed;) {
    changed = false;
    for (const auto& [name, flags] : groups) {
      const std::string mark = "[" + name + "]";
      const size_t found = text.find(mark);
      if (found == std::string::npos) continue;
      text.replace(found, mark.size(), flags);
      changed = true;
    }
  }
  return text;
}

Flags commands_of_help() {
  const std::string help = testing::run_program({"--help"}).out;
  const size_t at = help.find("Subcommands:");
  EXPECT_NE(at, std::string::npos);
  Flags commands;
  std::istringstream lines(help.substr(at));
  static const std::regex entry("^  ([a-z][a-z-]*) ");
  for (std::string line; std::getline(lines, line);) {
    std::smatch match;
    if (std::regex_search(line, match, entry)) commands.insert(match[1]);
  }
  return commands;
}

TEST(Help, DocsNameEveryFlagOfEveryCommandAndNoOther) {
  const std::string docs = read(std::string(MOE4_DOCS) + "/cli.md");
  const Flags commands = commands_of_help();
  EXPECT_GE(commands.size(), 11u);
  for (const std::string& command : commands) {
    const std::string synopsis = synopsis_of(docs, command);
    EXPECT_EQ(flags_in(synopsis), flags_of_help(command)) << command << ": " << synopsis;
  }
}

TEST(Help, DocsNameEveryEnvironmentVariable) {
  const std::string docs = read(std::string(MOE4_DOCS) + "/environment_variables.md");
  static const std::regex variable("Env:(MOE4_[A-Z0-9_]+)");
  for (const std::string& command : commands_of_help()) {
    const std::string help = testing::run_program({command, "--help"}).out;
    for (auto it = std::sregex_iterator(help.begin(), help.end(), variable);
         it != std::sregex_iterator(); ++it) {
      EXPECT_THAT(docs, ::testing::HasSubstr("`" + (*it)[1].str() + "`")) << command;
    }
  }
}

}  // namespace
}  // namespace moe4
