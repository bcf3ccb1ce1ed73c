// What the tests of HttpClient share: sending one request and waiting for its answer.
#pragma once

#include <gtest/gtest.h>

#include <exception>
#include <string>
#include <utility>

#include "fast_server.hpp"
#include "mana_ai/net/event_loop.hpp"
#include "mana_ai/net/http_client.hpp"
#include "rude_server.hpp"

namespace mana_ai::net::test {

inline HttpRequest post_to(std::string url, std::string body = "{}") {
    HttpRequest request;
    request.url = std::move(url);
    request.headers.emplace_back("Content-Type: application/json");
    request.headers.emplace_back("Authorization: Bearer hunter2-is-the-key");
    request.body = std::move(body);
    request.timeout_us = 5'000'000;
    return request;
}

inline Task<void> exchange(HttpClient& client, HttpRequest request, HttpResponse& response) {
    response = co_await client.send(std::move(request));
}

inline HttpResponse fetch(EventLoop& loop, HttpClient& client, HttpRequest request) {
    HttpResponse response;
    std::exception_ptr failure;
    loop.spawn(exchange(client, std::move(request), response),
               [&](std::exception_ptr exception) { failure = exception; });
    loop.run_until_idle(20'000'000);
    if (failure) {
        std::rethrow_exception(failure);
    }
    EXPECT_EQ(response.error_detail.find("hunter2"), std::string::npos);
    EXPECT_EQ(response.error == TransportError::None, response.error_detail.empty());
    EXPECT_GE(response.duration_us, 0);
    return response;
}

}  // namespace mana_ai::net::test
