#include "mana_ai/extension/research/research_call.hpp"

#include <algorithm>

namespace mana_ai {

namespace {

bool is_header_value(const std::string& text) {
    return !text.empty() &&
           std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c < '\x7f'; });
}

}  // namespace

std::optional<net::HttpRequest> research_request(const RunServices& services,
                                                 const std::string& user_id, ResearchCall call) {
    if (!is_header_value(user_id))
        return std::nullopt;
    net::HttpRequest request;
    request.url = std::move(call.url);
    request.timeout_us = call.timeout_us;
    request.headers.push_back("X-User-Id: " + user_id);
    request.headers.emplace_back("X-App-Id: mana-ai");
    if (call.with_service_key && !services.service_key.empty())
        request.headers.push_back(services.service_key);
    if (call.body.empty()) {
        request.method = "GET";
    } else {
        request.headers.emplace_back("Content-Type: application/json");
        request.body = std::move(call.body);
    }
    return request;
}

void end_research_span(SpanScope& span, const net::HttpResponse& response) {
    if (response.status != 0)
        span.set("http.status_code", response.status);
    if (response.error != net::TransportError::None)
        span.fail(net::to_string(response.error));
    else if (response.status < 200 || response.status > 299)
        span.fail("status");
    span.end();
}

}  // namespace mana_ai
