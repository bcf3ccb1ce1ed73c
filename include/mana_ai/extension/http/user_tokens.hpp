// Authentication of users by their tokens (docs/contract/interface.md, HTTP endpoints). The keys
// are fetched from mana_ai.auth_url, cached, and fetched again for an unknown key id and, without
// delaying anybody, every hour. Keys that could not be confirmed for a day are dropped.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "mana_ai/core/time/instant.hpp"
#include "mana_ai/crypto/jwt.hpp"
#include "mana_ai/net/event_loop.hpp"
#include "mana_ai/net/http_client.hpp"

namespace mana_ai {

class UserTokens {
 public:
    // The user's id; nullopt = refused, or the keys are unavailable.
    using Done = std::function<void(std::optional<std::string> user_id)>;

    explicit UserTokens(net::EventLoop& loop) : loop_(loop) {}
    UserTokens(const UserTokens&) = delete;
    UserTokens& operator=(const UserTokens&) = delete;

    // Calls `done` at once, or after the keys have been fetched.
    void check(std::string token, Done done);

 private:
    struct Waiting {
        std::string token;
        Done done;
    };

    std::variant<crypto::JwtClaims, crypto::JwtRefusal> verify(const std::string& token) const;
    bool may_fetch(core::Instant now) const;
    void start_fetch();
    net::Task<void> fetch();
    void fetched();
    void failed(const std::string& why);
    void forget_keys();

    net::EventLoop& loop_;
    std::unique_ptr<net::HttpClient> client_;
    std::string url_;  // where keys_ are from
    crypto::Jwks keys_;
    bool fetching_ = false;
    std::optional<core::Instant> fetched_at_;  // the last success
    std::optional<core::Instant> tried_at_;    // the last attempt since
    int failures_ = 0;                         // in a row
    bool said_so_ = false;                     // in the log
    std::vector<Waiting> waiting_;
};

}  // namespace mana_ai
