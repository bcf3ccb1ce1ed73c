#include "http_message.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <ctime>

namespace mana_ai::test {

namespace {

char lower(char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
}

const char* reason(int status) {
    switch (status) {
        case 200:
            return "OK";
        case 202:
            return "Accepted";
        case 302:
            return "Found";
        case 400:
            return "Bad Request";
        case 401:
            return "Unauthorized";
        case 403:
            return "Forbidden";
        case 404:
            return "Not Found";
        case 413:
            return "Content Too Large";
        case 422:
            return "Unprocessable Content";
        case 429:
            return "Too Many Requests";
        case 500:
            return "Internal Server Error";
        case 502:
            return "Bad Gateway";
        case 503:
            return "Service Unavailable";
        case 504:
            return "Gateway Timeout";
        default:
            return "Other";
    }
}

}  // namespace

bool same_text(std::string_view a, std::string_view b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                      [](char x, char y) { return lower(x) == lower(y); });
}

std::int64_t now_us() {
    using std::chrono::duration_cast, std::chrono::microseconds, std::chrono::system_clock;
    return duration_cast<microseconds>(system_clock::now().time_since_epoch()).count();
}

std::string http_date(std::int64_t unix_seconds) {
    const auto seconds = static_cast<std::time_t>(unix_seconds);
    std::tm parts{};
    gmtime_r(&seconds, &parts);
    std::array<char, 64> text{};
    // The C locale is in force, so names are English as HTTP wants them.
    const auto length =
        std::strftime(text.data(), text.size(), "%a, %d %b %Y %H:%M:%S GMT", &parts);
    return {text.data(), length};
}

std::string_view Request::header(std::string_view name) const {
    for (const auto& [key, value] : headers) {
        if (same_text(key, name)) {
            return value;
        }
    }
    return {};
}

std::optional<Request> parse_head(std::string_view head) {
    head.remove_suffix(2);  // the empty line
    auto line_end = head.find("\r\n");
    const auto first = head.substr(0, line_end);
    const auto space = first.find(' ');
    const auto second = first.find(' ', space + 1);
    if (space == std::string_view::npos || second == std::string_view::npos) {
        return std::nullopt;
    }
    Request request;
    request.method = first.substr(0, space);
    const auto target = first.substr(space + 1, second - space - 1);
    const auto question = target.find('?');
    request.path = target.substr(0, question);
    request.query = question == std::string_view::npos ? "" : target.substr(question + 1);
    for (auto at = line_end + 2; at < head.size(); at = line_end + 2) {
        line_end = head.find("\r\n", at);
        const auto line = head.substr(at, line_end - at);
        const auto colon = line.find(':');
        if (colon == std::string_view::npos) {
            continue;
        }
        auto value = line.substr(colon + 1);
        value.remove_prefix(std::min(value.find_first_not_of(' '), value.size()));
        request.headers.emplace_back(line.substr(0, colon), value);
    }
    return request;
}

std::string serialize(const Response& response, bool closing) {
    std::string output;
    output.reserve(response.body.size() + 256);
    output += "HTTP/1.1 ";
    output += std::to_string(response.status);
    output += ' ';
    output += reason(response.status);
    output += "\r\nContent-Type: ";
    output += response.content_type;
    for (const auto& [name, value] : response.headers) {
        output += "\r\n";
        output += name;
        output += ": ";
        output += value;
    }
    if (closing) {
        output += "\r\nConnection: close";
    }
    if (!response.chunked) {
        output += "\r\nContent-Length: ";
        output += std::to_string(response.body.size());
        output += "\r\n\r\n";
        output.append(response.body, 0,
                      response.truncate ? response.body.size() / 2 : response.body.size());
        return output;
    }
    output += "\r\nTransfer-Encoding: chunked\r\n\r\n";
    constexpr std::size_t kChunk = 1000;
    for (std::size_t at = 0; at < response.body.size(); at += kChunk) {
        const auto size = std::min(kChunk, response.body.size() - at);
        std::array<char, 20> hex{};
        const auto end = std::to_chars(hex.data(), hex.data() + hex.size(), size, 16).ptr;
        output.append(hex.data(), end);
        output += "\r\n";
        output.append(response.body, at, size);
        output += "\r\n";
    }
    output += "0\r\n\r\n";
    return output;
}

}  // namespace mana_ai::test
