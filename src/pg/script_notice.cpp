#include "mana_ai/pg/script_notice.hpp"

#include <cstring>

#include "mana_ai/pg/postgres.hpp"

extern "C" {
#include "commands/extension.h"
#include "utils/guc.h"
#include "utils/guc_tables.h"
}

namespace mana_ai::pg {

namespace {

// What client_min_messages was before the script.
int level_outside_script() {
    constexpr char kName[] = "client_min_messages";
    const config_generic* setting = nullptr;
#if PG_VERSION_NUM >= 160000
    setting = find_option(kName, false, true, DEBUG5);
#else
    config_generic** settings = get_guc_variables();
    for (int i = 0; i < GetNumConfigOptions(); i++)
        if (std::strcmp(settings[i]->name, kName) == 0)
            setting = settings[i];
#endif
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
