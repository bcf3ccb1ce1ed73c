// Replies of the research services with any status and any bytes. The first byte chooses the
// status.
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "mana_ai/core/planner/prompts.hpp"
#include "mana_ai/core/service/deep_research.hpp"
#include "mana_ai/core/service/web_research.hpp"
#include "mana_ai/core/text/json.hpp"
#include "mana_ai/core/text/utf8.hpp"
#include "mana_ai/core/text/words.hpp"

namespace {

using namespace mana_ai::core;

void require(bool holds) {
    if (!holds) {
        std::abort();
    }
}

void require_clean(const ResolvedInput& input) {
    require(input.id == "__web-research__" && !input.title.empty());
    require(repair_utf8(input.content) == input.content);
    require(input.content.size() <= 4 * PromptLimits::all_inputs);
    require(input.content.ends_with("."));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    constexpr std::array<int, 8> kStatuses = {200, 200, 200, 202, 404, 410, 429, 500};
    if (size == 0) {
        return 0;
    }
    const int status = kStatuses[data[0] % kStatuses.size()];
    const std::string_view body(reinterpret_cast<const char*>(data) + 1, size - 1);

    const auto feeds = parse_feeds(body);
    require(feeds.size() <= kMaxFeeds);
    for (const std::string& feed : feeds) {
        require(feed.size() <= 2048 && feed.find_first_of(" \n\"<>") == std::string::npos);
    }
    require(parse_json(search_request(feeds, body)).has_value());
    require(parse_json(submit_request(body)).has_value());
    if (const auto articles = parse_articles(body)) {
        require_clean(*articles);
    }
    if (const auto task = parse_submission(status, body)) {
        require(status < 300 && !task->task_id.empty() && task->task_id.size() <= kMaxTaskId);
        require(!task->cost_credits || *task->cost_credits >= 0);
    }
    const ResearchPoll poll = parse_poll(status, body);
    require(poll.answer.has_value() == (poll.status == ResearchStatus::Completed));
    if (poll.answer) {
        require_clean(*poll.answer);
    }
    for (const char c : task_path(body).substr(std::string_view(kDeepResearchPath).size() + 1)) {
        require(c > ' ' && c < '\x7F' && c != '/' && c != '?' && c != '#');
    }

    Mission mission;
    mission.objective = body;
    const std::string query = research_query(mission);
    require(repair_utf8(query) == query && query.size() <= 4 * kMaxResearchQuery);
    require(!is_ciphertext(query));
    if (wants_deep_research(mission)) {
        require(!trimmed(body).empty());
    }
    wants_web_research(mission);
    return 0;
}
