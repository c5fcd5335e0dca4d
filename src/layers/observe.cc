// Copies for observers.
#include "layers/observe.h"

#include <vector>

#include "ops/row_copies.h"

namespace moe4 {

void observe(Observer::Point point, int64_t layer, const Rows& rows, Execution& execution) {
  if (execution.observer == nullptr || execution.is_measuring()) return;
  if (execution.stream.device.is_cpu()) {
    execution.observer->see(point, layer, rows);
    return;
  }
  std::vector<float> values(static_cast<size_t>(rows.rows * rows.width));
  read_rows(rows, values, execution.stream);
  execution.observer->see(point, layer, Rows::dense(values.data(), rows.rows, rows.width));
}

}  // namespace moe4
