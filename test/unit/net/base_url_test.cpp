#include "mana_ai/net/base_url.hpp"

#include <gtest/gtest.h>

namespace mana_ai::net {
namespace {

TEST(BaseUrl, AcceptsHttpAndHttpsWithAHost) {
    for (const char* url : {"http://localhost", "https://llm.example.org", "http://127.0.0.1:3025/",
                            "https://llm.example.org/some/path", "http://[::1]:8080/v1",
                            "HTTPS://Example.ORG", "http://mana-llm:3025"}) {
        const auto problem = check_base_url(url);
        EXPECT_FALSE(problem.has_value()) << url << ": " << problem.value_or("");
    }
}

TEST(BaseUrl, RefusesEverythingElse) {
    for (const char* url : {"",
                            "localhost:3025",
                            "ftp://example.org",
                            "file:///etc/passwd",
                            "http:/example.org",
                            "http:example.org",
                            "//example.org",
                            "javascript:alert(1)",
                            " http://example.org",
                            "http://",
                            "http:///path",
                            "http://:80",
                            "http://exa mple.org",
                            "http://example.org\n",
                            "http://example.org\t",
                            "http://example.org\\path",
                            "http://example.org:0x50",
                            "http://example.org:99999",
                            "http://[::1",
                            "http://example.org?x=1",
                            "http://example.org/?",
                            "http://example.org#top",
                            "https:/\\example.org"}) {
        EXPECT_TRUE(check_base_url(url).has_value()) << url;
    }
    EXPECT_TRUE(check_base_url(std::string_view("http://example.org\0.evil", 24)).has_value());
}

TEST(BaseUrl, RefusesCredentialsWithoutRepeatingThem) {
    for (const char* url : {"http://user:hunter2@example.org", "http://hunter2@example.org/",
                            "http://@example.org", "https://:hunter2@example.org"}) {
        const auto problem = check_base_url(url);
        ASSERT_TRUE(problem.has_value()) << url;
        EXPECT_EQ(problem->find("hunter2"), std::string::npos);
        EXPECT_NE(problem->find("password"), std::string::npos);
    }
}

}  // namespace
}  // namespace mana_ai::net
