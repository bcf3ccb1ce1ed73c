#include "mana_ai/core/service/web_research.hpp"

#include <gtest/gtest.h>

namespace mana_ai::core {
namespace {

Mission with_objective(std::string_view objective) {
    return parse_mission({{"objective", objective}});
}

TEST(WebResearch, IsWantedInTheWordsOfThePage) {
    for (const char* objective :
         {"Recherchiere das", "Bitte recherchieren", "research", "Newsletter", "Finde Orte",
          "suche", "Suchen", "die aktuellen Preise: aktuelle", "neuesten", "what happens today",
          "History", "historische Orte", "On this  day", "on\nthis\tday"}) {
        EXPECT_TRUE(wants_web_research(with_objective(objective))) << objective;
        EXPECT_TRUE(wants_web_research(parse_mission({{"conceptMarkdown", objective}})));
        EXPECT_FALSE(wants_web_research(parse_mission({{"title", objective}})));
    }
    for (const char* objective :
         {"", "Laufen", "Besuche Oma", "Untersuche", "renews", "prehistory", "on this very day",
          "empfinde", "wiederfinden_finde", "Xtoday", "enc:1:news news", "ärgernews"}) {
        EXPECT_FALSE(wants_web_research(with_objective(objective))) << objective;
    }
}

TEST(WebResearch, IsDeepInTheWordsOfThePage) {
    for (const char* objective :
         {"Deep Research zu Wein", "tiefe Recherche", "eine umfassende\n Recherche.",
          "Hintergrundrecherche", "DEEP  DIVE!"}) {
        EXPECT_TRUE(wants_deep_research(with_objective(objective))) << objective;
    }
    for (const char* objective : {"deep researcher", "tiefe Recherchen", "untiefe recherche",
                                  "Hintergrundrecherchen", "deep_research", "deepresearch",
                                  "deep dives", "enc:1:deep dive", "enc:1: deep research "}) {
        EXPECT_FALSE(wants_deep_research(with_objective(objective))) << objective;
    }
}

TEST(ResearchQuery, IsTheFirstTextThatSaysSomething) {
    EXPECT_EQ(research_query(parse_mission(
                  {{"objective", " Ziel\n"}, {"conceptMarkdown", "Konzept"}, {"title", "Titel"}})),
              "Ziel");
    EXPECT_EQ(research_query(parse_mission(
                  {{"objective", "\n\t\xC2\xA0"}, {"conceptMarkdown", "Konzept"}, {"title", "T"}})),
              "Konzept");
    EXPECT_EQ(research_query(parse_mission({{"objective", std::string(3, '\0')}, {"title", "T"}})),
              "T");
    EXPECT_EQ(research_query(Mission()), "");
}

TEST(ResearchQuery, IsNeverCiphertext) {
    EXPECT_EQ(research_query(parse_mission({{"objective", "enc:1:a.b"}, {"title", "T"}})), "");
    EXPECT_EQ(research_query(parse_mission({{"objective", " "}, {"title", "enc:1:a.b"}})), "");
    EXPECT_EQ(research_query(with_objective(" \nenc:1:a.b")), "");
    EXPECT_EQ(research_query(with_objective(std::string("enc:1\0:a.b", 10))), "");
}

TEST(ResearchQuery, IsCutAndValid) {
    std::string objective;
    for (int i = 0; i < 5000; ++i) {
        objective += "ä";
    }
    const std::string query = research_query(with_objective(objective));
    EXPECT_EQ(query.size(), 2 * (kMaxResearchQuery - 1) + std::string("…").size());
    // mana-research counts what JavaScript calls the length of a string.
    std::string emoji;
    for (int i = 0; i < 2'000; ++i) {
        emoji += "\xF0\x9F\x98\x80";
    }
    EXPECT_EQ(research_query(with_objective(emoji)), emoji);
    EXPECT_EQ(research_query(with_objective(emoji + "x")).size(), 4 * 1'999 + 3U);
    EXPECT_EQ(research_query(with_objective("x" + emoji)).size(), 1 + 4 * 1'999 + 3U);
    EXPECT_TRUE(query.ends_with("ä…"));
    EXPECT_EQ(research_query(with_objective(std::string("a\0b\xFF"
                                                        "c",
                                                        5))),
              "ab\xEF\xBF\xBD"
              "c");
    EXPECT_EQ(research_query(with_objective(std::string(1 << 20, 'x'))).size(),
              kMaxResearchQuery - 1 + std::string("…").size());
}

TEST(WebResearch, RequestsAreThoseOfThePage) {
    EXPECT_EQ(Json::parse(discover_request("Wein \"rot\"\n")),
              Json::parse(R"({"query": "Wein \"rot\"\n", "language": "de", "limit": 5})"));
    EXPECT_EQ(Json::parse(search_request({"https://a.de/f"}, "Wein")),
              Json::parse(R"({"feeds": ["https://a.de/f"], "query": "Wein", "limit": 8})"));
    EXPECT_EQ(Json::parse(search_request({}, "\xFF"))["feeds"], Json::array());
}

TEST(Feeds, AreTheFirstFiveUsableUrls) {
    Json body = {{"feeds", Json::array()}};
    for (int i = 0; i < 9; ++i) {
        body["feeds"].push_back({{"url", "https://example.org/" + std::to_string(i / 2)}});
        body["feeds"].push_back({{"url", "javascript:alert(1)"}});
    }
    EXPECT_EQ(parse_feeds(body.dump()),
              (std::vector<std::string>{"https://example.org/0", "https://example.org/1",
                                        "https://example.org/2", "https://example.org/3",
                                        "https://example.org/4"}));
    body["feeds"].push_back({{"url", "https://example.org/more"}});
    EXPECT_EQ(parse_feeds(body.dump()).size(), kMaxFeeds);
}

TEST(Feeds, MustBeHttpUrlsThatAreClean) {
    const auto usable = [](const Json& url) {
        return parse_feeds(dump_json({{"feeds", {{{"url", url}}}}})).size() == 1;
    };
    EXPECT_TRUE(usable("http://a"));
    EXPECT_TRUE(usable("HTTPS://a.de/x?y=%20#z"));
    EXPECT_TRUE(usable("https://[::1]/"));
    EXPECT_TRUE(usable("https://a/" + std::string(2048 - 10, 'x')));
    EXPECT_FALSE(usable("https://a/" + std::string(2048 - 9, 'x')));
    for (const char* url : {"", "https://", "https:///x", "https://?", "ftp://a", "a.de", "//a.de",
                            "https://a b", "https://a\n", " https://a", "https://a\x7F",
                            "https://a/<x>", "https://a/\"x", "https://a\\b", "https://ä.de",
                            "https://a/\xE2\x80\xA8", "file:///etc/passwd", "data:text/html,x"}) {
        EXPECT_FALSE(usable(url)) << url;
    }
    for (const Json& url : {Json(), Json(1), Json::array({"https://a"}), Json::object()}) {
        EXPECT_FALSE(usable(url));
    }
}

const char* const kNoAnswers[] = {
    "",
    "null",
    "[]",
    "{}",
    "nonsense",
    "\xFF\xFE",
    "<html>502</html>",
    R"({"feeds": null, "articles": null})",
    R"({"feeds": {}, "articles": {}})",
    R"({"feeds": [null, 1, "https://a", []], "articles": [null, 1, "x", []]})",
    R"({"feeds": [{}], "articles": [{}]})"};

TEST(WebResearch, TakesAnyBody) {
    for (const char* body : kNoAnswers) {
        EXPECT_TRUE(parse_feeds(body).empty()) << body;
        EXPECT_FALSE(parse_articles(body)) << body;
    }
    const std::string deep = std::string(100'000, '[');
    EXPECT_TRUE(parse_feeds(deep).empty());
    EXPECT_FALSE(parse_articles(R"({"articles": )" + deep));
}

TEST(Articles, BecomeAnInputThatListsThem) {
    const auto input = parse_articles(R"({"articles": [
        {"url": "https://a.de/1", "title": "Erster\nArtikel", "excerpt": " Worum es\r\n geht ",
         "publishedAt": "2026-04-15T10:00:00Z", "feedUrl": "https://a.de/f", "score": 0.5},
        {"url": "mailto:x", "title": "Ohne Adresse"},
        {"url": "http://b.de/2", "title": 5, "excerpt": null, "publishedAt": []}]})");
    ASSERT_TRUE(input);
    EXPECT_EQ(input->id, "__web-research__");
    EXPECT_EQ(input->module, "news-research");
    EXPECT_EQ(input->table, "web");
    EXPECT_EQ(input->title, "Ergebnisse der Web-Recherche");
    EXPECT_EQ(
        input->content,
        "Gefundene Artikel:\n\n"
        "1. Erster Artikel\n   Worum es geht\n   URL: https://a.de/1\n"
        "   Datum: 2026-04-15T10:00:00Z\n\n"
        "2. Ohne Titel\n   URL: http://b.de/2\n\n"
        "Nenne als Quellen ausschließlich die hier aufgeführten URLs und erfinde keine anderen.");
}

TEST(Articles, AreLimitedInNumberAndLength) {
    Json articles = Json::array();
    for (int i = 0; i < 20; ++i) {
        articles.push_back({{"url", "https://a.de/" + std::to_string(i)},
                            {"title", std::string(1 << 16, 't')},
                            {"excerpt", std::string(1 << 16, 'e')},
                            {"publishedAt", std::string(1 << 16, 'd')}});
    }
    const auto input = parse_articles(dump_json({{"articles", articles}}));
    ASSERT_TRUE(input);
    EXPECT_NE(input->content.find("https://a.de/7\n"), std::string::npos);
    EXPECT_EQ(input->content.find("https://a.de/8\n"), std::string::npos);
    EXPECT_NE(input->content.find("1. " + std::string(299, 't') + "…\n   " + std::string(999, 'e') +
                                  "…\n"),
              std::string::npos);
    EXPECT_TRUE(input->content.ends_with("erfinde keine anderen."));
}

TEST(Articles, HoldNeitherNulNorInvalidText) {
    const auto input = parse_articles(
        R"({"articles": [{"url": "https://a.de", "title": "a\u0000b", "excerpt": "\u0000"}]})");
    ASSERT_TRUE(input);
    EXPECT_EQ(input->content.find('\0'), std::string::npos);
    EXPECT_NE(input->content.find("1. ab\n"), std::string::npos);
}

}  // namespace
}  // namespace mana_ai::core
