#include "mana_ai/extension/lease/service_gates.hpp"

#include <algorithm>
#include <set>

#include "mana_ai/core/service/rate_headers.hpp"
#include "mana_ai/core/service/retry_after.hpp"
#include "mana_ai/extension/lease/research_jobs.hpp"
#include "mana_ai/pg/log.hpp"
#include "mana_ai/pg/metrics.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/shared_state.hpp"
#include "mana_ai/pg/time.hpp"

namespace mana_ai {

namespace {

constexpr core::Instant kReportInterval = core::kMicrosPerSecond / 4;
// How long a caller of run_tick() waits for a service that asks to wait.
constexpr core::Instant kWorthWaiting = 30 * core::kMicrosPerSecond;

const char* word_for(ServiceGates::Kind kind) {
    switch (kind) {
        case ServiceGates::Kind::Model:
            return "model";
        case ServiceGates::Kind::WebResearch:
            return "web_research";
        case ServiceGates::Kind::DeepResearch:
            return "deep_research";
    }
    return "model";
}

core::GateLimits limits_of(ServiceGates::Kind kind) {
    core::GateLimits limits;
    limits.max_concurrency = pg::settings::max_concurrency();
    if (kind == ServiceGates::Kind::Model) {
        limits.requests_per_minute = pg::settings::llm_requests_per_minute();
        limits.tokens_per_minute = pg::settings::llm_tokens_per_minute();
    } else if (kind == ServiceGates::Kind::DeepResearch) {
        limits.max_concurrency = std::max(limits.max_concurrency, kMaxResearchPolls);
    }
    return limits;
}

std::string key_of(ServiceGates::Kind kind, const std::string& url, const std::string& model) {
    return std::string(word_for(kind)) + '\n' + url + '\n' + model;
}

std::string research_url_of(ServiceGates::Kind kind) {
    return kind == ServiceGates::Kind::WebResearch ? pg::settings::api_url()
                                                   : pg::settings::research_url();
}

// To the second, for readers; by the wall clock.
std::string time_text(core::Instant wall) {
    return core::to_iso_millis(wall - wall % core::kMicrosPerSecond).substr(0, 19) + "Z";
}

}  // namespace

ServiceGates::Entry& ServiceGates::entry(Kind kind, const std::string& url,
                                         const std::string& model) {
    std::unique_ptr<Entry>& found = entries_[key_of(kind, url, model)];
    if (found == nullptr) {
        found = std::make_unique<Entry>(loop_, limits_of(kind));
        found->kind = kind;
        found->name = model;
        may_have_old_ = true;  // a run may still use the model that it began with
    }
    return *found;
}

net::CallGate& ServiceGates::of_model(const std::string& model) {
    return entry(Kind::Model, pg::settings::llm_url(), model).gate;
}

net::CallGate& ServiceGates::of_planner() {
    const std::vector<std::string> models = pg::settings::planner_models();
    net::CallGate* first = nullptr;
    for (const std::string& model : models) {
        if (stops_.models.contains(model))
            continue;
        net::CallGate& gate = of_model(model);
        if (!gate.is_closed())
            return gate;
        if (first == nullptr)
            first = &gate;
    }
    return first != nullptr ? *first : of_model(models.front());
}

net::CallGate& ServiceGates::of_research(Kind kind) {
    return entry(kind, research_url_of(kind), {}).gate;
}

// A service that is no longer used must not show as unavailable. Calls may still be in flight.
void ServiceGates::drop_old() {
    const std::string url = pg::settings::llm_url();
    std::set<std::string> current = {
        key_of(Kind::Model, url, pg::settings::compact_model()),
        key_of(Kind::WebResearch, research_url_of(Kind::WebResearch), {}),
        key_of(Kind::DeepResearch, research_url_of(Kind::DeepResearch), {}),
    };
    for (const std::string& model : pg::settings::planner_models())
        current.insert(key_of(Kind::Model, url, model));
    for (const std::string& model : kept_)
        current.insert(key_of(Kind::Model, url, model));
    may_have_old_ = false;
    std::erase_if(entries_, [&](const auto& entry) {
        const bool is_old = !current.contains(entry.first);
        const bool is_in_use = !entry.second->gate.is_idle();
        may_have_old_ |= is_old && is_in_use;
        return is_old && !is_in_use;
    });
}

void ServiceGates::load_settings(bool new_key) {
    may_have_old_ = true;
    for (const auto& [key, entry] : entries_) {
        entry->gate.set_limits(limits_of(entry->kind));
        if (new_key)
            entry->gate.forget();
    }
}

// At least a moment, so that a service that fails fast is not called in a loop. The claim handles
// longer waits.
int64_t ServiceGates::pause_of_planner() {
    const auto next = of_planner().next_claim_at(coming_.size());
    return std::clamp<int64_t>(next.value_or(0) - loop_.now_us(), core::kMicrosPerSecond,
                               core::ServiceGate::kLongestProbePause);
}

int ServiceGates::claimable() {
    return of_planner().claimable(coming_.size());
}

std::optional<int64_t> ServiceGates::next_claim_at() {
    return of_planner().next_claim_at(coming_.size());
}

bool ServiceGates::is_away() {
    net::CallGate& gate = of_planner();
    const auto next = gate.next_claim_at(coming_.size());
    return gate.is_closed() || (next && *next - loop_.now_us() > kWorthWaiting);
}

std::string ServiceGates::problem() {
    switch (of_planner().view().state) {
        case core::GateState::KeyRefused:
            return "the model service refuses the service key";
        case core::GateState::Unavailable:
            return "the model service is unavailable";
        case core::GateState::Limited:
        case core::GateState::Open:  // by what its headers say, or by a rate that is set
            break;
    }
    return "the model service limits the rate of calls";
}

void ServiceGates::report(bool shared, const std::optional<TraceExporter::View>& collector) {
    const core::Instant now = loop_.now_us();
    if (now - reported_at_ < kReportInterval)
        return;
    reported_at_ = now;
    const core::Instant to_wall = pg::now() - now;
    std::vector<pg::shared_state::ServiceView> views;
    for (const auto& [key, entry] : entries_) {
        const core::GateView view = entry->gate.view();
        const std::string what =
            std::string(word_for(entry->kind)) +
            (entry->name.empty() ? "" : " \"" + pg::printable(entry->name) + "\"");
        if (view.state != entry->logged) {
            const bool is_bad = view.state == core::GateState::Unavailable ||
                                view.state == core::GateState::KeyRefused;
            std::string line = "service " + what + " is " + core::name(view.state) + " (was " +
                               core::name(entry->logged) +
                               "), calls at once: " + std::to_string(view.limit);
            if (view.next_try_at)
                line += ", next try at " + time_text(*view.next_try_at + to_wall);
            if (is_bad)
                pg::log_warning(line);
            else
                pg::log_info(line);
            entry->logged = view.state;
        }
        const uint64_t refused = entry->gate.refused();
        const uint64_t failed = entry->gate.failed();
        if (refused > entry->counted_refused)
            pg::metrics::count(core::Metric::ServiceCallsRefused, {word_for(entry->kind)},
                               refused - entry->counted_refused);
        if (failed > entry->counted_failed)
            pg::metrics::count(core::Metric::ServiceCallsFailed, {word_for(entry->kind)},
                               failed - entry->counted_failed);
        entry->counted_refused = refused;
        entry->counted_failed = failed;
        pg::shared_state::ServiceView service;
        service.service = word_for(entry->kind);
        service.name = entry->name;
        service.state = core::name(view.state);
        if (view.state != core::GateState::Open)
            service.since = view.since + to_wall;
        service.limit = view.limit;
        service.in_flight = view.in_flight;
        service.waiting = static_cast<int>(entry->gate.waiting());
        service.per_minute = view.per_minute;
        service.refused = static_cast<int64_t>(refused);
        service.failed = static_cast<int64_t>(failed);
        if (view.next_try_at)
            service.next_try_at = *view.next_try_at + to_wall;
        views.push_back(std::move(service));
    }
    if (collector) {
        pg::shared_state::ServiceView service;
        service.service = "collector";
        service.state = core::name(collector->state);
        if (collector->state != core::GateState::Open)
            service.since = collector->since + to_wall;
        service.limit = 1;
        service.in_flight = collector->in_flight;
        service.waiting = collector->waiting;
        service.refused = collector->refused;
        service.failed = collector->failed;
        if (collector->next_try_at)
            service.next_try_at = *collector->next_try_at + to_wall;
        views.push_back(std::move(service));
    }
    if (shared)
        pg::shared_state::report_services(views);
    if (may_have_old_)
        drop_old();
}

core::CallReport report_of(const net::HttpResponse& response) {
    core::CallReport report;
    report.retry_after = core::parse_retry_after(response.retry_after, pg::now());
    std::string lines = response.rate_limits;
    bool is_refused = response.status == 429;
    // Also a refusal that comes as a success.
    if (is_refused ||
        (response.status == 200 && response.body.find("\"choices\"") == std::string::npos)) {
        const std::string in_body = core::rate_headers_in_body(response.body);
        is_refused |= !in_body.empty();
        lines += in_body;
    }
    if (!report.retry_after && response.status >= 400)
        report.retry_after = core::retry_after_in_body(response.body);
    if (!lines.empty())
        report.rates = core::parse_rate_headers(lines, pg::now());
    // A request that crashes the service looks like an outage of the service.
    if (response.error == net::TransportError::Unreachable ||
        response.error == net::TransportError::Timeout)
        report.end = response.may_have_arrived ? core::CallEnd::Suspect : core::CallEnd::Down;
    else if (response.error == net::TransportError::Malformed)
        report.end = core::CallEnd::Suspect;
    else if (response.error == net::TransportError::Cancelled)
        report.end = core::CallEnd::Dropped;
    else if (is_refused)
        report.end = core::CallEnd::Refused;
    else if (response.status == 401 || response.status == 402)
        report.end = core::CallEnd::KeyRefused;
    else if (response.status == 403)
        report.end = core::CallEnd::Forbidden;
    else if (response.status == 502 || response.status == 503 || response.status == 529)
        report.end = core::CallEnd::Down;
    else if (response.status >= 500)
        report.end = core::CallEnd::Suspect;
    // Nothing left, and no retry time except the end of the window.
    if (report.end == core::CallEnd::Refused && !report.retry_after && report.rates.requests &&
        report.rates.requests->remaining < 1 && report.rates.requests->is_window)
        report.retry_after = report.rates.requests->reset_after;
    return report;
}

}  // namespace mana_ai
