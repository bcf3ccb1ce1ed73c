#include "mana_ai/core/service/error_kind.hpp"

namespace mana_ai::core {

const char* name(ErrorKind kind) noexcept {
    switch (kind) {
        case ErrorKind::Blocked:
            return "blocked";
        case ErrorKind::Capability:
            return "capability";
        case ErrorKind::Auth:
            return "auth";
        case ErrorKind::RateLimit:
            return "rate_limit";
        case ErrorKind::Truncated:
            return "truncated";
        case ErrorKind::NoProvider:
            return "no_healthy_provider";
        case ErrorKind::Unknown:
            return "unknown";
        case ErrorKind::Timeout:
            return "timeout";
        case ErrorKind::Unreachable:
            return "unreachable";
        case ErrorKind::Malformed:
            return "malformed";
    }
    return "unknown";
}

std::optional<ErrorKind> error_kind_from_name(std::string_view text) noexcept {
    for (const ErrorKind kind :
         {ErrorKind::Blocked, ErrorKind::Capability, ErrorKind::Auth, ErrorKind::RateLimit,
          ErrorKind::Truncated, ErrorKind::NoProvider, ErrorKind::Unknown, ErrorKind::Timeout,
          ErrorKind::Unreachable, ErrorKind::Malformed}) {
        if (text == name(kind)) {
            return kind;
        }
    }
    return std::nullopt;
}

}  // namespace mana_ai::core
