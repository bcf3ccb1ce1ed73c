// Quick research before planning. docs/contract/inputs.md, Web research before planning. All bodies
// come from a service and may be any bytes.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mana_ai/core/record/records.hpp"
#include "mana_ai/core/record/resolved_input.hpp"

namespace mana_ai::core {

// What research becomes: one input of this name.
inline constexpr const char* kResearchInput = "__web-research__";
inline constexpr const char* kDeepResearchInput = "__deep-research__";  // only if it was refused
inline constexpr const char* kResearchModule = "news-research";
inline constexpr const char* kResearchTable = "web";

inline constexpr const char* kDiscoverPath = "/api/v1/news-research/discover";
inline constexpr const char* kSearchPath = "/api/v1/news-research/search";

// The longest query of either kind of research, in UTF-16 units, as mana-research counts them.
inline constexpr std::size_t kMaxResearchQuery = 4'000;

inline constexpr std::size_t kMaxFeeds = 5;
inline constexpr std::size_t kMaxArticles = 8;

// Whether objective or concept ask for research with the contract's words. Ciphertext never does.
bool wants_web_research(const Mission& mission) noexcept;

// Whether they ask for deep research. Does not check mana_ai.deep_research_enabled.
bool wants_deep_research(const Mission& mission) noexcept;

// What is searched for: the objective; if that is blank the concept, then the title. Trimmed, cut
// at kMaxResearchQuery, valid UTF-8 without U+0000. Empty if the text is blank or ciphertext.
std::string research_query(const Mission& mission);

// The bodies of the two requests.
std::string discover_request(std::string_view query);
std::string search_request(const std::vector<std::string>& feeds, std::string_view query);

// The feeds of a reply to discover: at most kMaxFeeds different http(s) URLs. Empty: none usable.
std::vector<std::string> parse_feeds(std::string_view body);

// The articles of a reply to search as the input `__web-research__`. An article without a usable
// URL is left out; nullopt if none is left.
std::optional<ResolvedInput> parse_articles(std::string_view body);

}  // namespace mana_ai::core
