#include "mana_ai/extension/http/user_tokens.hpp"

#include <algorithm>
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
// The pause after a failure; doubles up to the longest.
constexpr core::Instant kRetryPause = 5 * core::kMicrosPerSecond;
constexpr core::Instant kLongestRetryPause = core::kMicrosPerMinute;
// After this time the keys are fetched again, to detect that one was withdrawn.
constexpr core::Instant kRefreshAfter = core::kMicrosPerHour;
// While that fails, a withdrawn key is accepted for this long.
constexpr core::Instant kLongestUse = core::kMicrosPerDay;
constexpr int64_t kFetchTimeoutUs = 5'000'000;
constexpr size_t kMaxWaiting = 200;

core::Instant retry_pause(int failures) {
    core::Instant pause = kRetryPause;
    for (int i = 1; i < failures && pause < kLongestRetryPause; i++)
        pause *= 2;
    return std::min(pause, kLongestRetryPause);
}

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
           (!tried_at_ || now - *tried_at_ >= retry_pause(failures_));
}

void UserTokens::forget_keys() {
    keys_ = {};
    fetched_at_.reset();
}

void UserTokens::check(std::string token, Done done) {
    if (const std::string url = pg::settings::auth_url(); url != url_ && !fetching_) {
        url_ = url;
        forget_keys();
        tried_at_.reset();
        failures_ = 0;
        said_so_ = false;
    }
    const core::Instant now = pg::monotonic_now();
    if (fetched_at_ && now - *fetched_at_ >= kLongestUse)
        forget_keys();
    const auto outcome = verify(token);
    const auto* claims = std::get_if<crypto::JwtClaims>(&outcome);
    // Only a token that newer keys may verify is worth a fetch: anybody may send an invalid token.
    const bool unknown_key = claims == nullptr && std::get<crypto::JwtRefusal>(outcome) ==
                                                      crypto::JwtRefusal::kUnknownKey;
    if (unknown_key && (fetching_ || may_fetch(now)) && waiting_.size() < kMaxWaiting) {
        waiting_.push_back({std::move(token), std::move(done)});
        if (!fetching_)
            start_fetch();
        return;
    }
    // Nobody waits for a mere confirmation of the keys.
    if (claims != nullptr && now - *fetched_at_ >= kRefreshAfter && !fetching_ && may_fetch(now))
        start_fetch();
    done(claims != nullptr ? std::optional(claims->subject) : std::nullopt);
}

void UserTokens::start_fetch() {
    net::HttpClientOptions options;
    const pg::settings::Transport transport = pg::settings::transport();
    options.proxy = transport.proxy;
    options.ca_file = transport.ca_file;
    client_ = std::make_unique<net::HttpClient>(loop_, std::move(options));
    tried_at_ = pg::monotonic_now();
    fetching_ = true;  // the task may end before spawn() returns
    try {
        loop_.spawn(fetch(), [this](std::exception_ptr) { fetched(); });
    } catch (...) {
        fetching_ = false;
        throw;
    }
}

// Logs one line when the service becomes unavailable, and one when it is available again.
void UserTokens::failed(const std::string& why) {
    if (!said_so_)
        pg::log_warning("the keys of users' tokens could not be fetched from mana_ai.auth_url: " +
                        why);
    said_so_ = true;
}

net::Task<void> UserTokens::fetch() {
    net::HttpRequest request;
    request.method = "GET";
    request.url = url_ + "/api/v1/auth/jwks";
    request.timeout_us = kFetchTimeoutUs;
    request.max_response_bytes = crypto::Jwks::kMaxDocument;
    failures_++;  // until it has succeeded
    const net::HttpResponse response = co_await client_->send(std::move(request));
    if (response.error != net::TransportError::None || response.status != 200) {
        failed(response.error != net::TransportError::None
                   ? std::string(net::to_string(response.error))
                   : "status " + std::to_string(response.status));
        co_return;
    }
    auto keys = crypto::Jwks::parse(response.body);
    if (!keys) {
        failed("the answer is no JSON Web Key Set");
        co_return;
    }
    keys_ = std::move(*keys);
    fetched_at_ = pg::monotonic_now();
    tried_at_.reset();
    failures_ = 0;
    if (std::exchange(said_so_, false))
        pg::log_info("the keys of users' tokens are available again");
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
