// The status page: one static file without any data in it (src/extension/http/page/index.html).
#pragma once

#include "mana_ai/net/http_server.hpp"

namespace mana_ai {

extern const char kPageHtml[];

// The page, with a policy that allows only its own script and requests to its own server.
net::HttpAnswer page_answer(int status);

// The value of a field of a form (application/x-www-form-urlencoded); empty if there is none.
std::string form_field(std::string_view body, std::string_view name);

}  // namespace mana_ai
