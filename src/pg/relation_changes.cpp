#include "mana_ai/pg/relation_changes.hpp"

extern "C" {
#include "utils/inval.h"
}

namespace mana_ai::pg {

namespace {

constexpr int kMaxCaches = 8;
ForgetRelation caches[kMaxCaches];
int cache_count = 0;
uint64_t changes = 1;

extern "C" {
static void on_relcache_invalidation(Datum, Oid relation) {
    changes++;
    for (int i = 0; i < cache_count; i++)
        caches[i](relation);
}
}

}  // namespace

void register_relation_callback() {
    CacheRegisterRelcacheCallback(on_relcache_invalidation, Datum{0});
}

void on_relation_change(ForgetRelation forget) {
    for (int i = 0; i < cache_count; i++)
        if (caches[i] == forget)
            return;
    if (cache_count == kMaxCaches)
        elog(ERROR, "mana_ai has more than %d caches of facts about tables", kMaxCaches);
    caches[cache_count++] = forget;
}

uint64_t relation_changes() {
    return changes;
}

}  // namespace mana_ai::pg
