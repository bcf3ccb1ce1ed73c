#include "mana_ai/core/service/deep_research.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "mana_ai/core/service/http_status.hpp"
#include "mana_ai/core/text/ascii.hpp"
#include "mana_ai/core/text/json.hpp"
#include "mana_ai/core/text/json_member.hpp"
#include "mana_ai/core/text/utf8.hpp"
#include "mana_ai/core/text/words.hpp"
#include "research_sources.hpp"

namespace mana_ai::core {

namespace {

constexpr std::size_t kMaxProviderId = 200;

bool is_usable_task_id(std::string_view id) noexcept {
    // Dot segments would leave the folder of the tasks.
    return !id.empty() && id.size() <= kMaxTaskId && id != "." && id != ".." &&
           std::all_of(id.begin(), id.end(), [](char c) { return c > ' ' && c < '\x7F'; });
}

std::optional<ResolvedInput> read_answer(const Json& reply) {
    const Json* const answer = member(member(&reply, "result"), "answer");
    if (answer == nullptr) {
        return std::nullopt;
    }
    const std::string text =
        cut_utf8(repair_utf8(trimmed(string_or(*answer, "answer", ""))), kMaxResearchAnswer);
    if (text.empty()) {
        return std::nullopt;
    }
    research::SourceList sources(text + "\n\n", "Quellen:\n\n");
    if (const Json* const citations = member(answer, "citations");
        citations != nullptr && citations->is_array()) {
        for (const Json& citation : *citations) {
            sources.add(citation, "snippet", nullptr);
            if (sources.size() == kMaxCitations) {
                break;
            }
        }
    }
    return std::move(sources).finish();
}

}  // namespace

std::string submit_request(std::string_view query) {
    return dump_json({{"query", query}, {"provider", kDeepResearchProvider}});
}

std::string task_path(std::string_view task_id) {
    constexpr std::string_view kHex = "0123456789ABCDEF";
    constexpr std::string_view kUnreserved = "-._~";
    std::string path = kDeepResearchPath;
    path += '/';
    for (const char c : task_id) {
        const auto byte = static_cast<unsigned char>(c);
        if (ascii::is_alphanumeric(c) || kUnreserved.find(c) != std::string_view::npos) {
            path += c;
        } else {
            path += {'%', kHex[byte >> 4], kHex[byte & 0xF]};
        }
    }
    return path;
}

std::optional<ResearchTask> parse_submission(int http_status, std::string_view body) {
    const std::optional<Json> reply = is_success(http_status) ? parse_json(body) : std::nullopt;
    if (!reply) {
        return std::nullopt;
    }
    ResearchTask task;
    task.task_id = string_or(*reply, "taskId", "");
    if (!is_usable_task_id(task.task_id)) {
        return std::nullopt;
    }
    task.provider_id = cut_utf8(repair_utf8(string_or(*reply, "providerId", "")), kMaxProviderId);
    if (const Json* const cost = member(&*reply, "costCredits");
        cost != nullptr && cost->is_number()) {
        const auto credits = cost->get<double>();
        if (std::isfinite(credits) && credits >= 0) {
            task.cost_credits = credits;
        }
    }
    return task;
}

ResearchPoll parse_poll(int http_status, std::string_view body) {
    if (http_status == 404 || http_status == 410) {
        return {ResearchStatus::Failed, std::nullopt};
    }
    const std::optional<Json> reply = is_success(http_status) ? parse_json(body) : std::nullopt;
    const std::string_view status = reply ? string_or(*reply, "status", "") : "";
    if (status == "queued" || status == "running") {
        return {ResearchStatus::Pending, std::nullopt};
    }
    if (status == "failed" || status == "cancelled") {
        return {ResearchStatus::Failed, std::nullopt};
    }
    if (status != "completed") {
        return {ResearchStatus::Unreachable, std::nullopt};
    }
    std::optional<ResolvedInput> answer = read_answer(*reply);
    const ResearchStatus found = answer ? ResearchStatus::Completed : ResearchStatus::Failed;
    return {found, std::move(answer)};
}

const char* name(ResearchJobState state) noexcept {
    switch (state) {
        case ResearchJobState::Waiting:
            return "waiting";
        case ResearchJobState::Ready:
            break;
    }
    return "ready";
}

std::optional<ResearchJobState> research_job_state_from_name(std::string_view text) noexcept {
    for (const ResearchJobState state : {ResearchJobState::Waiting, ResearchJobState::Ready}) {
        if (text == name(state)) {
            return state;
        }
    }
    return std::nullopt;
}

ResearchStep next_research_step(const ResearchSituation& situation) noexcept {
    if (!situation.has_job) {
        return situation.gates_open ? ResearchStep::Submit : ResearchStep::PlanShallow;
    }
    // An intent without task id may have been paid for; submitting again could pay twice.
    if (!situation.has_task_id || situation.times_offered >= kMaxOffersOfAnAnswer) {
        return ResearchStep::PlanShallow;
    }
    if (!situation.poll) {
        return ResearchStep::Poll;
    }
    switch (*situation.poll) {
        case ResearchStatus::Completed:
            return ResearchStep::UseAnswer;
        case ResearchStatus::Failed:
            return ResearchStep::PlanShallow;
        case ResearchStatus::Pending:
        case ResearchStatus::Unreachable:
            break;
    }
    return situation.age > situation.timeout ? ResearchStep::PlanShallow : ResearchStep::Wait;
}

}  // namespace mana_ai::core
