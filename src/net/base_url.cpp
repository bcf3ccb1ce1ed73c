#include "mana_ai/net/base_url.hpp"

#include <curl/curl.h>

#include <memory>
#include <new>

#include "mana_ai/core/text/ascii.hpp"

namespace mana_ai::net {

namespace {

struct CurlUrlDeleter {
    void operator()(CURLU* url) const noexcept { curl_url_cleanup(url); }
};

struct CurlTextDeleter {
    void operator()(char* text) const noexcept { curl_free(text); }
};

bool has_part(CURLU* url, CURLUPart part) {
    char* text = nullptr;
    const CURLUcode code = curl_url_get(url, part, &text, 0);
    const std::unique_ptr<char, CurlTextDeleter> owner(text);
    if (code == CURLUE_OUT_OF_MEMORY) {
        throw std::bad_alloc();
    }
    return code == CURLUE_OK && text != nullptr && *text != '\0';
}

}  // namespace

std::optional<std::string> check_base_url(std::string_view url) {
    // libcurl is lenient (one slash, blanks, a missing scheme); a setting should not be.
    size_t authority = 0;
    if (core::ascii::starts_with_ignoring_case(url, "http://")) {
        authority = 7;
    } else if (core::ascii::starts_with_ignoring_case(url, "https://")) {
        authority = 8;
    } else {
        return "must begin with http:// or https://";
    }
    for (const char c : url) {
        const auto byte = static_cast<unsigned char>(c);
        if (byte <= 0x20 || byte == 0x7f || c == '\\') {
            return "must not contain blanks, control characters or backslashes";
        }
    }
    if (url.find('?') != std::string_view::npos) {
        return "must not contain a query";
    }
    if (url.find('#') != std::string_view::npos) {
        return "must not contain a fragment";
    }
    const std::string_view host = url.substr(authority, url.find('/', authority) - authority);
    if (host.find('@') != std::string_view::npos) {
        return "must not contain a user name or password";
    }
    if (host.empty() || host.front() == ':') {
        return "must name a host";
    }
    const std::unique_ptr<CURLU, CurlUrlDeleter> parsed(curl_url());
    if (!parsed) {
        throw std::bad_alloc();
    }
    const std::string copy(url);
    const CURLUcode code =
        curl_url_set(parsed.get(), CURLUPART_URL, copy.c_str(), CURLU_DISALLOW_USER);
    switch (code) {
        case CURLUE_OK:
            break;
        case CURLUE_OUT_OF_MEMORY:
            throw std::bad_alloc();
        case CURLUE_BAD_PORT_NUMBER:
            return "must have a port number between 1 and 65535";
        case CURLUE_USER_NOT_ALLOWED:
            return "must not contain a user name or password";
        case CURLUE_NO_HOST:
            return "must name a host";
        default:
            return "must be a valid URL";
    }
    if (!has_part(parsed.get(), CURLUPART_HOST)) {
        return "must name a host";
    }
    return std::nullopt;
}

}  // namespace mana_ai::net
