// Calls of mana-api and mana-research on behalf of a user (docs/contract/inputs.md, "Client").
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "mana_ai/extension/lease/run_services.hpp"
#include "mana_ai/extension/watch/tracing.hpp"
#include "mana_ai/net/http_client.hpp"

namespace mana_ai {

// The variable parts of a call; an empty body means GET.
struct ResearchCall {
    std::string url;
    std::string body;
    int64_t timeout_us = 0;
    bool with_service_key = true;
};

// The request with the headers that these services require. Nullopt if the user's id cannot be sent
// in a header unchanged: in another spelling it might name another user, who would then pay.
std::optional<net::HttpRequest> research_request(const RunServices& services,
                                                 const std::string& user_id, ResearchCall call);

// Sends it at its turn. If the service is unavailable, or the wait would be long, the response is
// Unreachable, and nothing was sent.
net::Task<net::HttpResponse> send_research(RunServices& services, ServiceGates::Kind kind,
                                           const std::string& user_id, net::HttpRequest request);

// Ends the span of such a call with its result.
void end_research_span(SpanScope& span, const net::HttpResponse& response);

}  // namespace mana_ai
