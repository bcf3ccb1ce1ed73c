#include "mana_ai/core/service/web_research.hpp"

#include <algorithm>
#include <array>
#include <span>

#include "mana_ai/core/text/json.hpp"
#include "mana_ai/core/text/utf8.hpp"
#include "mana_ai/core/text/words.hpp"
#include "research_sources.hpp"

namespace mana_ai::core {

namespace {

constexpr std::array<std::string_view, 11> kWords = {
    "recherchier", "research", "news",    "finde",      "suche",      "aktuelle",
    "neueste",     "today",    "history", "historisch", "on this day"};

constexpr std::array<std::string_view, 5> kDeepWords = {"deep research", "tiefe recherche",
                                                        "umfassende recherche",
                                                        "hintergrundrecherche", "deep dive"};

bool asks_for(const Mission& mission, std::span<const std::string_view> phrases,
              PhraseEnd end) noexcept {
    const auto asks = [&](std::string_view text) {
        return !is_ciphertext(text) && contains_phrase(text, phrases, end);
    };
    return asks(mission.objective) || asks(mission.concept_markdown);
}

// The array member of a reply; an empty one if there is none.
Json array_of(std::string_view body, const char* key) {
    std::optional<Json> reply = parse_json(body);
    if (!reply || !reply->is_object()) {
        return Json::array();
    }
    const auto member = reply->find(key);
    return member != reply->end() && member->is_array() ? std::move(*member) : Json::array();
}

}  // namespace

bool wants_web_research(const Mission& mission) noexcept {
    return asks_for(mission, kWords, PhraseEnd::Anywhere);
}

bool wants_deep_research(const Mission& mission) noexcept {
    return asks_for(mission, kDeepWords, PhraseEnd::AtEndOfAWord);
}

std::string research_query(const Mission& mission) {
    for (const std::string* text :
         {&mission.objective, &mission.concept_markdown, &mission.title}) {
        // Repaired first: without its NUL bytes a text may turn out to be ciphertext.
        const std::string repaired = repair_utf8(*text);
        const std::string_view query = trimmed(repaired);
        if (is_ciphertext(query)) {
            return {};
        }
        if (!query.empty()) {
            return cut_utf16(query, kMaxResearchQuery);
        }
    }
    return {};
}

std::string discover_request(std::string_view query) {
    return dump_json({{"query", query}, {"language", "de"}, {"limit", kMaxFeeds}});
}

std::string search_request(const std::vector<std::string>& feeds, std::string_view query) {
    return dump_json({{"feeds", feeds}, {"query", query}, {"limit", kMaxArticles}});
}

std::vector<std::string> parse_feeds(std::string_view body) {
    std::vector<std::string> feeds;
    for (const Json& feed : array_of(body, "feeds")) {
        const auto member = feed.is_object() ? feed.find("url") : feed.end();
        if (!feed.is_object() || member == feed.end()) {
            continue;
        }
        const auto url = research::usable_url(*member);
        if (url && std::find(feeds.begin(), feeds.end(), *url) == feeds.end()) {
            feeds.emplace_back(*url);
            if (feeds.size() == kMaxFeeds) {
                break;
            }
        }
    }
    return feeds;
}

std::optional<ResolvedInput> parse_articles(std::string_view body) {
    research::SourceList sources("", "Gefundene Artikel:\n\n");
    for (const Json& article : array_of(body, "articles")) {
        sources.add(article, "excerpt", "publishedAt");
        if (sources.size() == kMaxArticles) {
            break;
        }
    }
    if (sources.size() == 0) {
        return std::nullopt;
    }
    return std::move(sources).finish();
}

}  // namespace mana_ai::core
