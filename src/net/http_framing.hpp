// Strict checks of a request's head, so that no other parser reads a different request from the
// same bytes (RFC 9112, 2.2, 3 and 5).
#pragma once

#include <cstddef>
#include <string_view>

namespace mana_ai::net::detail {

// RFC 9110, 5.6.2: the characters of a header's name. A blank before the colon is not one.
bool is_token(std::string_view name);

// Whether libmicrohttpd itself refuses a bare line feed, a zero byte and a header over several
// lines, as it does from 1.0 on.
bool library_checks_lines();

// For an older one, which silently accepts all of these. It leaves the parts of a head where it has
// received them, with zero bytes in place of the separators: one blank, a colon and blanks, or CR
// and LF. So in a head with nothing else, each part begins where the previous one has to end.
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
