// Guards of the interpreter's state, for its source files only.
#pragma once

#include "text/jinja/interpreter.h"

namespace moe4::jinja {

/// Bounds recursion, so that a template cannot overflow the stack; charges one step.
class Interpreter::DepthGuard {
 public:
  explicit DepthGuard(Interpreter* interpreter) : interpreter_(interpreter) {
    interpreter_->budget_.charge();
    if (interpreter_->depth_ >= kMaxRecursion)
      throw TemplateError("the template recurses too deeply");
    ++interpreter_->depth_;
  }
  ~DepthGuard() { --interpreter_->depth_; }
  DepthGuard(const DepthGuard&) = delete;
  DepthGuard& operator=(const DepthGuard&) = delete;

 private:
  Interpreter* interpreter_;
};

/// A fresh scope inside `parent`, until the guard ends; kept longer when a macro refers to it.
class Interpreter::ScopeGuard {
 public:
  ScopeGuard(Interpreter* interpreter, Scope* parent)
      : interpreter_(interpreter), outer_(interpreter->scope_), scope_(std::make_unique<Scope>()) {
    scope_->parent = parent;
    interpreter_->scope_ = scope_.get();
  }
  ~ScopeGuard() {
    interpreter_->scope_ = outer_;
    if (scope_->captured) interpreter_->kept_scopes_.push_back(std::move(scope_));
  }
  ScopeGuard(const ScopeGuard&) = delete;
  ScopeGuard& operator=(const ScopeGuard&) = delete;

 private:
  Interpreter* interpreter_;
  Scope* outer_;
  std::unique_ptr<Scope> scope_;
};

}  // namespace moe4::jinja
