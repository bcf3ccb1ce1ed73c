#include "mana_ai/extension/research/web_research.hpp"

#include <vector>

#include "mana_ai/core/service/web_research.hpp"
#include "mana_ai/core/text/wipe.hpp"
#include "mana_ai/extension/lease/durable_step.hpp"
#include "mana_ai/extension/research/research_call.hpp"
#include "mana_ai/extension/research/research_use.hpp"
#include "mana_ai/pg/failpoint.hpp"
#include "mana_ai/pg/log.hpp"
#include "mana_ai/pg/metrics.hpp"
#include "mana_ai/pg/settings.hpp"

namespace mana_ai {

namespace {

constexpr int64_t kDiscoverTimeout = 15 * core::kMicrosPerSecond;
constexpr int64_t kSearchTimeout = 30 * core::kMicrosPerSecond;

struct Answer {
    std::string body;
    std::string reason;  // of WebResearch; empty if there is an answer
};

net::Task<Answer> ask(RunServices& services, const ClaimedMission& claimed, const char* span_name,
                      ResearchCall call) {
    Answer answer;
    call.with_service_key = pg::settings::api_service_key();
    std::optional<net::HttpRequest> request =
        research_request(services, claimed.user_id, std::move(call));
    if (!request) {
        answer.reason = "user-id";
        co_return answer;
    }
    SpanScope span(claimed.trace, span_name, core::SpanKind::Client);
    span.add_header(request->headers);
    net::HttpResponse response = co_await send_research(services, ServiceGates::Kind::WebResearch,
                                                        claimed.user_id, std::move(*request));
    end_research_span(span, response);
    if (response.error != net::TransportError::None) {
        answer.reason = net::to_string(response.error);
    } else if (response.status < 200 || response.status > 299) {
        answer.reason = "http-" + std::to_string(response.status);
    } else {
        answer.body = std::move(response.body);
    }
    co_return answer;
}

bool is_refusal(const std::string& reason) {
    return reason == "http-401" || reason == "http-403";
}

// A refusal is a matter of configuration: it concerns every mission, so it is logged once.
void log_refusal(const std::string& reason) {
    static bool said = false;
    if (!is_refusal(reason)) {
        said = said && !reason.empty();
        return;
    }
    if (!said)
        pg::log_warning("web research is refused by mana_ai.api_url (" + reason +
                        "): missions are planned without it");
    said = true;
}

const char* outcome_of(const WebResearch& research) {
    if (research.found)
        return "found";
    if (research.reason == "nothing-found")
        return "nothing_found";
    if (research.is_limited)
        return "limited";
    return is_refusal(research.reason) ? "refused" : "failed";
}

net::Task<WebResearch> search_web(RunServices& services, const ClaimedMission& claimed,
                                  const std::string& query, bool& was_answered) {
    WebResearch research;
    ResearchCall discover{pg::settings::api_url() + core::kDiscoverPath,
                          core::discover_request(query), kDiscoverTimeout};
    const Answer feeds_answer =
        co_await ask(services, claimed, "research.discover", std::move(discover));
    research.reason = feeds_answer.reason;
    if (!feeds_answer.reason.empty())
        co_return research;
    was_answered = true;
    const std::vector<std::string> feeds = core::parse_feeds(feeds_answer.body);
    research.reason = "nothing-found";
    if (feeds.empty())
        co_return research;
    ResearchCall search{pg::settings::api_url() + core::kSearchPath,
                        core::search_request(feeds, query), kSearchTimeout};
    const Answer articles = co_await ask(services, claimed, "research.search", std::move(search));
    if (!articles.reason.empty()) {
        research.reason = articles.reason;
        co_return research;
    }
    research.found = core::parse_articles(articles.body);
    if (research.found)
        research.reason.clear();
    co_return research;
}

}  // namespace

net::Task<WebResearch> research_web(RunServices& services, const ClaimedMission& claimed,
                                    std::string query) {
    const core::WipeAtEnd wipe_query(query);
    WebResearch research;
    if (query.empty()) {
        research.reason = "nothing-found";
        co_return research;
    }
    ResearchCharge charged;
    DatabaseJobs::Work charge = [&] { charged = charge_research(claimed, ResearchKind::Web); };
    co_await write_until_done(services, claimed, std::move(charge));
    MANA_AI_FAILPOINT("research.charged");
    if (!charged.use) {
        research.reason = charged.refused;
        research.is_limited = true;
        pg::metrics::count(core::Metric::WebResearch, {outcome_of(research)});
        co_return research;
    }
    // From now on the charge is settled, also when the run is canceled or fails.
    bool was_answered = false;
    const DatabaseJobs::Work settle = [&] {
        if (was_answered)
            count_research_cost(claimed, *charged.use);
        else
            take_charge_back(*charged.use);
        MANA_AI_FAILPOINT("research.settled");
    };
    DatabaseJobs::Owed owed(services.jobs, claimed.run_id, owed_step(claimed, settle),
                            "run=" + claimed.run_id + " web research, usage=" + charged.use->id);
    std::exception_ptr failure;
    try {
        research = co_await search_web(services, claimed, query, was_answered);
    } catch (...) {
        failure = std::current_exception();
    }
    co_await settle_owed(services, claimed, owed);
    if (failure)
        std::rethrow_exception(failure);
    log_refusal(research.reason);
    pg::metrics::count(core::Metric::WebResearch, {outcome_of(research)});
    co_return research;
}

}  // namespace mana_ai
