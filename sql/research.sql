-- Long research (docs/contract/inputs.md, Deep research across ticks): which tasks of mana-research belong to which
-- missions. Neither questions nor answers are stored here: the answer stays with mana-research, and each run that uses it
-- fetches it again.
--
--   intent   about to be ordered; without a task id it is unknown whether it was
--   waiting  ordered and paid for; polled at next_poll_at, given up if it waits for too long
--   ready    the answer is there; "offered" counts the runs that were to use it
--
-- The defaults are those of a task that an operator inserts for a mission (docs/operations.md).
CREATE TABLE mana_ai.mission_research_jobs (
  user_id        text COLLATE "C" NOT NULL,
  mission_id     text COLLATE "C" NOT NULL,
  state          text        NOT NULL DEFAULT 'waiting' CHECK (state IN ('intent', 'waiting', 'ready')),
  task_id        text,
  provider_id    text,
  cost_credits   double precision,
  run_id         uuid,
  requested_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
  submitted_at   timestamptz DEFAULT clock_timestamp(),
  waiting_since  timestamptz DEFAULT clock_timestamp(),
  last_polled_at timestamptz,
  next_poll_at   timestamptz DEFAULT clock_timestamp(),
  polls          int         NOT NULL DEFAULT 0,
  offered        int         NOT NULL DEFAULT 0,
  completed_at   timestamptz,
  -- How often the model service failed a run that was to use the answer, and nobody else.
  given_back     int         NOT NULL DEFAULT 0,
  PRIMARY KEY (user_id, mission_id),
  CHECK ((state = 'intent') = (task_id IS NULL)),
  CHECK ((state = 'waiting') = (next_poll_at IS NOT NULL)),
  CHECK (state <> 'waiting' OR waiting_since IS NOT NULL)
) WITH (fillfactor = 70);
CREATE INDEX mission_research_jobs_next_poll_at ON mana_ai.mission_research_jobs (next_poll_at)
 WHERE state = 'waiting';
CREATE INDEX mission_research_jobs_at_rest ON mana_ai.mission_research_jobs (requested_at)
 WHERE state <> 'waiting';

-- It was paid for.
SELECT pg_catalog.pg_extension_config_dump('mana_ai.mission_research_jobs', '');
