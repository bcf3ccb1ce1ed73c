// A top-level transaction of a background worker, and the settings that must survive it.
#pragma once

#include <cstdint>

#include "mana_ai/pg/postgres.hpp"

namespace mana_ai::pg {

// Begins a transaction with an active MVCC snapshot; rolls back unless commit() was called. Not for
// use inside an SQL function, which has its caller's transaction.
//
// In a process that called require_settings() it begins with the settings of that moment or not at
// all, and at its end releases the session advisory locks that foreign code has taken.
class Transaction {
 public:
    // `activity` shows in pg_stat_activity while the transaction runs; a string literal without
    // any value in it. Throws when the process is to end (termination.hpp).
    explicit Transaction(const char* activity);
    ~Transaction();
    Transaction(const Transaction&) = delete;
    Transaction& operator=(const Transaction&) = delete;

    void commit();

    // Takes a new MVCC snapshot, to see what others committed since the transaction's start.
    void refresh_snapshot();

 private:
    MemoryContext outer_;
    int64_t started_us_;
    bool open_ = true;
};

// Records the role and the settings that decide whose code our statements run, and whether they can
// write. From now on each Transaction of this process begins with a check of them. If one has
// changed, the process ends: code that could change it could run anything with our privileges.
void require_settings();

// Runs code of another role (a bare role id) until the object goes out of scope. All code with
// another role's privileges runs in here: with the restrictions of a maintenance operation, with a
// safe search_path, and with a nested level of settings, so that everything that the code sets, for
// the transaction or for the session, ends with the scope.
class RoleScope {
 public:
    explicit RoleScope(Oid role);
    ~RoleScope();
    RoleScope(const RoleScope&) = delete;
    RoleScope& operator=(const RoleScope&) = delete;

 private:
    Oid previous_role_;
    int previous_context_;
    int settings_;
    int transaction_level_;
};

// Sets a setting for what runs in the innermost RoleScope. May ereport(ERROR): call it inside
// guarded().
void set_for_scope(const char* name, const char* value);

// The session's planner settings suit lookups by key and not foreign queries: the innermost
// RoleScope gets PostgreSQL's. May ereport(ERROR).
void plan_as_usual_in_scope();

}  // namespace mana_ai::pg
