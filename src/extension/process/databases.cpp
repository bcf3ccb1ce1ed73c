#include "mana_ai/extension/process/databases.hpp"

#include <map>

#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/transaction.hpp"

extern "C" {
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_database.h"
#include "storage/lmgr.h"
#include "utils/varlena.h"
}

namespace mana_ai {

std::vector<std::string> split_list(std::string list) {
    std::vector<std::string> names;
    List* parsed = NIL;
    pg::guarded([&] {
        if (!SplitGUCList(list.data(), ',', &parsed))
            elog(ERROR, "invalid list syntax in a setting of mana_ai");
    });
    ListCell* cell = nullptr;
    foreach (cell, parsed)
        names.emplace_back(static_cast<const char*>(lfirst(cell)));
    return names;
}

std::vector<std::string> configured_databases() {
    return split_list(pg::settings::databases());
}

uint32_t find_database(const std::string& name) {
    pg::Transaction transaction("mana_ai: looking for databases");
    // Like PostgreSQL's own launchers: without a database only shared catalogs can be read, without
    // an index. A lock on the catalog must not block a process that others wait for.
    static std::map<std::string, Oid> last_known;
    const auto known = last_known.find(name);
    bool looked = false;
    const Oid oid = pg::guarded([&] {
        Oid found = InvalidOid;
        if (!ConditionalLockRelationOid(DatabaseRelationId, AccessShareLock))
            return found;
        looked = true;
        Relation catalog = table_open(DatabaseRelationId, NoLock);
        TableScanDesc scan = table_beginscan_catalog(catalog, 0, nullptr);
        for (HeapTuple tuple = heap_getnext(scan, ForwardScanDirection); HeapTupleIsValid(tuple);
             tuple = heap_getnext(scan, ForwardScanDirection)) {
            const auto* database = reinterpret_cast<Form_pg_database>(GETSTRUCT(tuple));
            if (database->datallowconn && name == NameStr(database->datname))
                found = database->oid;
        }
        table_endscan(scan);
        table_close(catalog, AccessShareLock);
        return found;
    });
    transaction.commit();
    if (!looked)
        return known != last_known.end() ? known->second : InvalidOid;
    last_known[name] = oid;
    return oid;
}

}  // namespace mana_ai
