// mana_ai.register_resolver() and mana_ai.unregister_resolver() (docs/contract/interface.md).

#include <string>
#include <string_view>

#include "mana_ai/extension/input/custom_resolver.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/spi.hpp"
#include "mana_ai/pg/text.hpp"
#include "mana_ai/pg/transaction.hpp"

extern "C" {
#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type_d.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
}

namespace mana_ai {

namespace {

constexpr size_t kMaxModuleBytes = 64;

struct FunctionFacts {
    bool exists;
    bool fits;  // an ordinary function (text, jsonb) returns jsonb
    bool is_temporary;
    bool caller_may;  // is the owner, or a superuser
    bool owner_sees_all;
    const char* signature;  // as to_regprocedure() takes it, whatever the search_path
    const char* owner;
};

// May ereport(ERROR).
FunctionFacts facts_of(Oid function) {
    FunctionFacts facts{};
    HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
    if (!HeapTupleIsValid(tuple))
        return facts;
    const auto* form = reinterpret_cast<Form_pg_proc>(GETSTRUCT(tuple));
    facts.exists = true;
    facts.fits = form->prokind == PROKIND_FUNCTION && form->pronargs == 2 && !form->proretset &&
                 form->prorettype == JSONBOID && form->proargtypes.values[0] == TEXTOID &&
                 form->proargtypes.values[1] == JSONBOID;
    facts.is_temporary = isTempNamespace(form->pronamespace);
    facts.caller_may = has_privs_of_role(GetUserId(), form->proowner);
    facts.owner_sees_all = has_bypassrls_privilege(form->proowner);
    facts.signature = psprintf(
        "%s(text, jsonb)",
        quote_qualified_identifier(get_namespace_name(form->pronamespace), NameStr(form->proname)));
    facts.owner = GetUserNameFromId(form->proowner, false);
    ReleaseSysCache(tuple);
    return facts;
}

Oid extension_owner() {
    static pg::Statement select_owner(
        "SELECT extowner FROM pg_catalog.pg_extension WHERE extname = 'mana_ai'");
    return static_cast<Oid>(select_owner.execute({}, true).rows.at(0).number(0));
}

void check_module(std::string_view module) {
    if (module.empty())
        throw pg::make_error(ERRCODE_INVALID_PARAMETER_VALUE, "a module's name must not be empty");
    if (module.size() > kMaxModuleBytes)
        throw pg::make_error(ERRCODE_NAME_TOO_LONG, "the module's name is too long",
                             "It may have " + std::to_string(kMaxModuleBytes) + " bytes.");
    if (is_built_in_module(module))
        throw pg::make_error(ERRCODE_RESERVED_NAME,
                             "module \"" + std::string(module) + "\" has a resolver of mana_ai's",
                             "Only modules that mana_ai does not know can be given one.");
}

void check_function(const FunctionFacts& facts, Oid function) {
    if (!facts.exists)
        throw pg::make_error(ERRCODE_UNDEFINED_FUNCTION,
                             "there is no function with OID " + std::to_string(function));
    const std::string hint =
        "Create it as: CREATE FUNCTION name(user_id text, ref jsonb) RETURNS jsonb";
    if (!facts.fits)
        throw pg::make_error(
            ERRCODE_INVALID_FUNCTION_DEFINITION, "this function cannot be a resolver",
            "A resolver is a function that takes (text, jsonb) and returns jsonb.", hint);
    if (facts.is_temporary)
        throw pg::make_error(ERRCODE_INVALID_FUNCTION_DEFINITION,
                             "a temporary function cannot be a resolver",
                             "It ends with this session.");
    if (!facts.caller_may)
        throw pg::make_error(ERRCODE_INSUFFICIENT_PRIVILEGE,
                             "must be owner of function " + std::string(facts.signature),
                             "A resolver runs with the rights of its owner.");
}

// Only a role that could have registered the present resolver may replace or remove it.
void check_present_resolver(std::string_view module) {
    if (pg::guarded([] { return superuser(); }))
        return;
    static pg::Statement select_present(R"sql(
SELECT p.oid FROM mana_ai.resolvers r
  LEFT JOIN pg_catalog.pg_proc p ON p.oid = pg_catalog.to_regprocedure(r.resolver)
 WHERE r.module = $1)sql");
    const auto rows = [&] {
        const pg::RoleScope as_extension_owner(extension_owner());
        return select_present.execute({module}).rows;
    }();
    if (rows.empty())
        return;
    const Oid present =
        rows.front().is_null(0) ? InvalidOid : static_cast<Oid>(rows.front().number(0));
    if (!OidIsValid(present) || !pg::guarded([present] { return facts_of(present).caller_may; }))
        throw pg::make_error(
            ERRCODE_INSUFFICIENT_PRIVILEGE,
            "module \"" + std::string(module) + "\" has a resolver of somebody else's",
            "Its function's owner and superusers may replace or remove it.");
}

void register_resolver(std::string_view module, Oid function) {
    check_module(module);
    const FunctionFacts facts = pg::guarded([function] { return facts_of(function); });
    check_function(facts, function);
    check_present_resolver(module);
    static pg::Statement upsert(R"sql(
INSERT INTO mana_ai.resolvers (module, resolver) VALUES ($1, $2)
    ON CONFLICT (module) DO UPDATE
   SET resolver = excluded.resolver, registered_at = excluded.registered_at, failures = 0,
       last_failure = NULL, last_failed_at = NULL)sql");
    {
        const pg::RoleScope as_extension_owner(extension_owner());
        upsert.execute({module, std::string_view(facts.signature)});
    }
    if (facts.owner_sees_all)
        pg::guarded([&facts] {
            ereport(
                NOTICE,
                (errmsg("row-level security does not apply to resolver %s", facts.signature),
                 errdetail("Its owner \"%s\" is a superuser or has BYPASSRLS, and a resolver runs "
                           "with its owner's rights.",
                           facts.owner),
                 errhint(
                     "Give the function to an ordinary role with ALTER FUNCTION ... OWNER TO.")));
        });
}

void unregister_resolver(std::string_view module) {
    check_present_resolver(module);
    static pg::Statement remove("DELETE FROM mana_ai.resolvers WHERE module = $1");
    uint64_t removed = 0;
    {
        const pg::RoleScope as_extension_owner(extension_owner());
        removed = remove.execute({module}).processed;
    }
    if (removed == 0)
        throw pg::make_error(ERRCODE_UNDEFINED_OBJECT,
                             "module \"" + std::string(module) + "\" has no registered resolver");
}

// The text of an argument; throws for null.
std::string_view required_text(FunctionCallInfo fcinfo, int argument) {
    if (PG_ARGISNULL(argument))
        throw pg::make_error(ERRCODE_NULL_VALUE_NOT_ALLOWED, "a module's name must not be null");
    return pg::guarded([=] { return pg::text_view(PG_GETARG_DATUM(argument)); });
}

}  // namespace

}  // namespace mana_ai

extern "C" {

PG_FUNCTION_INFO_V1(mana_ai_register_resolver);
PGDLLEXPORT Datum mana_ai_register_resolver(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    pg::entry_point([fcinfo] {
        const std::string_view module = required_text(fcinfo, 0);
        if (PG_ARGISNULL(1))
            throw pg::make_error(ERRCODE_NULL_VALUE_NOT_ALLOWED, "a resolver must not be null", {},
                                 "mana_ai.unregister_resolver() removes one.");
        register_resolver(module, PG_GETARG_OID(1));
    });
    PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(mana_ai_unregister_resolver);
PGDLLEXPORT Datum mana_ai_unregister_resolver(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    pg::entry_point([fcinfo] { unregister_resolver(required_text(fcinfo, 0)); });
    PG_RETURN_VOID();
}

}  // extern "C"
