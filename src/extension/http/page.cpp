#include "mana_ai/extension/http/page.hpp"

#include "mana_ai/crypto/access_key.hpp"

namespace mana_ai {

namespace {

std::string_view between(std::string_view text, std::string_view begin, std::string_view end) {
    const size_t from = text.find(begin);
    if (from == text.npos)
        return {};
    text.remove_prefix(from + begin.size());
    return text.substr(0, text.find(end));
}

std::string content_security_policy() {
    const std::string script = crypto::sha256_base64(between(kPageHtml, "<script>", "</script>"));
    const std::string style = crypto::sha256_base64(between(kPageHtml, "<style>", "</style>"));
    return "default-src 'none'; connect-src 'self'; img-src 'self' data:; form-action 'self'; "
           "base-uri 'none'; frame-ancestors 'none'; script-src 'sha256-" +
           script + "'; style-src 'sha256-" + style + "'";
}

int hex_digit(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    const char lower = static_cast<char>(c | 0x20);
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

std::string form_decoded(std::string_view text) {
    std::string result;
    for (size_t i = 0; i < text.size(); i++) {
        const int high = i + 2 < text.size() ? hex_digit(text[i + 1]) : -1;
        const int low = high >= 0 ? hex_digit(text[i + 2]) : -1;
        if (text[i] == '%' && low >= 0) {
            result += static_cast<char>(high << 4 | low);
            i += 2;
        } else {
            result += text[i] == '+' ? ' ' : text[i];
        }
    }
    return result;
}

}  // namespace

net::HttpAnswer page_answer(int status) {
    static const std::string policy = content_security_policy();
    net::HttpAnswer answer;
    answer.status = status;
    answer.content_type = "text/html; charset=utf-8";
    answer.body = kPageHtml;
    answer.headers = {{"Content-Security-Policy", policy},
                      {"Referrer-Policy", "no-referrer"},
                      {"X-Frame-Options", "DENY"}};
    return answer;
}

std::string form_field(std::string_view body, std::string_view name) {
    while (!body.empty()) {
        const size_t end = body.find('&');
        const std::string_view pair = body.substr(0, end);
        body = end == body.npos ? std::string_view() : body.substr(end + 1);
        const size_t equals = pair.find('=');
        if (equals != pair.npos && form_decoded(pair.substr(0, equals)) == name)
            return form_decoded(pair.substr(equals + 1));
    }
    return {};
}

}  // namespace mana_ai
