// The worker's part in the fold of a large log: when the next batch is due (sync/fold_batches.hpp).
#pragma once

#include <optional>
#include <string>

#include "mana_ai/core/time/instant.hpp"
#include "mana_ai/extension/sync/fold_batches.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/postgres.hpp"

namespace mana_ai {

class BackgroundFold {
 public:
    // Whether a fold has begun. Cheap, unless it is a full pass or another table is attached.
    void look(bool full_pass);

    // When the next batch is due, on the monotonic clock; nullopt = no fold is under way.
    std::optional<core::Instant> next_at() const { return next_at_; }

    // Folds a batch in a transaction. `is_busy`: missions are in flight, and need the process, too.
    // An error is logged, and the batch tried again later; an interrupt is thrown.
    void fold_batch(bool is_busy);

 private:
    void fold(bool is_busy);
    void pause(const std::string& sqlstate);
    void try_later(const pg::PgError& error);

    Oid seen_log_ = 0;
    std::optional<core::Instant> next_at_;
    core::Instant pause_ = 0;            // after a failure
    BatchKind kind_ = BatchKind::Usual;  // of the next attempt
};

}  // namespace mana_ai
