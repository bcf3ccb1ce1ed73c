#include "mana_ai/pg/wake.hpp"

#include "mana_ai/pg/postgres.hpp"
#include "mana_ai/pg/shared_state.hpp"

extern "C" {
#include "access/xact.h"
}

namespace mana_ai::pg {

namespace {

bool wake_pending = false;

extern "C" {
static void on_transaction_end(XactEvent event, void*) {
    switch (event) {
        case XACT_EVENT_COMMIT:
            if (wake_pending)
                wake_worker_now();
            wake_pending = false;
            break;
        case XACT_EVENT_ABORT:
        case XACT_EVENT_PREPARE:  // visible only at COMMIT PREPARED, which the next full pass sees
            wake_pending = false;
            break;
        default:
            break;
    }
}
}

}  // namespace

void register_wake_callback() {
    RegisterXactCallback(on_transaction_end, nullptr);
}

void wake_worker_at_commit() {
    wake_pending = shared_state::available();
}

void wake_worker_now() {
    shared_state::wake_worker(MyDatabaseId);
}

}  // namespace mana_ai::pg
