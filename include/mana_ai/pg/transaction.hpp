// A top-level transaction of a background worker, and what outlives it.
#pragma once

#include <cstdint>

#include "mana_ai/pg/postgres.hpp"

namespace mana_ai::pg {

// Begins a transaction with an active snapshot; rolls back unless commit() was called. Not for use
// inside an SQL function, which has its caller's transaction.
class Transaction {
 public:
    // `activity` shows in pg_stat_activity while the transaction runs; a string literal without
    // any value in it. Throws when the process is to end (termination.hpp).
    explicit Transaction(const char* activity);
    ~Transaction();
    Transaction(const Transaction&) = delete;
    Transaction& operator=(const Transaction&) = delete;

    void commit();

    // Gives the transaction the snapshot of now, to see what others committed since its start.
    void refresh_snapshot();

 private:
    MemoryContext outer_;
    int64_t started_us_;
    bool open_ = true;
};

// Runs statements as another role (a bare role id), with the restrictions of a maintenance
// operation, until the object goes out of scope.
class RoleScope {
 public:
    explicit RoleScope(Oid role);
    ~RoleScope();
    RoleScope(const RoleScope&) = delete;
    RoleScope& operator=(const RoleScope&) = delete;

 private:
    Oid previous_role_;
    int previous_context_;
};

}  // namespace mana_ai::pg
