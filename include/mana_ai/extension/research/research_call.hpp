// Calls of mana-api and mana-research in a user's name (docs/contract/inputs.md, "Client").
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "mana_ai/extension/lease/run_services.hpp"
#include "mana_ai/extension/watch/tracing.hpp"
#include "mana_ai/net/http_client.hpp"

namespace mana_ai {

// What differs from call to call; an empty body makes a GET.
struct ResearchCall {
    std::string url;
    std::string body;
    int64_t timeout_us = 0;
    bool with_service_key = true;
};

// The request with the headers that these services want. Nullopt when the user's id cannot stand in
// a header as it is: written in another way it might name somebody else, who would then pay.
std::optional<net::HttpRequest> research_request(const RunServices& services,
                                                 const std::string& user_id, ResearchCall call);

// Sends it at its turn. When the service is away, or lets it wait for long, the answer is that it
// is unreachable, and nothing was sent.
net::Task<net::HttpResponse> send_research(RunServices& services, ServiceGates::Kind kind,
                                           const std::string& user_id, net::HttpRequest request);

// Ends the span of such a call with what came of it.
void end_research_span(SpanScope& span, const net::HttpResponse& response);

}  // namespace mana_ai
