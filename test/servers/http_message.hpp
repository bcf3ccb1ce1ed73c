#pragma once

// HTTP/1.1 messages as the test servers read and write them.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mana_ai::test {

/// Microseconds since the Unix epoch.
std::int64_t now_us();

struct Request {
    std::string method;
    std::string path;                                          ///< without the query
    std::string query;                                         ///< what follows `?`
    std::vector<std::pair<std::string, std::string>> headers;  ///< names as they were sent
    std::string body;
    std::int64_t arrived_us = 0;  ///< when its last byte had been read

    /// The value of the first header of that name (case does not count), empty if there is none.
    std::string_view header(std::string_view name) const;
};

struct Response {
    int status = 200;
    std::string content_type = "application/json";
    std::vector<std::pair<std::string, std::string>> headers;
    std::string body;

    // What a correct server would not do.
    std::int64_t delay_ms = 0;          ///< wait before the first byte
    std::int64_t bytes_per_second = 0;  ///< 0 = as fast as the connection takes it
    std::string raw;           ///< send these bytes instead of an HTTP response, then close
    bool hang = false;         ///< never answer
    bool reset = false;        ///< TCP reset instead of an answer
    bool close = false;        ///< close the connection instead of an answer
    bool truncate = false;     ///< announce the whole body, send half of it, close
    bool chunked = false;      ///< Transfer-Encoding: chunked
    bool close_after = false;  ///< Connection: close
};

/// `Sun, 06 Nov 1994 08:49:37 GMT`, the form of dates in HTTP headers.
std::string http_date(std::int64_t unix_seconds);

/// Header names and values: case does not count.
bool same_text(std::string_view a, std::string_view b);

/// A request without its body from its head, which ends with an empty line; empty if it is none.
std::optional<Request> parse_head(std::string_view head);

/// What goes over the wire; `closing` announces that the connection will be closed.
std::string serialize(const Response& response, bool closing);

}  // namespace mana_ai::test
