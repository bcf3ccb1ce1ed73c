#include "mana_ai/extension/research/web_research.hpp"

#include <vector>

#include "mana_ai/core/service/web_research.hpp"
#include "mana_ai/core/text/wipe.hpp"
#include "mana_ai/extension/research/research_call.hpp"
#include "mana_ai/pg/settings.hpp"

namespace mana_ai {

namespace {

constexpr int64_t kDiscoverTimeout = 15 * core::kMicrosPerSecond;
constexpr int64_t kSearchTimeout = 30 * core::kMicrosPerSecond;

// The body of a successful answer.
net::Task<std::optional<std::string>> ask(RunServices& services, const ClaimedMission& claimed,
                                          const char* span_name, ResearchCall call) {
    call.with_service_key = pg::settings::api_service_key();
    std::optional<net::HttpRequest> request =
        research_request(services, claimed.user_id, std::move(call));
    if (!request)
        co_return std::nullopt;
    SpanScope span(claimed.trace, span_name, core::SpanKind::Client);
    span.add_header(request->headers);
    net::HttpResponse response = co_await services.http->send(std::move(*request));
    end_research_span(span, response);
    if (response.error != net::TransportError::None || response.status < 200 ||
        response.status > 299)
        co_return std::nullopt;
    co_return std::move(response.body);
}

}  // namespace

net::Task<std::optional<core::ResolvedInput>> research_web(RunServices& services,
                                                           const ClaimedMission& claimed,
                                                           std::string query) {
    const core::WipeAtEnd wipe_query(query);
    if (query.empty())
        co_return std::nullopt;
    ResearchCall discover{pg::settings::api_url() + core::kDiscoverPath,
                          core::discover_request(query), kDiscoverTimeout};
    const std::optional<std::string> found =
        co_await ask(services, claimed, "research.discover", std::move(discover));
    if (!found)
        co_return std::nullopt;
    const std::vector<std::string> feeds = core::parse_feeds(*found);
    if (feeds.empty())
        co_return std::nullopt;
    ResearchCall search{pg::settings::api_url() + core::kSearchPath,
                        core::search_request(feeds, query), kSearchTimeout};
    const std::optional<std::string> articles =
        co_await ask(services, claimed, "research.search", std::move(search));
    if (!articles)
        co_return std::nullopt;
    co_return core::parse_articles(*articles);
}

}  // namespace mana_ai
