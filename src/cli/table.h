// Markdown tables with aligned columns.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"

namespace moe4::cli {

class Table {
 public:
  explicit Table(std::vector<std::string> header) : rows_{std::move(header)} {}
  /// One cell a column of the header.
  void add(std::vector<std::string> row) {
    MOE4_CHECK(row.size() == rows_.front().size());
    rows_.push_back(std::move(row));
  }
  /// First column to the left, numbers to the right; ends with a newline.
  std::string to_string() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace moe4::cli
