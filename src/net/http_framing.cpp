#include "http_framing.hpp"

#include <algorithm>
#include <functional>

namespace mana_ai::net::detail {

bool is_token(std::string_view name) {
    constexpr std::string_view kOthers = "!#$%&'*+-.^_`|~";
    return !name.empty() && std::ranges::all_of(name, [&](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               kOthers.find(c) != kOthers.npos;
    });
}

bool is_folded(const char* name_end, const char* value) {
    if (std::less_equal<>()(value, name_end)) {
        return true;
    }
    const char* start = name_end + 1;
    while (start < value && (*start == ' ' || *start == '\t')) {
        start++;
    }
    return start != value;
}

}  // namespace mana_ai::net::detail
