#pragma once

namespace mana_ai::core {

constexpr bool is_success(int http_status) noexcept {
    return http_status >= 200 && http_status < 300;
}

}  // namespace mana_ai::core
