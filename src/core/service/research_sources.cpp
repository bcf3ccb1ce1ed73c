#include "research_sources.hpp"

#include <algorithm>
#include <utility>

#include "mana_ai/core/text/ascii.hpp"
#include "mana_ai/core/text/utf8.hpp"
#include "mana_ai/core/text/words.hpp"

namespace mana_ai::core::research {

namespace {

constexpr std::string_view kOnlyTheseUrls =
    "Nenne als Quellen ausschließlich die hier aufgeführten URLs und erfinde keine anderen.";
constexpr std::string_view kNoSources = "Nenne keine URLs, denn es sind keine Quellen aufgeführt.";

// Drops "https://" or "http://" in any case; false if the text begins with neither.
bool drop_scheme(std::string_view& url) noexcept {
    for (const std::string_view scheme : {"https://", "http://"}) {
        if (ascii::starts_with_ignoring_case(url, scheme)) {
            url.remove_prefix(scheme.size());
            return true;
        }
    }
    return false;
}

// One line, cut, valid UTF-8: a line break in a title could look like another source.
std::string line_of(const Json& source, const char* key, std::size_t max_chars) {
    if (key == nullptr) {
        return {};
    }
    // Cut before and after: a page of HTML need not be processed for one line.
    return cut_utf8(one_line(cut_utf8(repair_utf8(string_or(source, key, "")), 4 * max_chars)),
                    max_chars);
}

}  // namespace

std::optional<std::string_view> usable_url(const Json& url) noexcept {
    if (!url.is_string()) {
        return std::nullopt;
    }
    const std::string_view text = url.get_ref<const std::string&>();
    std::string_view rest = text;
    if (text.size() > kMaxUrlBytes || !drop_scheme(rest) || rest.empty() ||
        std::string_view("/?#:@").find(rest.front()) != std::string_view::npos) {
        return std::nullopt;
    }
    const bool is_clean = std::none_of(text.begin(), text.end(), [](char c) {
        const auto byte = static_cast<unsigned char>(c);
        // Outside ASCII a URL is percent-encoded; other characters may be spaces.
        return byte <= ' ' || byte >= 0x7F || c == '"' || c == '<' || c == '>' || c == '\\';
    });
    return is_clean ? std::optional(text) : std::nullopt;
}

void SourceList::add(const Json& source, const char* excerpt_key, const char* date_key) {
    if (!source.is_object()) {
        return;
    }
    const auto member = source.find("url");
    const auto url = member == source.end() ? std::nullopt : usable_url(*member);
    if (!url) {
        return;
    }
    const std::string title = line_of(source, "title", kMaxTitle);
    const std::string excerpt = line_of(source, excerpt_key, kMaxExcerpt);
    const std::string date = line_of(source, date_key, kMaxDate);

    std::string text(size_ == 0 ? heading_ : "");
    text += std::to_string(size_ + 1) + ". " + (title.empty() ? "Ohne Titel" : title);
    if (!excerpt.empty()) {
        text += "\n   " + excerpt;
    }
    text += "\n   URL: " + std::string(*url);
    if (!date.empty()) {
        text += "\n   Datum: " + date;
    }
    if (content_.size() + text.size() + 2 > kMaxContentBytes) {
        return;
    }
    content_ += text + "\n\n";
    ++size_;
}

ResolvedInput SourceList::finish() && {
    content_ += size_ > 0 ? kOnlyTheseUrls : kNoSources;
    return {"__web-research__", "news-research", "web", "Ergebnisse der Web-Recherche",
            std::move(content_)};
}

}  // namespace mana_ai::core::research
