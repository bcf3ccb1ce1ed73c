-- Registering resolvers (interface.md, Functions; inputs.md). What they do in a run is tested by TAP.
\set ECHO none
\set here `echo "$PG_ABS_SRCDIR"`
\set setup :here '/data/regress_setup.sql'
\i :setup
\set ECHO all

CREATE ROLE regress_mana_author;
CREATE ROLE regress_mana_other;
CREATE ROLE regress_mana_super SUPERUSER;
GRANT USAGE ON SCHEMA mana_ai, test TO regress_mana_author, regress_mana_other;
GRANT EXECUTE ON FUNCTION mana_ai.register_resolver(text, regprocedure), mana_ai.unregister_resolver(text) TO regress_mana_author;
CREATE SCHEMA recipes AUTHORIZATION regress_mana_author;
GRANT USAGE ON SCHEMA recipes TO regress_mana_other;
SET ROLE regress_mana_author;
CREATE FUNCTION recipes.read(user_id text, ref jsonb) RETURNS jsonb LANGUAGE sql STABLE AS $$ SELECT jsonb_build_object('title', 'Recipe', 'content', ref ->> 'id') $$;
CREATE FUNCTION recipes."Read ""2"""(text, jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE FUNCTION recipes.one_argument(text) RETURNS jsonb LANGUAGE sql AS $$ SELECT NULL::jsonb $$;
CREATE FUNCTION recipes.wrong_arguments(jsonb, text) RETURNS jsonb LANGUAGE sql AS $$ SELECT NULL::jsonb $$;
CREATE FUNCTION recipes.wrong_result(text, jsonb) RETURNS text LANGUAGE sql AS $$ SELECT ''::text $$;
CREATE FUNCTION recipes.set_result(text, jsonb) RETURNS SETOF jsonb LANGUAGE sql AS $$ SELECT NULL::jsonb $$;
CREATE PROCEDURE recipes.a_procedure(text, INOUT jsonb) LANGUAGE sql AS $$ SELECT NULL::jsonb $$;
CREATE FUNCTION recipes.step(jsonb, text, jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT $3 $$;
CREATE AGGREGATE recipes.an_aggregate(text, jsonb) (SFUNC = recipes.step, STYPE = jsonb);
RESET ROLE;
CREATE FUNCTION public.of_superuser(text, jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT NULL::jsonb $$;
ALTER FUNCTION public.of_superuser(text, jsonb) OWNER TO regress_mana_super;
CREATE FUNCTION pg_temp.short_lived(text, jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT NULL::jsonb $$;

-- Nobody may, unless granted.
SET ROLE regress_mana_other;
SELECT mana_ai.register_resolver('recipes', 'recipes.read(text, jsonb)');
SELECT mana_ai.unregister_resolver('recipes');
SELECT * FROM mana_ai.resolvers;
RESET ROLE;

-- What is registered is the function's signature, whatever the search_path; registering again replaces.
SET ROLE regress_mana_author;
SET search_path = recipes;
SELECT mana_ai.register_resolver('recipes', 'read(text, jsonb)');
SELECT mana_ai.register_resolver('odd module', '"Read ""2"""(text, jsonb)');
RESET search_path;
RESET ROLE;
SELECT module, resolver, registered_at <= now() AS registered, failures, last_failure, last_failed_at FROM mana_ai.resolvers ORDER BY module;
SELECT module, resolver::regprocedure FROM mana_ai.resolvers ORDER BY module;
UPDATE mana_ai.resolvers SET failures = 3, last_failure = 'timeout', last_failed_at = now(), registered_at = '2020-01-01' WHERE module = 'recipes';
SET ROLE regress_mana_author;
SELECT mana_ai.register_resolver('recipes', 'recipes."Read ""2"""(text, jsonb)');
RESET ROLE;
SELECT module, resolver, registered_at > '2020-01-01' AS anew, failures, last_failure, last_failed_at FROM mana_ai.resolvers WHERE module = 'recipes';

-- Policies do not hold back a superuser's function.
SELECT mana_ai.register_resolver('weather', 'public.of_superuser(text, jsonb)');
ALTER ROLE regress_mana_author BYPASSRLS;
SELECT mana_ai.register_resolver('recipes', 'recipes.read(text, jsonb)');
ALTER ROLE regress_mana_author NOBYPASSRLS;

-- Refused, with reasons.
SELECT test.error_of($$SELECT mana_ai.register_resolver('', 'recipes.read(text, jsonb)')$$);
SELECT test.error_of($$SELECT mana_ai.register_resolver(NULL, 'recipes.read(text, jsonb)')$$);
SELECT test.error_of($$SELECT mana_ai.register_resolver('recipes', NULL)$$);
SELECT test.error_of(format('SELECT mana_ai.register_resolver(%L, ''recipes.read(text, jsonb)'')', repeat('m', 65)));
SELECT mana_ai.register_resolver(repeat('m', 64), 'recipes.read(text, jsonb)');
SELECT mana_ai.unregister_resolver(repeat('m', 64));
SELECT module, test.error_of(format('SELECT mana_ai.register_resolver(%L, ''recipes.read(text, jsonb)'')', module))
  FROM unnest('{goals,notes,tasks,todo,calendar,journal,kontext,profile,news-research}'::text[]) AS module;
SELECT function, test.error_of(format('SELECT mana_ai.register_resolver(''m'', %L::regprocedure)', function))
  FROM unnest(ARRAY['recipes.one_argument(text)', 'recipes.wrong_arguments(jsonb, text)', 'recipes.wrong_result(text, jsonb)',
                    'recipes.set_result(text, jsonb)', 'recipes.an_aggregate(text, jsonb)', 'pg_temp.short_lived(text, jsonb)']) AS function;
SELECT test.error_of($$SELECT mana_ai.register_resolver('m', 'recipes.a_procedure(text, jsonb)')$$);
SELECT test.error_of($$SELECT mana_ai.register_resolver('m', 'recipes.absent(text, jsonb)')$$);
SELECT test.error_of($$SELECT mana_ai.register_resolver('m', 1::oid::regprocedure)$$);
SELECT count(*) FROM mana_ai.resolvers WHERE module = 'm';

-- A role with the privilege registers its own functions, and cannot change others'.
SET ROLE regress_mana_author;
SELECT test.error_of($$SELECT mana_ai.register_resolver('stocks', 'public.of_superuser(text, jsonb)')$$);
SELECT test.error_of($$SELECT mana_ai.register_resolver('weather', 'recipes.read(text, jsonb)')$$);
SELECT test.error_of($$SELECT mana_ai.unregister_resolver('weather')$$);
SELECT mana_ai.unregister_resolver('recipes');
SELECT test.error_of($$SELECT mana_ai.unregister_resolver('recipes')$$);
SELECT test.error_of($$SELECT mana_ai.unregister_resolver(NULL)$$);
RESET ROLE;
SELECT module FROM mana_ai.resolvers ORDER BY module;

-- A registration does not keep its function from being dropped, and remains until it is removed.
DROP FUNCTION recipes."Read ""2"""(text, jsonb);
SET ROLE regress_mana_author;
SELECT test.error_of($$SELECT mana_ai.unregister_resolver('odd module')$$);
RESET ROLE;
SELECT mana_ai.unregister_resolver('odd module');
SELECT mana_ai.unregister_resolver('weather');
SELECT count(*) FROM mana_ai.resolvers;

-- Dumped, and nothing that pg_upgrade refuses.
SELECT c.oid::regclass FROM pg_extension e, unnest(extconfig) c(oid)
 WHERE extname = 'mana_ai' AND c.oid = 'mana_ai.resolvers'::regclass;
SELECT attrelid::regclass, attname FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid
 WHERE relnamespace = 'mana_ai'::regnamespace AND relkind = 'r' AND atttypid::regtype::text LIKE 'reg%';

DROP OWNED BY regress_mana_author, regress_mana_other CASCADE;
DROP FUNCTION public.of_superuser(text, jsonb);
DROP ROLE regress_mana_author, regress_mana_other, regress_mana_super;
DROP EXTENSION mana_ai;
