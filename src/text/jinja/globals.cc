// The functions that every chat template can call.
#include <array>
#include <ctime>
#include <unordered_map>

#include "text/jinja/interpreter.h"
#include "text/jinja/operators.h"
#include "text/jinja/stateful_globals.h"
#include "text/utf8.h"

namespace moe4::jinja {
namespace {

using Function = Value (*)(Interpreter& interpreter, const Arguments& arguments);

class Global : public Callable {
 public:
  explicit Global(Function function) : function_(function) {}
  Value call(Interpreter& interpreter, const Arguments& arguments) const override {
    return function_(interpreter, arguments);
  }

 private:
  Function function_;
};

Value range_function(Interpreter& interpreter, const Arguments& arguments) {
  arguments.allow("range", {"start", "stop", "step"});
  const auto& given = arguments.positional;
  if (given.empty() || !arguments.named.empty()) throw TemplateError("range takes 1 to 3 integers");
  const int64_t first = int_of(given[0], "range's argument");
  const int64_t start = given.size() > 1 ? first : 0;
  const int64_t stop = given.size() > 1 ? int_of(given[1], "range's argument") : first;
  const int64_t step = given.size() > 2 ? int_of(given[2], "range's argument") : 1;
  if (step == 0) throw TemplateError("range's step must not be zero");
  std::vector<Value> items;
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    if (static_cast<int64_t>(items.size()) >= kMaxRange) {
      throw TemplateError("range is longer than " + std::to_string(kMaxRange));
    }
    interpreter.budget()->charge();
    items.emplace_back(i);
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  std::string label = "range(" + std::to_string(start) + ", " + std::to_string(stop);
  if (step != 1) label += ", " + std::to_string(step);
  return Value::lazy(std::move(items), Lazy::kRange, label + ")");
}

Value dict_function(Interpreter& interpreter, const Arguments& arguments) {
  Dict dict;
  if (arguments.positional.size() > 1) throw TemplateError("dict takes one positional argument");
  if (!arguments.positional.empty()) {
    const Value& source = arguments.positional[0];
    require_defined(source);
    if (const Dict* other = source.dict_or_null()) {
      dict = *other;
    } else {
      for (const Value& entry : iterate(source, interpreter.budget())) {
        const std::vector<Value> pair = iterate(entry, interpreter.budget());
        if (pair.size() != 2) throw TemplateError("dict needs a mapping or pairs");
        dict.set(pair[0], pair[1]);
      }
    }
  }
  for (const auto& [name, value] : arguments.named) dict.set(Value(name), value);
  return Value::dict(std::move(dict));
}

Value namespace_function(Interpreter& interpreter, const Arguments& arguments) {
  return interpreter.make_namespace(arguments);
}

Value raise_function(Interpreter&, const Arguments& arguments) {
  arguments.allow("raise_exception", {"message"});
  const Value* message = arguments.find(0, "message");
  throw TemplateError(message == nullptr ? "the template raised an exception" : to_text(*message));
}

Value strftime_function(Interpreter&, const Arguments& arguments) {
  arguments.allow("strftime_now", {"format"});
  const Value* format = arguments.find(0, "format");
  if (format == nullptr) throw TemplateError("strftime_now needs a format");
  const std::string& text = text_of(*format, "strftime_now's format");
  if (text.size() > 256) throw TemplateError("strftime_now's format is too long");
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  std::array<char, 8192> buffer{};
  const size_t written = std::strftime(buffer.data(), buffer.size(), text.c_str(), &local);
  return Value(utf8_lossy(std::string_view(buffer.data(), written)));
}

Value joiner_function(Interpreter&, const Arguments& arguments) { return make_joiner(arguments); }
Value cycler_function(Interpreter&, const Arguments& arguments) { return make_cycler(arguments); }

Value lipsum_function(Interpreter&, const Arguments&) {
  throw TemplateError("lipsum is not supported: its text is random");
}

/// The template itself: its attributes are its blocks, and there are none.
class Self : public Callable {
 public:
  Value call(Interpreter&, const Arguments&) const override {
    throw TemplateError("self cannot be called");
  }
  Value attribute(const std::string& name) const override {
    return Value::undefined("self." + name);
  }
};

}  // namespace

Value find_global(const std::string& name) {
  static const std::unordered_map<std::string_view, Function> kGlobals = {
      {"range", range_function},           {"dict", dict_function},
      {"namespace", namespace_function},   {"raise_exception", raise_function},
      {"strftime_now", strftime_function}, {"joiner", joiner_function},
      {"cycler", cycler_function},         {"lipsum", lipsum_function},
  };
  if (name == "self") return Value(std::shared_ptr<const Callable>(std::make_shared<Self>()));
  const auto found = kGlobals.find(name);
  if (found == kGlobals.end()) return Value::undefined(name);
  return Value(std::shared_ptr<const Callable>(std::make_shared<Global>(found->second)));
}

}  // namespace moe4::jinja
