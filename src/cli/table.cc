// Lays a table out.
#include "cli/table.h"

#include <algorithm>

namespace moe4::cli {
namespace {

// Characters, not bytes, of UTF-8.
size_t width_of(const std::string& cell) {
  return std::count_if(cell.begin(), cell.end(), [](char c) { return (c & 0xc0) != 0x80; });
}

// "12.5", "-", "1.2e-3", "98.1%", "12.5 ± 0.1".
bool looks_numeric(const std::string& cell) {
  return !cell.empty() && cell.find_first_not_of("0123456789.+-e% \xc2\xb1") == std::string::npos;
}

std::string padded(const std::string& cell, size_t width, bool right) {
  const std::string space(width - std::min(width, width_of(cell)), ' ');
  return right ? space + cell : cell + space;
}

}  // namespace

std::string Table::to_string() const {
  const size_t columns = rows_.front().size();
  std::vector<size_t> widths(columns, 3);
  std::vector<bool> right(columns, rows_.size() > 1);
  for (size_t r = 0; r < rows_.size(); ++r) {
    for (size_t c = 0; c < columns; ++c) {
      widths[c] = std::max(widths[c], width_of(rows_[r][c]));
      if (r > 0 && !looks_numeric(rows_[r][c])) right[c] = false;
    }
  }
  std::string text;
  for (size_t r = 0; r < rows_.size(); ++r) {
    text += "|";
    for (size_t c = 0; c < columns; ++c) {
      text.append(" ").append(padded(rows_[r][c], widths[c], right[c])).append(" |");
    }
    text += "\n";
    if (r > 0) continue;
    text += "|";
    for (size_t c = 0; c < columns; ++c)
      text.append(widths[c] + 1, '-').append(right[c] ? ":|" : "-|");
    text += "\n";
  }
  return text;
}

}  // namespace moe4::cli
