// joiner and cycler: functions of jinja2 whose results remember how often they were used.
#include "text/jinja/stateful_globals.h"

#include <algorithm>

#include "text/jinja/operators.h"

namespace moe4::jinja {
namespace {

class Joiner : public Callable {
 public:
  explicit Joiner(Value separator) : separator_(std::move(separator)) {}
  Value call(Interpreter&, const Arguments& arguments) const override {
    arguments.allow("joiner", {});
    return std::exchange(used_, true) ? separator_ : Value(std::string());
  }
  int depth() const override { return separator_.depth(); }

 private:
  Value separator_;
  mutable bool used_ = false;
};

struct Cycle {
  std::vector<Value> items;
  size_t position = 0;
  int depth = 0;
};

enum class CycleStep { kNext, kReset };

class CycleMethod : public Callable {
 public:
  CycleMethod(std::shared_ptr<Cycle> cycle, CycleStep step)
      : cycle_(std::move(cycle)), step_(step) {}
  Value call(Interpreter&, const Arguments& arguments) const override {
    arguments.allow("the method of a cycler", {});
    if (step_ == CycleStep::kReset) {
      cycle_->position = 0;
      return {};
    }
    const size_t position = cycle_->position;
    cycle_->position = (position + 1) % cycle_->items.size();
    return cycle_->items[position];
  }
  int depth() const override { return cycle_->depth + 1; }

 private:
  std::shared_ptr<Cycle> cycle_;
  CycleStep step_;
};

class Cycler : public Callable {
 public:
  explicit Cycler(std::shared_ptr<Cycle> cycle) : cycle_(std::move(cycle)) {}
  Value call(Interpreter&, const Arguments&) const override {
    throw TemplateError("a cycler cannot be called; its method next can");
  }
  int depth() const override { return cycle_->depth + 1; }
  Value attribute(const std::string& name) const override {
    if (name == "current") return cycle_->items[cycle_->position];
    if (name == "items") return Value::list(cycle_->items, true);
    if (name != "next" && name != "reset") return Callable::attribute(name);
    const CycleStep step = name == "next" ? CycleStep::kNext : CycleStep::kReset;
    return Value(std::shared_ptr<const Callable>(std::make_shared<CycleMethod>(cycle_, step)));
  }

 private:
  std::shared_ptr<Cycle> cycle_;
};

}  // namespace

Value make_joiner(const Arguments& arguments) {
  arguments.allow("joiner", {"sep"});
  const Value* separator = arguments.find(0, "sep");
  return Value(std::shared_ptr<const Callable>(
      std::make_shared<Joiner>(separator == nullptr ? Value(std::string(", ")) : *separator)));
}

Value make_cycler(const Arguments& arguments) {
  if (arguments.positional.empty() || !arguments.named.empty()) {
    throw TemplateError("cycler needs values");
  }
  auto cycle = std::make_shared<Cycle>();
  cycle->items = arguments.positional;
  for (const Value& item : cycle->items) cycle->depth = std::max(cycle->depth, item.depth());
  if (cycle->depth >= kMaxValueDepth - 1) throw TemplateError("a value is nested too deeply");
  return Value(std::shared_ptr<const Callable>(std::make_shared<Cycler>(std::move(cycle))));
}

}  // namespace moe4::jinja
