// The tokens used in the last day, by the ledger mana_ai.token_usage, without computing the whole
// sum each time.
//
// Sums are kept in this process, and the next call reads only newer rows. That needs an order:
// writers to the ledger hold the lock of budgets until their transaction ends, so the holder of the
// lock sees all rows with an older time stamp.
#pragma once

#include <cstdint>
#include <string>

#include "mana_ai/core/time/instant.hpp"

namespace mana_ai {

// Held until the end of the transaction. One lock for all budgets: each process reserves for many
// users in one transaction, and with several locks there could be deadlocks.
void lock_budgets();
bool try_lock_budgets();

// Whose tokens: those of a user, or of an agent or a mission of that user; unused ids are empty.
// Users may have an empty id.
struct Account {
    std::string user_id;
    std::string agent_id;
    std::string mission_id;
    bool is_everybodys = false;  // of all users, and what operators ask of past runs; without ids
};
Account everybody();

// The tokens that an account has used in the last day up to an instant.
struct KnownSum {
    core::Instant until = 0;  // rows with a newer time stamp are to be added
    int64_t tokens = 0;
    core::Instant counted_anew_at = 0;
};

// This process's sum of the account. It is computed again once a minute: until then, expired rows
// and rows that an operator deletes still count, which errs on the safe side. Rows that an operator
// adds with an older time stamp count after a minute at the latest.
KnownSum known_sum(const Account& account);

// The caller holds the lock, and has found that `settled` tokens were used between `known.until`
// and the start of its transaction.
void keep_sum(const Account& account, KnownSum known, int64_t settled,
              core::Instant transaction_begun);

// The clock was set back: new rows may have older time stamps than those in the sums.
void forget_sums();

// The tokens that the account has used in the last day. `is_alone`: the caller holds the lock.
int64_t used_tokens(const Account& account, bool is_alone);

}  // namespace mana_ai
