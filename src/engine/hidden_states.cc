// Rows appended where they belong.
#include "engine/hidden_states.h"

namespace moe4 {

void HiddenStates::see(Point point, int64_t layer, const Rows& rows) {
  std::vector<float>* to = nullptr;
  switch (point) {
    case Point::kEmbedding:
      to = &embed;
      break;
    case Point::kLayer:
      to = &layers.at(layer);
      break;
    case Point::kRouter:
      to = &router_logits.at(layer);
      break;
    case Point::kFinalNorm:
      to = &final_norm;
      break;
  }
  for (int64_t t = 0; t < rows.rows; ++t) {
    to->insert(to->end(), rows.row(t), rows.row(t) + rows.width);
  }
}

}  // namespace moe4
