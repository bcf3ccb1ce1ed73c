// What was used in the last day, by the ledger mana_ai.token_usage, without adding up all of it
// each time.
//
// Sums that were read are kept in this process, and the next look reads only what is new since.
// That needs an order: whoever writes to the ledger holds the lock of budgets until its transaction
// ends, so whoever has it sees all rows with an older time stamp.
#pragma once

#include <cstdint>
#include <string>

#include "mana_ai/core/time/instant.hpp"

namespace mana_ai {

// Held until the end of the transaction. One lock for all budgets: each process reserves for many
// users in one transaction, and must wait in no circle.
void lock_budgets();
bool try_lock_budgets();

// Whose tokens: of a user, or what an agent's or a mission's of that user are; the ids that are not
// meant are empty. Users may have an empty id.
struct Account {
    std::string user_id;
    std::string agent_id;
    std::string mission_id;
    bool is_everybodys = false;  // then there are no ids
};
Account everybody();

// The tokens that an account has used in the last day up to an instant.
struct KnownSum {
    core::Instant until = 0;  // rows with a newer time stamp are to be added
    int64_t tokens = 0;
    core::Instant counted_anew_at = 0;
};

// What this process knows of the account. All is counted anew once a minute: what expires meanwhile
// errs on the safe side, and so does what an operator deletes. What an operator adds with an older
// time stamp counts after a minute at the latest.
KnownSum known_sum(const Account& account);

// The caller holds the lock, and has found that `settled` tokens were used between `known.until`
// and the begin of its transaction.
void keep_sum(const Account& account, KnownSum known, int64_t settled,
              core::Instant transaction_begun);

// The clock was set back: new rows may have older time stamps than those that were added up.
void forget_sums();

// The tokens that the account has used in the last day. `is_alone`: the caller holds the lock.
int64_t used_tokens(const Account& account, bool is_alone);

}  // namespace mana_ai
