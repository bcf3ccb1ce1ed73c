-- :missions missions that become due at :due, each with :inputs encrypted records that no other mission uses, and a grant
-- for them. :kind: notes, or profiles of 20 fields (their seven that are rendered hold 20 encrypted values). Each
-- record is an insert and three updates. :sealed is a list of ciphertexts of one key, :grant a grant that wraps this
-- key: the server cannot tell that the missions have it in common, and unwraps it for each of them.
SET client_min_messages = warning;
CREATE TABLE IF NOT EXISTS bench_record (kind text, n int, change int, data jsonb, stamps jsonb);
CREATE TABLE IF NOT EXISTS bench_sealed (n int PRIMARY KEY, value jsonb);
TRUNCATE bench_record, bench_sealed;
INSERT INTO bench_sealed SELECT s.n - 1, s.value FROM jsonb_array_elements(:'sealed'::jsonb) WITH ORDINALITY AS s(value, n);

-- Ten different records; change 0 is the insert with all fields.
INSERT INTO bench_record
SELECT 'notes', record, change,
       jsonb_object_agg(field.name, sealed.value),
       jsonb_object_agg(field.name, '2026-10-01T08:0' || change || ':00.000Z')
  FROM generate_series(0, 9) record, generate_series(0, 3) change,
       unnest(ARRAY['title', 'content']) WITH ORDINALITY AS field(name, i)
  JOIN bench_sealed sealed ON true
 WHERE sealed.n = (7 * record + 3 * change + field.i) % 40 AND (change = 0 OR field.name = 'content')
 GROUP BY record, change;
INSERT INTO bench_record
SELECT 'profile', record, change,
       jsonb_object_agg(field.name, CASE WHEN field.name <> 'interests' THEN sealed.value
         ELSE (SELECT jsonb_agg(value) FROM bench_sealed WHERE bench_sealed.n < 14) END),
       jsonb_object_agg(field.name, '2026-10-01T08:0' || change || ':00.000Z')
  FROM generate_series(0, 9) record, generate_series(0, 3) change,
       unnest(ARRAY['about', 'interests', 'routine', 'nutrition', 'goals', 'social', 'freeform']
              || ARRAY(SELECT 'other' || i FROM generate_series(1, 13) i)) WITH ORDINALITY AS field(name, i)
  JOIN bench_sealed sealed ON true
 WHERE sealed.n = (7 * record + 3 * change + field.i) % 40 AND (change = 0 OR field.i % 4 = change)
 GROUP BY record, change;

INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id)
SELECT :'kind', CASE :'kind' WHEN 'notes' THEN 'notes' ELSE 'userContext' END, :'wave' || '-' || i || '-' || k, 'u' || i % 50,
       CASE r.change WHEN 0 THEN 'insert' ELSE 'update' END, r.data, r.stamps, 'browser-1'
  FROM generate_series(1, :missions) i, generate_series(1, :inputs) k
  JOIN bench_record r ON r.kind = :'kind' AND r.n = k % 10
 ORDER BY r.change, i, k;

INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)
SELECT 'ai', 'aiMissions', 'due-' || :'wave' || '-' || i, 'u' || i % 50, 'insert',
       jsonb_build_object('title', 'Mission ' || i, 'state', 'active', 'objective', 'Räume auf und plane die Woche.',
         'conceptMarkdown', repeat('Notiz ', 100), 'cadence', '{"kind": "manual"}'::jsonb, 'iterations', '[]'::jsonb,
         'inputs', coalesce(list.inputs, '[]'), 'nextRunAt', :'due')
       || CASE WHEN list.inputs IS NULL THEN '{}'
            ELSE jsonb_build_object('grant', :'grant'::jsonb || jsonb_build_object('derivation',
              (:'grant'::jsonb -> 'derivation')
              || jsonb_build_object('missionId', 'due-' || :'wave' || '-' || i, 'recordIds', list.ids))) END, 'browser-1'
  FROM generate_series(1, :missions) AS i,
       LATERAL (SELECT jsonb_agg(jsonb_build_object('module', :'kind', 'table', t.name, 'id', t.id)) AS inputs,
                       jsonb_agg(t.name || ':' || t.id) AS ids
                  FROM (SELECT CASE :'kind' WHEN 'notes' THEN 'notes' ELSE 'userContext' END AS name,
                               :'wave' || '-' || i || '-' || k AS id FROM generate_series(1, :inputs) k) t) list;
