-- The last step of CREATE EXTENSION: attaches public.sync_changes if it is there, and says so if not.
CREATE FUNCTION mana_ai.attach_at_create()
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'mana_ai_attach_at_create';
SELECT mana_ai.attach_at_create();
DROP FUNCTION mana_ai.attach_at_create();
