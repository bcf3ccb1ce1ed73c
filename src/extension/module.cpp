// Loading of the library.

#include "mana_ai/extension/process/processes.hpp"
#include "mana_ai/net/base_url.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/relation_changes.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/shared_state.hpp"
#include "mana_ai/pg/wake.hpp"

extern "C" {
#include "catalog/objectaccess.h"
#include "catalog/pg_extension.h"
}

namespace mana_ai {

namespace {

object_access_hook_type previous_object_access_hook = nullptr;

extern "C" {
// The worker exits when its extension is dropped and stops when it is updated; this wakes it up
// before its next full pass.
static void on_object_access(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id,
                             void* argument) {
    if (previous_object_access_hook != nullptr)
        previous_object_access_hook(access, class_id, object_id, sub_id, argument);
    if (class_id == ExtensionRelationId)
        pg::wake_worker_at_commit();
}
}

}  // namespace

}  // namespace mana_ai

extern "C" {

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

void _PG_init(void) {
    using namespace mana_ai;
    pg::entry_point([] {
        const bool preloading = process_shared_preload_libraries_in_progress;
        pg::guarded([preloading] {
            pg::settings::define(preloading, net::check_base_url);
            pg::register_relation_callback();
            if (!preloading)
                return;
            pg::shared_state::install_hooks();
            pg::register_wake_callback();
            register_launcher();
            register_http_endpoint();
            previous_object_access_hook = object_access_hook;
            object_access_hook = on_object_access;
        });
    });
}

}  // extern "C"
