#include "mana_ai/extension/process/worker_session.hpp"

#include "mana_ai/pg/compat.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/spi.hpp"
#include "mana_ai/pg/termination.hpp"
#include "mana_ai/pg/transaction.hpp"

extern "C" {
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_db_role_setting.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/dsm.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
}

namespace mana_ai {

namespace {

void set_for_session(const char* name, const char* value) {
    SetConfigOption(name, value, PGC_SUSET, PGC_S_OVERRIDE);
}

}  // namespace

dsm_segment* attach_segment_of_caller(uint32_t handle) {
    return pg::guarded([handle] {
        CurrentResourceOwner = ResourceOwnerCreate(nullptr, "mana_ai segment");
        dsm_segment* segment = dsm_attach(handle);
        if (segment == nullptr)
            ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                            errmsg("the caller of a background process is gone")));
        dsm_pin_mapping(segment);
        ResourceOwnerRelease(CurrentResourceOwner, RESOURCE_RELEASE_BEFORE_LOCKS, true, true);
        CurrentResourceOwner = nullptr;
        return segment;
    });
}

void connect_worker(uint32_t database_oid, const char* application_name,
                    pg::crash_watch::Code code) {
    pg::crash_watch::begin_process(code, database_oid);
    pg::crash_watch::note_activity("mana_ai: starting");
    pg::guarded([=] {
        pqsignal(SIGHUP, SignalHandlerForConfigReload);
        pg::install_termination_handler();
        BackgroundWorkerUnblockSignals();
        BackgroundWorkerInitializeConnectionByOid(database_oid, InvalidOid, 0);

        set_for_session("application_name", application_name);
        set_for_session("search_path", "pg_catalog, pg_temp");
        set_for_session("default_transaction_isolation", "read committed");
        set_for_session("default_transaction_read_only", "off");
        set_for_session("default_transaction_deferrable", "off");
        set_for_session("statement_timeout", "0");
        set_for_session("idle_in_transaction_session_timeout", "0");
        // A row that a user's open transaction has locked is tried again later.
        set_for_session("lock_timeout", "200ms");
        set_for_session("row_security", "on");
        set_for_session("session_replication_role", "origin");
        if (pg::compat::kHasTransactionTimeout)
            set_for_session("transaction_timeout", "0");
        set_for_session("client_min_messages", "error");
        // Every statement is a lookup by key. On tables that grew since they were last analyzed the
        // planner would prefer to read them whole.
        set_for_session("enable_seqscan", "off");
        set_for_session("enable_hashjoin", "off");
        set_for_session("enable_mergejoin", "off");
        // For a few rows a bitmap costs more than it saves.
        set_for_session("enable_bitmapscan", "off");
        set_for_session("plan_cache_mode", "force_generic_plan");
        set_for_session("jit", "off");
        pgstat_report_activity(STATE_IDLE, nullptr);
    });
}

void plan_for_reports() {
    pg::guarded([] {
        set_for_session("enable_seqscan", "on");
        set_for_session("enable_hashjoin", "on");
        set_for_session("enable_mergejoin", "on");
        set_for_session("enable_bitmapscan", "on");
        set_for_session("plan_cache_mode", "auto");
    });
}

bool act_as_extension_owner() {
    pg::Transaction transaction("mana_ai: looking for the extension");
    static pg::Statement select_owner(
        "SELECT extowner FROM pg_catalog.pg_extension WHERE extname = 'mana_ai'");
    const auto rows = select_owner.execute({}, true).rows;
    const Oid owner = rows.empty() ? InvalidOid : static_cast<Oid>(rows.front().number(0));
    transaction.commit();
    if (!OidIsValid(owner))
        return false;
    SetUserIdAndSecContext(owner, 0);
    pg::require_settings();
    return true;
}

void look_for_retired_settings() {
    pg::Transaction transaction("mana_ai: looking for settings that are no longer used");
    static pg::Statement find(R"sql(
SELECT EXISTS (SELECT FROM pg_catalog.pg_file_settings WHERE pg_catalog.lower(name) = $1)
    OR EXISTS (SELECT FROM pg_catalog.pg_db_role_setting, pg_catalog.unnest(setconfig) AS s
                WHERE pg_catalog.lower(pg_catalog.split_part(s, '=', 1)) = $1))sql");
    const bool found = find.execute({std::string_view(pg::settings::kRetiredServiceKey)}, true)
                           .rows.front()
                           .number(0) != 0;
    transaction.commit();
    if (found)
        pg::guarded([] { pg::settings::warn_of_retired_service_key(); });
}

bool reload_requested() {
    return ConfigReloadPending;
}

void reload_settings() {
    ConfigReloadPending = false;
    pg::guarded([] { ProcessConfigFile(PGC_SIGHUP); });
    pg::Transaction transaction("mana_ai: reloading settings");
    pg::guarded([] {
        Relation settings = table_open(DbRoleSettingRelationId, AccessShareLock);
        ApplySetting(GetActiveSnapshot(), MyDatabaseId, InvalidOid, settings, PGC_S_DATABASE);
        table_close(settings, AccessShareLock);
    });
    transaction.commit();
}

}  // namespace mana_ai
