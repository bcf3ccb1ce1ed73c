#include "mana_ai/extension/research/research_call.hpp"

#include <algorithm>
#include <deque>
#include <functional>
#include <utility>

#include "mana_ai/core/text/wipe.hpp"

namespace mana_ai {

namespace {

constexpr int kRefusedKey = 401;
constexpr int kNoCredits = 402;
constexpr int kMaxRefusals = 3;

bool is_header_value(const std::string& text) {
    return !text.empty() &&
           std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c < '\x7f'; });
}

// The response for a call that must not be sent.
net::HttpResponse turned_away(net::CallGate& gate) {
    net::HttpResponse response;
    if (gate.view().state == core::GateState::KeyRefused) {
        response.status = kRefusedKey;
    } else {
        response.error = net::TransportError::Unreachable;
        response.error_detail = "the service is unavailable or limits the rate of calls";
    }
    return response;
}

// Credits belong to each user, so used-up credits say nothing about the service.
core::CallEnd end_of(const net::HttpResponse& response, core::CallEnd end) {
    const bool is_of_user =
        response.error == net::TransportError::None && response.status == kNoCredits;
    return is_of_user ? core::CallEnd::Answered : end;
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
    constexpr core::Instant kPatienceInOutage = 3 * core::kMicrosPerSecond;
    // Each attempt sends a copy: the user's text and the service key are wiped here too.
    const core::WipeAtEnd wipe_body(request.body);
    std::deque<core::WipeAtEnd> wipe_headers;
    for (std::string& header : request.headers)
        wipe_headers.emplace_back(header);
    net::CallGate& gate = services.gates.of_research(kind);
    const uint64_t caller = std::hash<std::string>()(user_id);
    const int64_t until = services.loop.now_us() + kPatience;
    net::HttpResponse response;
    for (int refusals = 0;; refusals++) {
        const int64_t left = std::max<int64_t>(until - services.loop.now_us(), 0);
        const net::CallGate::Patience patience{left, kPatienceInOutage};
        const auto order = refusals > 0 ? net::CallGate::Order::Begun : net::CallGate::Order::New;
        net::CallGate::Turn turn(gate, caller, order, patience);
        const bool may_call = co_await turn;
        if (!may_call) {
            // The service's own response is more specific.
            if (refusals == 0)
                response = turned_away(gate);
            co_return response;
        }
        net::HttpRequest copy = request;
        response = co_await services.http->send(std::move(copy));
        core::CallReport report = report_of(response);
        report.end = end_of(response, report.end);
        turn.end(report);
        // Refused because of the rate, so not executed: the gate knows when there is room again.
        if (report.end != core::CallEnd::Refused || refusals == kMaxRefusals)
            co_return response;
    }
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
