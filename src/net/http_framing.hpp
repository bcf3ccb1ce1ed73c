// What a request's head may look like, so that nobody reads another request out of the same bytes
// (RFC 9112, 2.2, 3 and 5).
#pragma once

#include <cstddef>
#include <string_view>

namespace mana_ai::net::detail {

// RFC 9110, 5.6.2: what a header's name consists of. A blank before the colon is none of it.
bool is_token(std::string_view name);

// Whether libmicrohttpd refuses a bare line feed, a zero byte and a header over several lines by
// itself, as it does from 1.0 on.
bool library_checks_lines();

// For an older one. It takes all of these without saying so, but leaves the parts of a head where
// it has received them, with zero bytes in place of what stood between: one blank, a colon and
// blanks, or CR and LF. So in a head that has nothing else, each part begins where the one before
// has to end.
class HeadWalk {
 public:
    HeadWalk(const char* method, const char* uri, std::size_t uri_size, const char* version);
    void header(std::string_view name, std::string_view value);
    // `size`: of the head with the empty line at its end, from the method on.
    bool is_plain(std::size_t size) const;

 private:
    const char* start_;
    const char* next_;
    bool plain_;
};

}  // namespace mana_ai::net::detail
