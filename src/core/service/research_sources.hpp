// The result of both kinds of research for the planner: a list of sources that it may cite.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "mana_ai/core/record/prompt_limits.hpp"
#include "mana_ai/core/record/resolved_input.hpp"
#include "mana_ai/core/text/json.hpp"

namespace mana_ai::core::research {

inline constexpr std::size_t kMaxUrlBytes = 2048;
inline constexpr std::size_t kMaxTitle = 300;
inline constexpr std::size_t kMaxExcerpt = 1'000;
inline constexpr std::size_t kMaxDate = 40;

// Leaves room in the prompt's limit of all inputs, so that the closing sentence is never cut off.
inline constexpr std::size_t kMaxContentBytes = PromptLimits::all_inputs - 2'000;

// The URL if it is http or https with a host, at most kMaxUrlBytes long, and free of whitespace,
// control characters, quotes and angle brackets; else nullopt. The view is into `url`.
std::optional<std::string_view> usable_url(const Json& url) noexcept;

// Numbered sources, each with what is known about it.
class SourceList {
 public:
    // `text` comes first, the heading before the first source; both are valid UTF-8. The heading
    // must outlive the list.
    SourceList(std::string text, std::string_view heading)
        : content_(std::move(text)), heading_(heading) {}

    // `source` is {url, title?, …}. Left out without a usable URL, or if it no longer fits. The
    // keys name its members with an excerpt and a date; null = it has none.
    void add(const Json& source, const char* excerpt_key, const char* date_key);

    std::size_t size() const noexcept { return size_; }

    // The input `__web-research__`; its content ends by saying that only these URLs may be used.
    ResolvedInput finish() &&;

 private:
    std::string content_;
    std::string_view heading_;
    std::size_t size_ = 0;
};

}  // namespace mana_ai::core::research
