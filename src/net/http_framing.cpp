#include "http_framing.hpp"

#include <microhttpd.h>

#include <algorithm>
#include <cstring>

#include "mana_ai/core/text/ascii.hpp"

namespace mana_ai::net::detail {

namespace {

constexpr std::size_t kLineEnd = 2;  // CR and LF

}  // namespace

bool is_token(std::string_view name) {
    constexpr std::string_view kOthers = "!#$%&'*+-.^_`|~";
    return !name.empty() && std::ranges::all_of(name, [&](char c) {
        return core::ascii::is_alphanumeric(c) || kOthers.find(c) != kOthers.npos;
    });
}

bool library_checks_lines() {
    return MHD_get_version()[0] != '0';
}

HeadWalk::HeadWalk(const char* method, const char* uri, std::size_t uri_size, const char* version)
    : start_(method),
      next_(version + std::strlen(version) + kLineEnd),
      plain_(method + std::strlen(method) + 1 == uri && uri + uri_size + 1 == version) {}

// The empty value of "Name:" is directly behind the name, like any other.
void HeadWalk::header(std::string_view name, std::string_view value) {
    plain_ = plain_ && name.data() == next_ && value.data() > name.data() + name.size();
    if (!plain_) {
        return;
    }
    const std::string_view blanks(name.data() + name.size() + 1, value.data());
    plain_ = std::ranges::all_of(blanks, [](char c) { return c == ' ' || c == '\t'; });
    next_ = value.data() + value.size() + kLineEnd;
}

bool HeadWalk::is_plain(std::size_t size) const {
    return plain_ && next_ + kLineEnd == start_ + size;
}

}  // namespace mana_ai::net::detail
