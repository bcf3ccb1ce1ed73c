#include "mana_ai/pg/script_notice.hpp"

#include "mana_ai/pg/compat.hpp"

extern "C" {
#include "commands/extension.h"
}

namespace mana_ai::pg {

namespace {

// What client_min_messages was before the script.
int level_outside_script() {
    const config_generic* setting = compat::find_setting("client_min_messages");
    if (setting == nullptr || setting->stack == nullptr || setting->stack->state != GUC_SAVE)
        return client_min_messages;
    return setting->stack->prior.val.enumval;
}

}  // namespace

void notice_in_script(const char* message) {
    const int inside = client_min_messages;
    if (creating_extension)
        client_min_messages = level_outside_script();
    ereport(NOTICE, (errmsg("%s", message)));
    client_min_messages = inside;
}

}  // namespace mana_ai::pg
