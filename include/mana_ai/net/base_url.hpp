// Check of a service's base URL as given in a setting.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace mana_ai::net {

// Nullopt when the URL is http or https with a host and without user, password, query or fragment;
// otherwise the problem, as a phrase for an error's detail ("must not contain a password"). The
// text never repeats the URL, which may hold a password. May throw std::bad_alloc.
std::optional<std::string> check_base_url(std::string_view url);

}  // namespace mana_ai::net
