// An internal subtransaction: after an error inside, it is undone and the transaction continues.
#pragma once

#include <optional>
#include <utility>

#include "mana_ai/pg/guard.hpp"

extern "C" {
#include "access/xact.h"
#include "utils/resowner.h"
}

namespace mana_ai::pg {

// Runs f (under the rules of guarded()) inside a subtransaction, which is committed if f returns
// true and rolled back if it returns false or raises. Returns the error, unless it is an interrupt,
// which is rethrown after the rollback.
template <class F>
std::optional<PgError> in_subtransaction(F&& f) {
    const MemoryContext context = CurrentMemoryContext;
    const ResourceOwner owner = CurrentResourceOwner;
    const int level = GetCurrentTransactionNestLevel();
    // Including nested ones that f has left open by failing.
    auto roll_back = [level] {
        guarded([level] {
            while (GetCurrentTransactionNestLevel() > level)
                RollbackAndReleaseCurrentSubTransaction();
        });
    };
    auto back = [context, owner] {
        MemoryContextSwitchTo(context);
        CurrentResourceOwner = owner;
    };
    guarded([context] {
        BeginInternalSubTransaction(nullptr);
        MemoryContextSwitchTo(context);
    });
    try {
        if (guarded(std::forward<F>(f)))
            guarded([] { ReleaseCurrentSubTransaction(); });
        else
            roll_back();
        back();
        return std::nullopt;
    } catch (const PgError& error) {
        roll_back();
        back();
        if (error.is_interrupt())
            throw;
        return error;
    } catch (...) {
        roll_back();
        back();
        throw;
    }
}

}  // namespace mana_ai::pg
