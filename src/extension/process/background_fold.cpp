#include "mana_ai/extension/process/background_fold.hpp"

#include <algorithm>
#include <string>

#include "mana_ai/extension/sync/sync_table.hpp"
#include "mana_ai/pg/failpoint.hpp"
#include "mana_ai/pg/log.hpp"
#include "mana_ai/pg/time.hpp"
#include "mana_ai/pg/transaction.hpp"

namespace mana_ai {

namespace {

constexpr core::Instant kFirstPause = core::kMicrosPerSecond / 4;
constexpr core::Instant kLongestPause = core::kMicrosPerMinute;

}  // namespace

void BackgroundFold::look(bool full_pass) {
    pg::Transaction transaction("mana_ai: looking for a fold in batches");
    const Oid log = pg::guarded([] { return attached_relation(); });
    if ((full_pass || log != seen_log_) && !next_at_ && !leaves_in_batches().empty())
        next_at_ = 0;
    seen_log_ = log;
    transaction.commit();
}

void BackgroundFold::fold(bool is_busy) {
    const core::Instant began = pg::monotonic_now();
    pg::Transaction transaction("mana_ai: folding the log");
    const BatchFold folded = fold_next_batch(kind_);
    MANA_AI_FAILPOINT("batch.before_commit");
    transaction.commit();
    MANA_AI_FAILPOINT("batch.after_commit");
    const core::Instant now = pg::monotonic_now();
    switch (folded) {
        case BatchFold::None:
            next_at_.reset();
            break;
        case BatchFold::Busy:
            pause("55P03");
            return;
        case BatchFold::More:
            next_at_ = now + (now - began) / (is_busy ? 1 : 4);
            break;
    }
    pause_ = 0;
    kind_ = BatchKind::Usual;
}

// A lock that somebody holds is no problem unless they hold it for long.
void BackgroundFold::pause(const std::string& sqlstate) {
    const bool is_long = pause_ == kLongestPause;
    pause_ = std::clamp(pause_ * 2, kFirstPause, kLongestPause);
    next_at_ = pg::monotonic_now() + pause_;
    if (sqlstate == "55P03" && !is_long)
        return;
    try {
        pg::Transaction transaction("mana_ai: noting why the log is not folded");
        note_batch_problem(sqlstate);
        transaction.commit();
    } catch (const pg::PgError& error) {
        if (error.is_interrupt())
            throw;  // else what is wrong is in the server's log
    }
}

// Fewer rows may be what can be folded. If not, one of them is broken, and must not stop the rest.
void BackgroundFold::try_later(const pg::PgError& error) {
    const std::string sqlstate = error.sqlstate_text();
    pause(sqlstate);
    if (error.sqlstate == ERRCODE_LOCK_NOT_AVAILABLE)
        return;
    switch (kind_) {
        case BatchKind::Usual:
            pg::log_warning("a batch of the log could not be folded (SQLSTATE " + sqlstate +
                            "); it is tried again with fewer rows");
            kind_ = BatchKind::Small;
            break;
        case BatchKind::Small:
            pg::log_warning("a batch of the log could not be folded (SQLSTATE " + sqlstate +
                            "); its records are repaired one by one");
            kind_ = BatchKind::OnlyMark;
            break;
        case BatchKind::OnlyMark:
            pg::log_warning(
                "the records of a batch of the log could not be marked (SQLSTATE " + sqlstate +
                "); tried again in " +
                std::to_string((pause_ + core::kMicrosPerSecond - 1) / core::kMicrosPerSecond) +
                " s");
            break;
    }
}

void BackgroundFold::fold_batch(bool is_busy) {
    try {
        fold(is_busy);
    } catch (const pg::PgError& error) {
        if (error.is_interrupt())
            throw;
        try_later(error);
    }
}

}  // namespace mana_ai
