-- More data for make demo-up: agents with budgets, missions in all kinds of states, one of them encrypted.
SELECT set_config('app.current_user_id', 'user-anna', false) \g /dev/null

INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)
SELECT 'ai', 'agents', id, 'user-anna', 'insert',
       jsonb_build_object('name', name, 'role', role, 'state', state, 'maxTokensPerDay', budget,
                          'maxConcurrentMissions', 2,
                          'policy', '{"tools": {}, "defaultForAi": "propose"}'::jsonb), 'browser-anna'
  FROM (VALUES
    ('agent-gustav', 'Gustav', 'Recherche', 'active', 4000),
    ('agent-lin', 'Lin', 'Haushalt', 'active', 1500),
    ('agent-mona', 'Mona', 'Reisen', 'paused', 20000),
    ('agent-geheim', 'enc:1:AAAAAAAAAAAAAAAA.AAAAAAAAAAAAAAAAAAAAAA==', 'Privates', 'active', NULL)
  ) AS a(id, name, role, state, budget);

INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)
SELECT 'ai', 'aiMissions', id, 'user-anna', 'insert',
       jsonb_build_object('title', title, 'objective', objective, 'conceptMarkdown', '', 'state', 'active',
                          'agentId', agent, 'cadence', cadence::jsonb, 'inputs', '[]'::jsonb,
                          'iterations', '[]'::jsonb,
                          'nextRunAt', to_char((now() + due::interval) AT TIME ZONE 'UTC',
                                               'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')), 'browser-anna'
  FROM (VALUES
    ('mission-heizung', 'Wartung der Heizung planen', 'Einen Termin vor dem Winter finden', 'agent-lin',
     '{"kind": "interval", "everyMinutes": 10080}', '-1 minute'),
    ('mission-vertraege', 'Laufende Verträge prüfen', 'Kündigungsfristen der nächsten drei Monate sammeln',
     'agent-gustav', '{"kind": "interval", "everyMinutes": 1440}', '-1 minute'),
    ('mission-garten', 'Garten im Blick behalten', 'Was diese Woche zu tun ist', 'agent-lin',
     '{"kind": "interval", "everyMinutes": 1440}', '40 seconds'),
    ('mission-lesekreis', 'Lesekreis vorbereiten: <b>Der Zauberberg</b>, Kapitel fünf & sechs, mit Fragen an die Runde',
     'Fragen sammeln', 'agent-gustav', '{"kind": "interval", "everyMinutes": 10080}', '3 hours'),
    ('mission-reise', 'Reise nach Lissabon', 'Zugverbindung suchen', 'agent-mona',
     '{"kind": "interval", "everyMinutes": 1440}', '-1 minute'),
    ('mission-privat', 'enc:1:AAAAAAAAAAAAAAAA.AAAAAAAAAAAAAAAAAAAAAA==', 'Privates', 'agent-geheim',
     '{"kind": "interval", "everyMinutes": 1440}', '-1 minute')
  ) AS m(id, title, objective, agent, cadence, due);
