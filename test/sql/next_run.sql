-- next_run() (data.md, Cadence). All vectors are in the unit tests; here what SQL adds to them.
\set ECHO none
\set here `echo "$PG_ABS_SRCDIR"`
\set setup :here '/data/regress_setup.sql'
\i :setup
\set ECHO all
SET timezone = 'UTC';

SELECT cadence, mana_ai.next_run(cadence, '2026-03-28 22:30:00Z', 'Europe/Berlin') AS berlin, mana_ai.next_run(cadence, '2026-03-28 22:30:00Z', 'UTC') AS utc
FROM (VALUES
  (1, '{"kind": "manual"}'::jsonb),
  (2, '{"kind": "interval", "everyMinutes": 90}'),
  (3, '{"kind": "interval", "everyMinutes": 0}'),
  (4, '{"kind": "interval", "everyMinutes": -5}'),
  (5, '{"kind": "interval", "everyMinutes": "5"}'),
  (6, '{"kind": "interval"}'),
  (7, '{"kind": "daily", "atHour": 8, "atMinute": 15}'),
  (8, '{"kind": "daily", "atHour": 2, "atMinute": 30}'),
  (9, '{"kind": "daily", "atHour": 24, "atMinute": 0}'),
  (10, '{"kind": "weekly", "dayOfWeek": 0, "atHour": 6}'),
  (11, '{"kind": "weekly", "dayOfWeek": 6, "atHour": 23}'),
  (12, '{"kind": "weekly", "dayOfWeek": 7, "atHour": 6}'),
  (13, '{"kind": "cron", "expression": "*/15 * * * *"}'),
  (14, '{"kind": "cron", "expression": "0 9 * * 1-5"}'),
  (15, '{"kind": "cron", "expression": "0 0 30 2 *"}'),
  (16, '{"kind": "cron", "expression": "61 * * * *"}'),
  (17, '{"kind": "cron", "expression": ""}'),
  (18, '{"kind": "hourly"}'),
  (19, '"daily"'), (20, '[]'), (21, 'null'), (22, '{}')
) AS cases (number, cadence) ORDER BY number;

SELECT mana_ai.next_run('{"kind": "daily", "atHour": 8, "atMinute": 0}', NULL, 'UTC') AS null_time,
       mana_ai.next_run(NULL, now(), 'UTC') AS null_cadence;
SELECT mana_ai.next_run('{"kind": "daily", "atHour": 8, "atMinute": 0}', now(), 'Mars/Olympus');
SELECT mana_ai.next_run('{"kind": "interval", "everyMinutes": 1}', 'infinity', 'UTC');
SELECT mana_ai.next_run('{"kind": "interval", "everyMinutes": 1}', '-infinity', 'UTC');
-- The limits of timestamps.
SELECT mana_ai.next_run('{"kind": "interval", "everyMinutes": 1e300}', '2026-01-01Z', 'UTC') AS far_away;
SELECT test.error_of($$SELECT mana_ai.next_run('{"kind": "interval", "everyMinutes": 60}', '294276-12-31 23:59:59Z', 'UTC')$$) <> '' AS end_of_time;
SELECT test.error_of($$SELECT mana_ai.next_run('{"kind": "daily", "atHour": 1, "atMinute": 0}', '4713-01-01 00:00:00Z BC', 'UTC')$$) AS beginning_of_time;

-- The session's time zone does not matter, the argument does; also when written as an offset.
SET timezone = 'Asia/Tokyo';
SELECT mana_ai.next_run('{"kind": "daily", "atHour": 8, "atMinute": 0}', '2026-06-01 00:00:00Z', 'UTC') AT TIME ZONE 'UTC' AS utc,
       mana_ai.next_run('{"kind": "daily", "atHour": 8, "atMinute": 0}', '2026-06-01 00:00:00Z', '<+02>-02') AT TIME ZONE 'UTC' AS offset_zone;
RESET timezone;
