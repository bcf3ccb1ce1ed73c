#include "mana_ai/extension/http/user_tokens.hpp"

#include <utility>

#include "mana_ai/extension/process/databases.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/log.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/time.hpp"

namespace mana_ai {

namespace {

constexpr char kAudience[] = "mana";
constexpr core::Instant kFetchPause = 10 * core::kMicrosPerMinute;
// After a failure users wait for the service to come back.
constexpr core::Instant kRetryPause = 5 * core::kMicrosPerSecond;
// A key that was withdrawn loses its power after this time.
constexpr core::Instant kLongestUse = core::kMicrosPerHour;
constexpr int64_t kFetchTimeoutUs = 5'000'000;
constexpr size_t kMaxWaiting = 200;

}  // namespace

std::variant<crypto::JwtClaims, crypto::JwtRefusal> UserTokens::verify(
    const std::string& token) const {
    crypto::JwtRules rules;
    rules.now = pg::now();
    rules.audience = kAudience;
    rules.issuers = split_list(pg::settings::jwt_issuers());
    rules.issuers.push_back(pg::settings::auth_url());
    return crypto::verify_jwt(token, keys_, rules);
}

bool UserTokens::may_fetch(core::Instant now) const {
    return (!fetched_at_ || now - *fetched_at_ >= kFetchPause) &&
           (!failed_at_ || now - *failed_at_ >= kRetryPause);
}

bool UserTokens::wants_keys(const std::variant<crypto::JwtClaims, crypto::JwtRefusal>& outcome,
                            core::Instant now) const {
    if (!fetched_at_ || now - *fetched_at_ >= kLongestUse)
        return true;
    const auto* refusal = std::get_if<crypto::JwtRefusal>(&outcome);
    return refusal != nullptr && *refusal == crypto::JwtRefusal::kUnknownKey;
}

void UserTokens::check(std::string token, Done done) {
    if (const std::string url = pg::settings::auth_url(); url != url_ && !fetching_) {
        url_ = url;
        keys_ = {};
        fetched_at_.reset();
        failed_at_.reset();
    }
    const core::Instant now = pg::now();
    const auto outcome = verify(token);
    if (wants_keys(outcome, now) && (fetching_ || may_fetch(now)) &&
        waiting_.size() < kMaxWaiting) {
        waiting_.push_back({std::move(token), std::move(done)});
        if (!fetching_)
            start_fetch();
        return;
    }
    const auto* claims = std::get_if<crypto::JwtClaims>(&outcome);
    done(claims != nullptr ? std::optional(claims->subject) : std::nullopt);
}

void UserTokens::start_fetch() {
    net::HttpClientOptions options;
    options.proxy = pg::settings::proxy();
    client_ = std::make_unique<net::HttpClient>(loop_, std::move(options));
    fetching_ = true;
    failed_at_ = pg::now();  // until it has succeeded
    loop_.spawn(fetch(), [this](std::exception_ptr) { fetched(); });
}

net::Task<void> UserTokens::fetch() {
    net::HttpRequest request;
    request.method = "GET";
    request.url = url_ + "/api/v1/auth/jwks";
    request.timeout_us = kFetchTimeoutUs;
    request.max_response_bytes = crypto::Jwks::kMaxDocument;
    const net::HttpResponse response = co_await client_->send(std::move(request));
    if (response.error != net::TransportError::None || response.status != 200) {
        pg::log_warning(
            std::string("could not fetch the keys of users' tokens from mana_ai.auth_url: ") +
            (response.error != net::TransportError::None
                 ? net::to_string(response.error)
                 : "status " + std::to_string(response.status)));
        co_return;
    }
    auto keys = crypto::Jwks::parse(response.body);
    if (!keys) {
        pg::log_warning("what mana_ai.auth_url answers is no JSON Web Key Set");
        co_return;
    }
    keys_ = std::move(*keys);
    fetched_at_ = pg::now();
    failed_at_.reset();
}

void UserTokens::fetched() {
    fetching_ = false;
    for (Waiting& waiting : std::exchange(waiting_, {})) {
        const auto outcome = verify(waiting.token);
        const auto* claims = std::get_if<crypto::JwtClaims>(&outcome);
        waiting.done(claims != nullptr ? std::optional(claims->subject) : std::nullopt);
    }
}

}  // namespace mana_ai
