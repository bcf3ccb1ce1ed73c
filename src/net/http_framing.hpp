// What a header may look like, so that nobody reads another request out of the same bytes
// (RFC 9112, 5.1 and 5.2).
#pragma once

#include <string_view>

namespace mana_ai::net::detail {

// RFC 9110, 5.6.2: what a header's name consists of. A blank before the colon is none of it.
bool is_token(std::string_view name);

// Whether a header goes on in a second line. libmicrohttpd joins the lines without saying so; but
// the value of one line stands in the received bytes, right behind its name and blanks, and what it
// has joined stands elsewhere. `name_end`: the zero byte in place of the colon.
bool is_folded(const char* name_end, const char* value);

}  // namespace mana_ai::net::detail
