#include "mana_ai/core/record/lww.hpp"

namespace mana_ai::core {

RowOp parse_row_op(std::string_view op) noexcept {
    if (op == "insert")
        return RowOp::Insert;
    return op == "delete" ? RowOp::Delete : RowOp::Update;
}

}  // namespace mana_ai::core
