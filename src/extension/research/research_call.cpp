#include "mana_ai/extension/research/research_call.hpp"

#include <algorithm>
#include <functional>
#include <utility>

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

net::Task<net::HttpResponse> send_research(RunServices& services, ServiceGates::Kind kind,
                                           const std::string& user_id, net::HttpRequest request) {
    constexpr core::Instant kPatience = 15 * core::kMicrosPerSecond;
    const net::CallGate::Patience patience{kPatience, false};
    net::CallGate::Turn turn(services.gates.of_research(kind), std::hash<std::string>()(user_id),
                             net::CallGate::Order::New, patience);
    net::HttpResponse response;
    const bool may_call = co_await turn;
    if (!may_call) {
        response.error = net::TransportError::Unreachable;
        response.error_detail = "the service is unavailable or limits the rate of calls";
        co_return response;
    }
    response = co_await services.http->send(std::move(request));
    core::CallReport report = report_of(response);
    turn.end(report);
    co_return response;
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
