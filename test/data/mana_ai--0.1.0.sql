\echo Use "CREATE EXTENSION mana_ai" to load this file. \quit

-- schema.sql

-- The schema and its tables (docs/contract/interface.md, Tables).
-- CREATE SCHEMA fails when somebody else has made it before: nothing of ours then lives in a schema
-- that a stranger owns.
CREATE SCHEMA mana_ai;

-- Ids are compared bytewise (COLLATE "C"): nobody sorts them for reading, and the trigger looks up
-- several of them with every insert. Tables that the trigger writes are heaps (USING heap), whatever
-- the database's default is.

-- The replay of every live mission. "clocks" holds the instant of each field's last write in the
-- form that include/mana_ai/core/record/clock_table.hpp describes. toast_tuple_target keeps ordinary records
-- inline and uncompressed: they are rewritten with every change of the mission.
CREATE TABLE mana_ai.mission_snapshots (
  user_id         text COLLATE "C" NOT NULL,
  mission_id      text COLLATE "C" NOT NULL,
  space_id        text,
  record          jsonb       NOT NULL,
  clocks          bytea       NOT NULL,
  version         bigint      NOT NULL,
  last_applied_at timestamptz NOT NULL,
  updated_at      timestamptz NOT NULL,
  PRIMARY KEY (user_id, mission_id)
) USING heap WITH (toast_tuple_target = 8160, fillfactor = 70);

CREATE TABLE mana_ai.agent_snapshots (
  user_id         text COLLATE "C" NOT NULL,
  agent_id        text COLLATE "C" NOT NULL,
  space_id        text,
  record          jsonb       NOT NULL,
  clocks          bytea       NOT NULL,
  version         bigint      NOT NULL,
  last_applied_at timestamptz NOT NULL,
  updated_at      timestamptz NOT NULL,
  PRIMARY KEY (user_id, agent_id)
) USING heap WITH (toast_tuple_target = 8160, fillfactor = 70);
CREATE INDEX agent_snapshots_updated_at ON mana_ai.agent_snapshots (updated_at);

-- Deleted records. A row here is what concurrent changes to a deleted record serialize on.
CREATE TABLE mana_ai.record_tombstones (
  user_id    text COLLATE "C" NOT NULL,
  table_name text COLLATE "C" NOT NULL,
  record_id  text COLLATE "C" NOT NULL,
  deleted_at timestamptz NOT NULL,
  PRIMARY KEY (user_id, table_name, record_id)
) USING heap;

-- When to look at a mission again: wake_at is the later of due_at and not_before, or the expiry of
-- the lease while a run holds one; null = never. The only index that a tick scans is the one on it.
-- research_spent: long research was ordered and came to nothing; no more is ordered until there is a
-- new iteration.
CREATE TABLE mana_ai.mission_schedule (
  user_id         text COLLATE "C" NOT NULL,
  mission_id      text COLLATE "C" NOT NULL,
  wake_at         timestamptz,
  due_at          timestamptz,
  not_before      timestamptz,
  agent_id        text COLLATE "C",
  lease_owner     bigint,
  run_id          uuid,
  attempts        int         NOT NULL DEFAULT 0,
  decision        text,
  decided_at      timestamptz,
  error_kind      text,
  agent_version   bigint,
  plan_basis_digest text,
  research_spent  boolean     NOT NULL DEFAULT false,
  PRIMARY KEY (user_id, mission_id)
) USING heap WITH (fillfactor = 70);
CREATE INDEX mission_schedule_wake_at ON mana_ai.mission_schedule (wake_at);
CREATE INDEX mission_schedule_agent ON mana_ai.mission_schedule (user_id, agent_id);

-- Records whose snapshot could not be kept by the trigger and waits for repair from the log.
-- Append-only, so that marking a record never waits for anybody.
CREATE TABLE mana_ai.dirty_records (
  id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  user_id    text COLLATE "C" NOT NULL,
  table_name text COLLATE "C" NOT NULL,
  record_id  text COLLATE "C" NOT NULL,
  reason     text        NOT NULL,
  ts         timestamptz NOT NULL DEFAULT clock_timestamp()
) USING heap;

-- One row per attempt at a mission; outcome 'running' is committed before the first model call.
CREATE TABLE mana_ai.runs (
  run_id            uuid        NOT NULL,
  user_id           text COLLATE "C" NOT NULL,
  mission_id        text COLLATE "C" NOT NULL,
  agent_id          text COLLATE "C",
  started_at        timestamptz NOT NULL,
  finished_at       timestamptz,
  outcome           text        NOT NULL CHECK (outcome IN ('running', 'planned', 'discarded',
                                  'failed', 'skipped', 'canceled', 'crashed')),
  decision          text        NOT NULL,
  rounds            int         NOT NULL DEFAULT 0,
  steps             int         NOT NULL DEFAULT 0,
  prompt_tokens     bigint      NOT NULL DEFAULT 0,
  completion_tokens bigint      NOT NULL DEFAULT 0,
  total_tokens      bigint      NOT NULL DEFAULT 0,
  model             text,
  iteration_id      text,
  error_kind        text,
  error_message     text,
  lease_owner       bigint,
  -- What the run was based on: [{module, table, id, clock, used, reason}], never any content.
  inputs            jsonb,
  PRIMARY KEY (user_id, run_id)
) WITH (fillfactor = 60);
-- On a young table all indexes that can be used look equally good to the planner, and it stays with its
-- choice while the table grows. So of those without a predicate only the primary key begins with user_id.
-- The free space keeps the two to five updates of a run off the indexes.
CREATE INDEX runs_of_mission ON mana_ai.runs (mission_id, user_id, started_at);
CREATE INDEX runs_started_at ON mana_ai.runs (started_at);
CREATE INDEX runs_running ON mana_ai.runs (user_id, agent_id) WHERE outcome = 'running';
CREATE INDEX runs_lease_owner ON mana_ai.runs (lease_owner) WHERE lease_owner IS NOT NULL;

-- What each model reply cost, written as soon as the reply is there (docs/contract/tick.md, Gates).
CREATE TABLE mana_ai.token_usage (
  user_id     text COLLATE "C" NOT NULL,
  agent_id    text COLLATE "C",
  mission_id  text COLLATE "C" NOT NULL,
  tokens_used int         NOT NULL,
  ts          timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX token_usage_ts ON mana_ai.token_usage (ts);
CREATE INDEX token_usage_of_agent ON mana_ai.token_usage (user_id, agent_id, ts);

-- The table whose history was folded; at most one row. Not dumped: after a restore the table with the
-- trigger is another one than this, and the next tick folds its history.
CREATE TABLE mana_ai.folded_log (
  only_row  boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
  log       oid         NOT NULL,
  folded_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- What the engine last said of itself; at most one row (docs/contract/interface.md, status()).
CREATE TABLE mana_ai.engine_state (
  only_row             boolean PRIMARY KEY DEFAULT true CHECK (only_row),
  worker_pid           int,
  worker_state         text,
  worker_since         timestamptz,
  last_tick_at         timestamptz,
  last_tick_finished   timestamptz,
  last_tick_by         text,
  due_mission_count    int,
  plans_produced       int,
  plans_written_back   int,
  parse_failures       int,
  skipped              int,
  errors               text[],
  settings_fingerprint text,
  grant_key            text,
  grant_key_digest     text,
  problem              text
) WITH (fillfactor = 50);

-- Snapshots and the schedule follow from the log and are made anew after a restore. What a mission has
-- cost and how its runs went is nowhere else.
SELECT pg_catalog.pg_extension_config_dump('mana_ai.runs', '');
SELECT pg_catalog.pg_extension_config_dump('mana_ai.token_usage', '');

-- research.sql

-- Research that takes long (docs/contract/inputs.md, Deep research across ticks).
-- Which tasks of mana-research belong to which missions. Neither questions nor answers are kept here:
-- the answer stays with mana-research and is fetched again by each run that uses it.
--
--   intent   about to be ordered; without a task id nobody knows whether it was
--   waiting  ordered and paid for; asked for at next_poll_at, given up when it waits for too long
--   ready    the answer is there; "offered" counts the runs that were to use it
--
-- The defaults are those of a task that an operator hands to a mission (docs/operations.md).
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

-- tools.sql

-- The tool catalog (docs/contract/tick.md, Tools offered; docs/contract/interface.md, Tables).
--
-- Operators may add tools, change ours and switch them off. So that neither pg_dump nor an upgrade
-- loses that, each of our rows remembers in "shipped" what we delivered:
-- * as_shipped tells rows that are still ours from rows that an operator added or changed, and only
--   the latter are dumped;
-- * on restore, CREATE EXTENSION has inserted our rows before the dumped ones arrive, so the trigger
--   below merges a dumped row into ours, column by column, where the operator had changed it;
-- * an upgrade script that changes one of our tools writes "shipped" anew, and each column only
--   where it still equals the old "shipped". One that removes a tool sets "shipped" to null where
--   not as_shipped, which makes the row the operator's, and otherwise before deleting it.
CREATE TABLE mana_ai.tools (
  name           text    PRIMARY KEY,
  module         text    NOT NULL,
  description    text    NOT NULL,
  default_policy text    NOT NULL,
  parameters     jsonb   NOT NULL DEFAULT '[]',
  enabled        boolean NOT NULL DEFAULT true,
  shipped        jsonb,
  as_shipped     boolean NOT NULL GENERATED ALWAYS AS (
    coalesce(shipped->>'module' = module
             AND shipped->>'description' = description
             AND shipped->>'default_policy' = default_policy
             AND shipped->'parameters' = parameters
             AND enabled, false)) STORED,
  -- What model providers take as the name of a function.
  CONSTRAINT tools_name_check CHECK (name ~ '^[A-Za-z0-9_-]{1,64}$'),
  CONSTRAINT tools_module_check CHECK (module <> ''),
  CONSTRAINT tools_default_policy_check CHECK (default_policy IN ('auto', 'propose', 'deny')),
  -- An array of {name, type, required, description, enum?, items?}: as many elements as there are
  -- well-formed ones. In lax mode a filter looks into nested arrays, type() does not.
  CONSTRAINT tools_parameters_check CHECK (
    CASE WHEN jsonb_typeof(parameters) = 'array' THEN
      NOT parameters @? '$[*].type() ? (@ != "object")'
      AND jsonb_array_length(parameters) = jsonb_array_length(jsonb_path_query_array(parameters, '
        $[*] ? (
          @.name.type() == "string" && @.name like_regex "^[A-Za-z0-9_-]{1,64}$"
          && (@."type" == "string" || @."type" == "number" || @."type" == "integer"
              || @."type" == "boolean" || @."type" == "object" || @."type" == "array")
          && @."type".type() == "string"
          && @.required.type() == "boolean"
          && @.description.type() == "string"
          && (!exists(@.enum)
              || (@."type" == "string" && @.enum.type() == "array" && @.enum.size() > 0
                  && !(@.enum[*].type() != "string")))
          && (!exists(@.items)
              || (@."type" == "array" && @.items.type() == "string"
                  && (@.items == "string" || @.items == "number" || @.items == "integer"
                      || @.items == "boolean" || @.items == "object" || @.items == "array"))))'))
    ELSE false END)
);

COMMENT ON TABLE mana_ai.tools IS
  'Tools that a plan may use; add your own, change the built-in ones, or disable them';
COMMENT ON COLUMN mana_ai.tools.default_policy IS
  'propose: offered to models; auto: runs on the device only, never offered; deny: never offered';
COMMENT ON COLUMN mana_ai.tools.parameters IS
  'array of {name, type, required, description, enum?, items?}';
COMMENT ON COLUMN mana_ai.tools.shipped IS
  'a built-in tool as the extension delivered it, null for other tools; not to be changed by hand';
COMMENT ON COLUMN mana_ai.tools.as_shipped IS
  'whether this is a built-in tool that nobody changed; all other rows are part of a dump';

INSERT INTO mana_ai.tools (name, module, default_policy, description, parameters) VALUES
  ('create_task', 'todo', 'propose',
   'Aufgabe anlegen. Für alles, was der Mensch selbst erledigen soll; eine Aufgabe je Handlung.',
   '[
    {"name": "title", "type": "string", "required": true, "description": "Kurzer Titel, der die Handlung nennt"},
    {"name": "dueDate", "type": "string", "required": false, "description": "Fälligkeit als ISO-Datum, z. B. 2026-04-15; weglassen, wenn offen"},
    {"name": "priority", "type": "string", "required": false, "enum": ["low", "medium", "high"], "description": "Dringlichkeit; weglassen, wenn gewöhnlich"},
    {"name": "description", "type": "string", "required": false, "description": "Einzelheiten, die nicht in den Titel passen"}
  ]'),
  ('complete_task', 'todo', 'propose',
   'Aufgabe als erledigt markieren. Nur mit einer ID, die in den Eingaben steht.',
   '[
    {"name": "taskId", "type": "string", "required": true, "description": "ID der Aufgabe"}
  ]'),
  ('complete_tasks_by_title', 'todo', 'propose',
   'Aufgaben nach Titel als erledigt markieren. Trifft jede offene Aufgabe, deren Titel den Text enthält.',
   '[
    {"name": "titleMatch", "type": "string", "required": true, "description": "Teil des Titels, so eindeutig wie möglich; Groß- und Kleinschreibung ist gleich"}
  ]'),
  ('get_task_stats', 'todo', 'auto',
   'Aufgabenstatistik abrufen. Zählt offene, erledigte und überfällige Aufgaben.',
   '[]'),
  ('list_tasks', 'todo', 'auto',
   'Aufgaben auflisten. Liefert Titel, Status, Fälligkeit und ID.',
   '[
    {"name": "filter", "type": "string", "required": false, "enum": ["open", "completed", "overdue", "today", "all"], "description": "Welche Aufgaben; ohne Angabe die offenen"},
    {"name": "limit", "type": "number", "required": false, "description": "Höchstzahl der Aufgaben"}
  ]'),
  ('create_event', 'calendar', 'propose',
   'Termin anlegen. Für Verabredungen mit fester Zeit; ohne feste Zeit ist eine Aufgabe besser.',
   '[
    {"name": "title", "type": "string", "required": true, "description": "Titel des Termins"},
    {"name": "startTime", "type": "string", "required": true, "description": "Beginn nach ISO 8601, z. B. 2026-04-15T14:00"},
    {"name": "endTime", "type": "string", "required": true, "description": "Ende nach ISO 8601, nach dem Beginn"},
    {"name": "isAllDay", "type": "boolean", "required": false, "description": "true, wenn der Termin den ganzen Tag dauert"},
    {"name": "location", "type": "string", "required": false, "description": "Ort oder Adresse"},
    {"name": "description", "type": "string", "required": false, "description": "Notizen zum Termin"}
  ]'),
  ('get_todays_events', 'calendar', 'auto',
   'Heutige Termine abrufen. Liefert Titel, Zeiten und Orte.',
   '[]'),
  ('create_note', 'notes', 'propose',
   'Notiz anlegen. Für Wissen, Ideen und Zusammenfassungen, die bleiben sollen.',
   '[
    {"name": "title", "type": "string", "required": false, "description": "Titel; weglassen, wenn die erste Zeile genügt"},
    {"name": "content", "type": "string", "required": true, "description": "Text der Notiz in Markdown"}
  ]'),
  ('update_note', 'notes', 'propose',
   'Notiz überschreiben. Ersetzt die angegebenen Felder ganz; zum Ergänzen append_to_note verwenden.',
   '[
    {"name": "noteId", "type": "string", "required": true, "description": "ID der Notiz"},
    {"name": "title", "type": "string", "required": false, "description": "Neuer Titel"},
    {"name": "content", "type": "string", "required": false, "description": "Neuer vollständiger Text in Markdown"}
  ]'),
  ('append_to_note', 'notes', 'propose',
   'Text an eine Notiz anhängen. Der bisherige Inhalt bleibt unverändert.',
   '[
    {"name": "noteId", "type": "string", "required": true, "description": "ID der Notiz"},
    {"name": "content", "type": "string", "required": true, "description": "Text, der am Ende hinzukommt, in Markdown"}
  ]'),
  ('add_tag_to_note', 'notes', 'propose',
   'Notiz mit einem Schlagwort versehen. Ein fehlendes Schlagwort wird angelegt.',
   '[
    {"name": "noteId", "type": "string", "required": true, "description": "ID der Notiz"},
    {"name": "tag", "type": "string", "required": true, "description": "Schlagwort ohne #"}
  ]'),
  ('list_notes', 'notes', 'auto',
   'Notizen auflisten. Liefert Titel, Anfang des Textes und ID, die neuesten zuerst.',
   '[
    {"name": "limit", "type": "number", "required": false, "description": "Höchstzahl der Notizen"},
    {"name": "query", "type": "string", "required": false, "description": "Nur Notizen, die diesen Text enthalten"},
    {"name": "includeArchived", "type": "boolean", "required": false, "description": "true, um archivierte einzuschließen"}
  ]'),
  ('create_place', 'places', 'propose',
   'Ort speichern. Koordinaten nur verwenden, wenn sie bekannt sind, nie schätzen.',
   '[
    {"name": "name", "type": "string", "required": true, "description": "Name des Ortes"},
    {"name": "latitude", "type": "number", "required": true, "description": "Breitengrad in Dezimalgrad, -90 bis 90"},
    {"name": "longitude", "type": "number", "required": true, "description": "Längengrad in Dezimalgrad, -180 bis 180"},
    {"name": "category", "type": "string", "required": false, "enum": ["home", "work", "food", "shopping", "sport", "culture", "nature", "transport", "health", "education", "nightlife", "other"], "description": "Art des Ortes"},
    {"name": "address", "type": "string", "required": false, "description": "Postanschrift"}
  ]'),
  ('visit_place', 'places', 'propose',
   'Besuch eines Ortes eintragen. Gilt für den Zeitpunkt der Ausführung.',
   '[
    {"name": "placeId", "type": "string", "required": true, "description": "ID des gespeicherten Ortes"}
  ]'),
  ('get_places', 'places', 'auto',
   'Gespeicherte Orte abrufen. Liefert Namen, Kategorien, Koordinaten und IDs.',
   '[]'),
  ('get_current_location', 'places', 'auto',
   'Aktuellen Standort abrufen. Liefert Koordinaten und, wenn bekannt, die Adresse.',
   '[]'),
  ('undo_drink', 'drink', 'propose',
   'Letztes Getränk zurücknehmen. Höchstens einmal je Plan.',
   '[]'),
  ('get_drink_progress', 'drink', 'auto',
   'Trinkfortschritt abrufen. Liefert die heutige Menge und das Tagesziel.',
   '[]'),
  ('log_drink', 'drink', 'auto',
   'Getränk eintragen. Gilt für jetzt.',
   '[
    {"name": "drinkType", "type": "string", "required": true, "enum": ["water", "coffee", "tea", "juice", "alcohol", "smoothie", "soda", "other"], "description": "Art des Getränks"},
    {"name": "quantityMl", "type": "number", "required": true, "description": "Menge in Millilitern, größer als 0"},
    {"name": "name", "type": "string", "required": false, "description": "Genauere Bezeichnung, z. B. Espresso"}
  ]'),
  ('nutrition_summary', 'food', 'auto',
   'Ernährung von heute zusammenfassen. Liefert Mahlzeiten, Kalorien und Nährwerte.',
   '[]'),
  ('log_meal', 'food', 'auto',
   'Mahlzeit eintragen. Gilt für heute.',
   '[
    {"name": "mealType", "type": "string", "required": true, "enum": ["breakfast", "lunch", "dinner", "snack"], "description": "Art der Mahlzeit"},
    {"name": "description", "type": "string", "required": true, "description": "Was gegessen wurde"},
    {"name": "calories", "type": "number", "required": false, "description": "Energie in Kilokalorien"},
    {"name": "protein", "type": "number", "required": false, "description": "Eiweiß in Gramm"}
  ]'),
  ('save_news_article', 'news', 'propose',
   'Nachrichtenartikel merken. Nur mit einer Adresse aus den Eingaben.',
   '[
    {"name": "url", "type": "string", "required": true, "description": "Vollständige Adresse, beginnt mit http:// oder https://"},
    {"name": "title", "type": "string", "required": false, "description": "Überschrift"},
    {"name": "summary", "type": "string", "required": false, "description": "Inhalt in ein bis zwei Sätzen"}
  ]'),
  ('list_articles', 'articles', 'auto',
   'Gespeicherte Artikel auflisten. Liefert Titel, Adresse, Lesestatus und ID.',
   '[
    {"name": "status", "type": "string", "required": false, "enum": ["unread", "reading", "finished", "archived", "all"], "description": "Lesestatus; ohne Angabe alle"},
    {"name": "limit", "type": "number", "required": false, "description": "Höchstzahl der Artikel"},
    {"name": "query", "type": "string", "required": false, "description": "Nur Artikel, die diesen Text enthalten"}
  ]'),
  ('save_article', 'articles', 'propose',
   'Artikel zum Lesen speichern. Nur mit einer Adresse aus den Eingaben.',
   '[
    {"name": "url", "type": "string", "required": true, "description": "Vollständige Adresse, beginnt mit http:// oder https://"},
    {"name": "title", "type": "string", "required": false, "description": "Überschrift"},
    {"name": "reason", "type": "string", "required": false, "description": "Warum sich das Lesen lohnt, ein Satz"}
  ]'),
  ('archive_article', 'articles', 'propose',
   'Artikel archivieren. Für Gelesenes oder nicht mehr Gebrauchtes.',
   '[
    {"name": "articleId", "type": "string", "required": true, "description": "ID des Artikels"}
  ]'),
  ('tag_article', 'articles', 'propose',
   'Artikel mit einem Schlagwort versehen. Ein fehlendes Schlagwort wird angelegt.',
   '[
    {"name": "articleId", "type": "string", "required": true, "description": "ID des Artikels"},
    {"name": "tagName", "type": "string", "required": true, "description": "Schlagwort ohne #"}
  ]'),
  ('add_article_highlight', 'articles', 'propose',
   'Textstelle in einem Artikel markieren. Die Stelle muss wörtlich im Artikel stehen.',
   '[
    {"name": "articleId", "type": "string", "required": true, "description": "ID des Artikels"},
    {"name": "text", "type": "string", "required": true, "description": "Wortlaut der Stelle"},
    {"name": "color", "type": "string", "required": false, "enum": ["yellow", "green", "blue", "pink"], "description": "Farbe der Markierung"},
    {"name": "note", "type": "string", "required": false, "description": "Anmerkung zur Stelle"}
  ]'),
  ('research_news', 'news-research', 'propose',
   'Nachrichten recherchieren. Die Suche läuft später auf dem Gerät; ihre Ergebnisse liegen hier nicht vor.',
   '[
    {"name": "query", "type": "string", "required": true, "description": "Suchbegriffe, knapp und treffend"},
    {"name": "language", "type": "string", "required": false, "description": "Sprache als ISO-639-1-Kürzel, z. B. de"},
    {"name": "limit", "type": "number", "required": false, "description": "Höchstzahl der Artikel"}
  ]'),
  ('create_journal_entry', 'journal', 'propose',
   'Journal-Eintrag schreiben. In der Ich-Form, ohne Erlebnisse zu erfinden.',
   '[
    {"name": "content", "type": "string", "required": true, "description": "Text des Eintrags in Markdown"},
    {"name": "title", "type": "string", "required": false, "description": "Titel"},
    {"name": "mood", "type": "string", "required": false, "enum": ["dankbar", "glücklich", "zufrieden", "neutral", "nachdenklich", "traurig", "gestresst", "wütend"], "description": "Stimmung; weglassen, wenn nicht bekannt"}
  ]'),
  ('create_habit', 'habits', 'propose',
   'Gewohnheit anlegen. Für etwas, das regelmäßig getan und abgehakt wird.',
   '[
    {"name": "title", "type": "string", "required": true, "description": "Name der Gewohnheit, kurz"},
    {"name": "icon", "type": "string", "required": true, "description": "Genau ein Emoji"},
    {"name": "color", "type": "string", "required": true, "description": "Farbe als Hexwert, z. B. #22c55e"}
  ]'),
  ('log_habit', 'habits', 'propose',
   'Gewohnheit für heute abhaken. Nur mit einer ID, die in den Eingaben steht.',
   '[
    {"name": "habitId", "type": "string", "required": true, "description": "ID der Gewohnheit"},
    {"name": "note", "type": "string", "required": false, "description": "Anmerkung zu heute"}
  ]'),
  ('get_habits', 'habits', 'auto',
   'Gewohnheiten abrufen. Liefert Namen, Serien, heutigen Stand und IDs.',
   '[]'),
  ('get_myday_summary', 'myday', 'auto',
   'Tagesübersicht abrufen. Fasst Termine, Aufgaben und Gewohnheiten von heute zusammen.',
   '[]'),
  ('list_goals', 'goals', 'auto',
   'Ziele auflisten. Liefert Titel, Status, Fortschritt und ID.',
   '[
    {"name": "filter", "type": "string", "required": false, "enum": ["active", "paused", "completed", "all"], "description": "Welche Ziele; ohne Angabe die aktiven"}
  ]'),
  ('get_goal_progress', 'goals', 'auto',
   'Fortschritt eines Ziels abrufen. Liefert Stand, Zielwert und Zeitraum.',
   '[
    {"name": "goalId", "type": "string", "required": true, "description": "ID des Ziels"}
  ]'),
  ('create_goal', 'goals', 'propose',
   'Ziel anlegen. Entweder aus einer Vorlage (templateId) oder frei mit title, targetValue und period.',
   '[
    {"name": "templateId", "type": "string", "required": false, "description": "ID einer Vorlage; dann genügen die übrigen Vorgaben der Vorlage"},
    {"name": "title", "type": "string", "required": false, "description": "Name des Ziels"},
    {"name": "description", "type": "string", "required": false, "description": "Worum es geht und warum"},
    {"name": "targetValue", "type": "number", "required": false, "description": "Zielwert je Zeitraum, größer als 0"},
    {"name": "period", "type": "string", "required": false, "enum": ["day", "week", "month"], "description": "Zeitraum, in dem gezählt wird"},
    {"name": "comparison", "type": "string", "required": false, "enum": ["gte", "lte"], "description": "gte: mindestens den Zielwert erreichen; lte: höchstens"},
    {"name": "eventType", "type": "string", "required": false, "description": "Art des Ereignisses, das zählt, z. B. TaskCompleted"},
    {"name": "moduleId", "type": "string", "required": false, "description": "Modul, dessen Ereignisse zählen, z. B. todo"}
  ]'),
  ('pause_goal', 'goals', 'propose',
   'Ziel pausieren. Der bisherige Fortschritt bleibt.',
   '[
    {"name": "goalId", "type": "string", "required": true, "description": "ID des Ziels"}
  ]'),
  ('resume_goal', 'goals', 'propose',
   'Pausiertes Ziel fortsetzen. Zählt ab dann wieder mit.',
   '[
    {"name": "goalId", "type": "string", "required": true, "description": "ID des pausierten Ziels"}
  ]'),
  ('complete_goal', 'goals', 'propose',
   'Ziel als erreicht abschließen. Nur, wenn es wirklich erreicht ist.',
   '[
    {"name": "goalId", "type": "string", "required": true, "description": "ID des Ziels"}
  ]'),
  ('create_contact', 'contacts', 'propose',
   'Kontakt anlegen. Nur Angaben verwenden, die vorliegen.',
   '[
    {"name": "firstName", "type": "string", "required": true, "description": "Vorname"},
    {"name": "lastName", "type": "string", "required": false, "description": "Nachname"},
    {"name": "email", "type": "string", "required": false, "description": "E-Mail-Adresse"},
    {"name": "phone", "type": "string", "required": false, "description": "Telefonnummer, am besten mit Landesvorwahl"},
    {"name": "company", "type": "string", "required": false, "description": "Firma oder Organisation"},
    {"name": "notes", "type": "string", "required": false, "description": "Notizen zur Person"}
  ]'),
  ('get_contacts', 'contacts', 'auto',
   'Kontakte abrufen. Liefert Namen, Erreichbarkeit und IDs.',
   '[]'),
  ('log_mood', 'mood', 'propose',
   'Stimmung eintragen. Nur, was der Mensch selbst gesagt hat.',
   '[
    {"name": "level", "type": "number", "required": true, "description": "Befinden von 1 (sehr schlecht) bis 10 (sehr gut)"},
    {"name": "emotion", "type": "string", "required": true, "enum": ["happy", "calm", "energized", "grateful", "excited", "loved", "hopeful", "neutral", "bored", "tired", "sad", "anxious", "angry", "stressed", "frustrated", "overwhelmed"], "description": "Vorherrschendes Gefühl"},
    {"name": "activity", "type": "string", "required": false, "enum": ["work", "exercise", "social", "alone", "commute", "eating", "resting", "creative", "outdoors", "screen", "chores", "other"], "description": "Was dabei getan wurde"},
    {"name": "notes", "type": "string", "required": false, "description": "Anmerkungen"}
  ]'),
  ('get_mood_today', 'mood', 'auto',
   'Heutige Stimmung abrufen. Liefert alle Einträge von heute.',
   '[]'),
  ('get_mood_insights', 'mood', 'auto',
   'Stimmungsverlauf auswerten. Liefert Durchschnitt, häufige Gefühle und Zusammenhänge.',
   '[
    {"name": "days", "type": "number", "required": false, "description": "Zahl der Tage bis heute"}
  ]'),
  ('add_transaction', 'finance', 'propose',
   'Buchung eintragen. Eine Einnahme oder Ausgabe je Aufruf.',
   '[
    {"name": "type", "type": "string", "required": true, "enum": ["income", "expense"], "description": "income: Einnahme; expense: Ausgabe"},
    {"name": "amount", "type": "number", "required": true, "description": "Betrag in der Währung des Kontos, größer als 0, ohne Vorzeichen"},
    {"name": "description", "type": "string", "required": true, "description": "Wofür, in wenigen Worten"},
    {"name": "date", "type": "string", "required": false, "description": "Buchungstag als ISO-Datum; ohne Angabe heute"}
  ]'),
  ('get_month_summary', 'finance', 'auto',
   'Monat in den Finanzen zusammenfassen. Liefert Einnahmen, Ausgaben und Saldo.',
   '[
    {"name": "month", "type": "string", "required": false, "description": "Monat als JJJJ-MM; ohne Angabe der laufende"}
  ]'),
  ('list_transactions', 'finance', 'auto',
   'Buchungen auflisten. Die neuesten zuerst.',
   '[
    {"name": "type", "type": "string", "required": false, "enum": ["income", "expense"], "description": "income: nur Einnahmen; expense: nur Ausgaben"},
    {"name": "month", "type": "string", "required": false, "description": "Monat als JJJJ-MM"},
    {"name": "limit", "type": "number", "required": false, "description": "Höchstzahl der Buchungen"}
  ]'),
  ('start_timer', 'times', 'propose',
   'Zeiterfassung starten. Beginnt bei der Ausführung auf dem Gerät; eine laufende Messung endet damit.',
   '[
    {"name": "description", "type": "string", "required": false, "description": "Woran gearbeitet wird"},
    {"name": "projectId", "type": "string", "required": false, "description": "ID des Projekts"}
  ]'),
  ('stop_timer', 'times', 'propose',
   'Laufende Zeiterfassung beenden. Speichert die gemessene Zeit.',
   '[]'),
  ('get_timer_status', 'times', 'auto',
   'Stand der Zeiterfassung abrufen. Sagt, ob und seit wann eine Messung läuft.',
   '[]'),
  ('get_time_stats', 'times', 'auto',
   'Arbeitszeiten auswerten. Liefert Summen je Projekt.',
   '[
    {"name": "period", "type": "string", "required": false, "enum": ["today", "week", "month"], "description": "Zeitraum; ohne Angabe heute"}
  ]'),
  ('list_projects', 'times', 'auto',
   'Projekte der Zeiterfassung auflisten. Liefert Namen und IDs.',
   '[]'),
  ('get_weather', 'wetter', 'auto',
   'Wetter abrufen. Liefert das aktuelle Wetter und die nächsten Tage.',
   '[
    {"name": "location", "type": "string", "required": true, "description": "Ort, z. B. Konstanz"}
  ]'),
  ('get_rain_forecast', 'wetter', 'auto',
   'Regenvorhersage abrufen. Liefert die nächsten Stunden.',
   '[
    {"name": "location", "type": "string", "required": true, "description": "Ort, z. B. Konstanz"}
  ]'),
  ('discover_events', 'events', 'auto',
   'Veranstaltungen suchen. Liefert Titel, Zeit, Ort und ID.',
   '[
    {"name": "query", "type": "string", "required": false, "description": "Suchbegriffe"},
    {"name": "category", "type": "string", "required": false, "enum": ["music", "theater", "art", "tech", "sport", "food", "family", "nature", "education", "community", "nightlife", "market", "other"], "description": "Art der Veranstaltung"},
    {"name": "days_ahead", "type": "number", "required": false, "description": "Zahl der Tage ab heute"}
  ]'),
  ('suggest_event', 'events', 'propose',
   'Veranstaltung vorschlagen. Nur eine, die in den Eingaben steht.',
   '[
    {"name": "discovered_event_id", "type": "string", "required": true, "description": "ID der gefundenen Veranstaltung"},
    {"name": "reason", "type": "string", "required": false, "description": "Warum sie passt, ein Satz"}
  ]'),
  ('create_quiz', 'quiz', 'propose',
   'Quiz anlegen. Zunächst ohne Fragen; seine ID gibt es erst nach der Ausführung.',
   '[
    {"name": "title", "type": "string", "required": true, "description": "Titel des Quiz"},
    {"name": "description", "type": "string", "required": false, "description": "Worum es geht"},
    {"name": "category", "type": "string", "required": false, "description": "Themengebiet, frei wählbar"}
  ]'),
  ('update_quiz', 'quiz', 'propose',
   'Quiz ändern. Nur die angegebenen Felder ändern sich.',
   '[
    {"name": "quizId", "type": "string", "required": true, "description": "ID des Quiz"},
    {"name": "title", "type": "string", "required": false, "description": "Neuer Titel"},
    {"name": "description", "type": "string", "required": false, "description": "Neue Beschreibung"},
    {"name": "category", "type": "string", "required": false, "description": "Neues Themengebiet"},
    {"name": "isPinned", "type": "boolean", "required": false, "description": "true heftet das Quiz an, false löst es"},
    {"name": "isArchived", "type": "boolean", "required": false, "description": "true archiviert das Quiz, false holt es zurück"}
  ]'),
  ('add_quiz_question', 'quiz', 'propose',
   'Quizfrage hinzufügen. Eine Frage je Aufruf, zu einem Quiz, das es schon gibt.',
   '[
    {"name": "quizId", "type": "string", "required": true, "description": "ID des Quiz"},
    {"name": "type", "type": "string", "required": true, "enum": ["single", "multi", "truefalse", "text"], "description": "single: eine richtige Antwort; multi: mehrere; truefalse: wahr oder falsch; text: freie Eingabe"},
    {"name": "questionText", "type": "string", "required": true, "description": "Wortlaut der Frage"},
    {"name": "optionsJson", "type": "string", "required": true, "description": "Text, der ein JSON-Array der Antworten enthält, je ein Objekt mit text (Text) und isCorrect (true oder false); bei type text die gültigen Eingaben"},
    {"name": "explanation", "type": "string", "required": false, "description": "Erklärung, die nach der Antwort erscheint"}
  ]'),
  ('update_quiz_question', 'quiz', 'propose',
   'Quizfrage ändern. Nur die angegebenen Felder ändern sich.',
   '[
    {"name": "questionId", "type": "string", "required": true, "description": "ID der Frage"},
    {"name": "questionText", "type": "string", "required": false, "description": "Neuer Wortlaut"},
    {"name": "type", "type": "string", "required": false, "enum": ["single", "multi", "truefalse", "text"], "description": "single: eine richtige Antwort; multi: mehrere; truefalse: wahr oder falsch; text: freie Eingabe"},
    {"name": "optionsJson", "type": "string", "required": false, "description": "Text, der ein JSON-Array aller Antworten neu enthält, je ein Objekt mit text (Text) und isCorrect (true oder false)"},
    {"name": "explanation", "type": "string", "required": false, "description": "Neue Erklärung"}
  ]'),
  ('delete_quiz_question', 'quiz', 'propose',
   'Quizfrage löschen. Lässt sich nicht rückgängig machen.',
   '[
    {"name": "questionId", "type": "string", "required": true, "description": "ID der Frage"}
  ]'),
  ('list_quizzes', 'quiz', 'auto',
   'Quizze auflisten. Liefert Titel, Zahl der Fragen und ID.',
   '[
    {"name": "limit", "type": "number", "required": false, "description": "Höchstzahl der Quizze"},
    {"name": "query", "type": "string", "required": false, "description": "Nur Quizze, die diesen Text enthalten"}
  ]'),
  ('get_quiz_questions', 'quiz', 'auto',
   'Fragen eines Quiz abrufen. Liefert Wortlaut, Antworten und IDs.',
   '[
    {"name": "quizId", "type": "string", "required": true, "description": "ID des Quiz"}
  ]'),
  ('get_quiz_stats', 'quiz', 'auto',
   'Statistik eines Quiz abrufen. Liefert Durchläufe und Trefferquote.',
   '[
    {"name": "quizId", "type": "string", "required": true, "description": "ID des Quiz"}
  ]'),
  ('create_invoice', 'invoices', 'propose',
   'Rechnung entwerfen. Sie wird nicht verschickt.',
   '[
    {"name": "clientName", "type": "string", "required": true, "description": "Name der Kundschaft"},
    {"name": "clientEmail", "type": "string", "required": false, "description": "E-Mail-Adresse der Kundschaft"},
    {"name": "clientAddress", "type": "string", "required": false, "description": "Anschrift, Zeilen durch Umbruch getrennt"},
    {"name": "subject", "type": "string", "required": false, "description": "Betreff"},
    {"name": "currency", "type": "string", "required": false, "enum": ["CHF", "EUR", "USD"], "description": "Währung; ohne Angabe die voreingestellte"},
    {"name": "dueDate", "type": "string", "required": false, "description": "Zahlbar bis, als ISO-Datum"},
    {"name": "lines", "type": "array", "required": true, "description": "Posten, mindestens einer, je ein Objekt {title, quantity, unitPrice, vatRate?}; Preis je Einheit als Zahl, vatRate in Prozent"}
  ]'),
  ('mark_invoice_paid', 'invoices', 'propose',
   'Rechnung als bezahlt markieren. Nur, wenn die Zahlung belegt ist.',
   '[
    {"name": "invoiceId", "type": "string", "required": true, "description": "ID der Rechnung"},
    {"name": "paidAt", "type": "string", "required": false, "description": "Tag der Zahlung als ISO-Datum; ohne Angabe heute"}
  ]'),
  ('list_invoices', 'invoices', 'auto',
   'Rechnungen auflisten. Liefert Nummer, Kundschaft, Betrag, Status und ID.',
   '[
    {"name": "status", "type": "string", "required": false, "enum": ["draft", "sent", "paid", "overdue", "void"], "description": "draft: Entwurf; sent: verschickt; paid: bezahlt; overdue: überfällig; void: storniert"},
    {"name": "limit", "type": "number", "required": false, "description": "Höchstzahl der Rechnungen"}
  ]'),
  ('get_invoice_stats', 'invoices', 'auto',
   'Rechnungsstatistik abrufen. Liefert offene, überfällige und bezahlte Summen.',
   '[]'),
  ('create_library_entry', 'library', 'propose',
   'Titel in die Bibliothek aufnehmen. Ein Buch, Film, eine Serie oder ein Comic je Aufruf.',
   '[
    {"name": "kind", "type": "string", "required": true, "enum": ["book", "movie", "series", "comic"], "description": "Art des Werks"},
    {"name": "title", "type": "string", "required": true, "description": "Titel des Werks"},
    {"name": "creators", "type": "string", "required": false, "description": "Urheber, durch Komma getrennt"},
    {"name": "year", "type": "number", "required": false, "description": "Erscheinungsjahr, vierstellig"},
    {"name": "status", "type": "string", "required": false, "enum": ["planned", "active", "completed", "paused", "dropped"], "description": "planned: vorgemerkt; active: angefangen; completed: beendet; paused: unterbrochen; dropped: abgebrochen"},
    {"name": "rating", "type": "number", "required": false, "description": "Bewertung von 0 bis 5"},
    {"name": "tags", "type": "string", "required": false, "description": "Schlagwörter, durch Komma getrennt"},
    {"name": "genres", "type": "string", "required": false, "description": "Genres, durch Komma getrennt"}
  ]'),
  ('update_library_entry_status', 'library', 'propose',
   'Status eines Bibliothekstitels ändern. Nur mit einer ID, die in den Eingaben steht.',
   '[
    {"name": "entryId", "type": "string", "required": true, "description": "ID des Eintrags"},
    {"name": "status", "type": "string", "required": true, "enum": ["planned", "active", "completed", "paused", "dropped"], "description": "planned: vorgemerkt; active: angefangen; completed: beendet; paused: unterbrochen; dropped: abgebrochen"}
  ]'),
  ('rate_library_entry', 'library', 'propose',
   'Bibliothekstitel bewerten. Nur mit einer Bewertung, die der Mensch geäußert hat.',
   '[
    {"name": "entryId", "type": "string", "required": true, "description": "ID des Eintrags"},
    {"name": "rating", "type": "number", "required": true, "description": "Bewertung von 0 bis 5"}
  ]'),
  ('list_library_entries', 'library', 'auto',
   'Bibliothek auflisten. Liefert Titel, Art, Status, Bewertung und ID.',
   '[
    {"name": "kind", "type": "string", "required": false, "enum": ["book", "movie", "series", "comic"], "description": "Nur diese Art"},
    {"name": "status", "type": "string", "required": false, "enum": ["planned", "active", "completed", "paused", "dropped"], "description": "Nur dieser Status"},
    {"name": "limit", "type": "number", "required": false, "description": "Höchstzahl der Einträge"}
  ]'),
  ('create_campaign_draft', 'broadcast', 'propose',
   'Newsletter entwerfen. Er wird nicht verschickt.',
   '[
    {"name": "name", "type": "string", "required": true, "description": "Interner Name"},
    {"name": "subject", "type": "string", "required": true, "description": "Betreffzeile, am besten unter 60 Zeichen"},
    {"name": "preheader", "type": "string", "required": false, "description": "Vorschautext nach dem Betreff, ein Satz"},
    {"name": "htmlContent", "type": "string", "required": true, "description": "Inhalt als HTML, ohne html- und body-Element und ohne Skripte"}
  ]'),
  ('list_campaigns', 'broadcast', 'auto',
   'Newsletter auflisten. Liefert Namen, Status und ID.',
   '[
    {"name": "status", "type": "string", "required": false, "enum": ["draft", "scheduled", "sending", "sent", "cancelled"], "description": "draft: Entwurf; scheduled: geplant; sending: im Versand; sent: verschickt; cancelled: abgebrochen"},
    {"name": "limit", "type": "number", "required": false, "description": "Höchstzahl der Newsletter"}
  ]'),
  ('get_campaign_stats', 'broadcast', 'auto',
   'Statistik eines Newsletters abrufen. Liefert Zustellungen, Öffnungen und Klicks.',
   '[
    {"name": "campaignId", "type": "string", "required": true, "description": "ID des Newsletters"}
  ]'),
  ('create_website', 'website', 'propose',
   'Website anlegen. Leer und nicht öffentlich; mit Inhalt beginnt apply_website_template.',
   '[
    {"name": "name", "type": "string", "required": true, "description": "Name der Website"},
    {"name": "slug", "type": "string", "required": true, "description": "Kurzname für die Adresse: Kleinbuchstaben, Ziffern, Bindestriche"}
  ]'),
  ('apply_website_template', 'website', 'propose',
   'Website aus einer Vorlage anlegen. Nicht öffentlich, bis publish_website ausgeführt ist.',
   '[
    {"name": "templateId", "type": "string", "required": true, "enum": ["portfolio", "personal-linktree", "event", "blank"], "description": "Vorlage; blank ist die leere"},
    {"name": "name", "type": "string", "required": true, "description": "Name der Website"},
    {"name": "slug", "type": "string", "required": true, "description": "Kurzname für die Adresse: Kleinbuchstaben, Ziffern, Bindestriche"}
  ]'),
  ('create_website_page', 'website', 'propose',
   'Seite zu einer Website hinzufügen. Die Website muss es schon geben.',
   '[
    {"name": "siteId", "type": "string", "required": true, "description": "ID der Website"},
    {"name": "path", "type": "string", "required": true, "description": "Pfad, beginnt mit /, z. B. /kontakt"},
    {"name": "title", "type": "string", "required": true, "description": "Titel der Seite"}
  ]'),
  ('add_website_block', 'website', 'propose',
   'Block auf einer Website-Seite einfügen. Er kommt ans Ende der Seite oder des Fachs.',
   '[
    {"name": "pageId", "type": "string", "required": true, "description": "ID der Seite"},
    {"name": "type", "type": "string", "required": true, "enum": ["hero", "richText", "cta", "image", "gallery", "faq", "form", "moduleEmbed", "columns", "spacer"], "description": "Art des Blocks"},
    {"name": "props", "type": "object", "required": false, "description": "Eigenschaften des Blocks als Objekt, z. B. mit title und text"},
    {"name": "parentBlockId", "type": "string", "required": false, "description": "ID des umgebenden Blocks, z. B. eines columns-Blocks"},
    {"name": "slotKey", "type": "string", "required": false, "description": "Fach im umgebenden Block, nur mit parentBlockId"}
  ]'),
  ('update_website_block', 'website', 'propose',
   'Block einer Website ändern. Nur die angegebenen Eigenschaften ändern sich.',
   '[
    {"name": "blockId", "type": "string", "required": true, "description": "ID des Blocks"},
    {"name": "patch", "type": "object", "required": true, "description": "Geänderte Eigenschaften als Objekt, mindestens eine"}
  ]'),
  ('publish_website', 'website', 'propose',
   'Website veröffentlichen. Macht den ganzen Entwurf für alle sichtbar.',
   '[
    {"name": "siteId", "type": "string", "required": true, "description": "ID der Website"}
  ]'),
  ('list_websites', 'website', 'auto',
   'Websites auflisten. Liefert Namen, Adressen, Status und IDs.',
   '[]'),
  ('list_website_pages', 'website', 'auto',
   'Seiten einer Website auflisten. Liefert Pfade, Titel und IDs.',
   '[
    {"name": "siteId", "type": "string", "required": true, "description": "ID der Website"}
  ]'),
  ('list_website_blocks', 'website', 'auto',
   'Blöcke einer Website-Seite auflisten. Liefert Arten, Eigenschaften und IDs in Reihenfolge.',
   '[
    {"name": "pageId", "type": "string", "required": true, "description": "ID der Seite"}
  ]');

UPDATE mana_ai.tools
   SET shipped = pg_catalog.jsonb_build_object('module', module, 'description', description,
                                               'default_policy', default_policy,
                                               'parameters', parameters);

CREATE FUNCTION mana_ai.keep_tool_changes() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF TG_OP <> 'DELETE' THEN
    -- The table's CHECK refuses everything that is no array of objects, but cannot see this.
    IF jsonb_typeof(NEW.parameters) = 'array'
       AND EXISTS (SELECT FROM jsonb_array_elements(NEW.parameters) AS parameter
                    GROUP BY parameter->'name' HAVING count(*) > 1) THEN
      RAISE check_violation USING
        MESSAGE = format('tool "%s" has two parameters of the same name', NEW.name);
    END IF;
  END IF;

  IF TG_OP = 'INSERT' THEN
    UPDATE mana_ai.tools AS ours
       SET module = CASE WHEN NEW.module = NEW.shipped->>'module'
                         THEN ours.module ELSE NEW.module END,
           description = CASE WHEN NEW.description = NEW.shipped->>'description'
                              THEN ours.description ELSE NEW.description END,
           default_policy = CASE WHEN NEW.default_policy = NEW.shipped->>'default_policy'
                                 THEN ours.default_policy ELSE NEW.default_policy END,
           parameters = CASE WHEN NEW.parameters = NEW.shipped->'parameters'
                             THEN ours.parameters ELSE NEW.parameters END,
           enabled = NEW.enabled
     WHERE ours.name = NEW.name AND ours.shipped IS NOT NULL;
    IF FOUND THEN
      RETURN NULL;
    END IF;
    -- A dumped row of a tool that is no longer built in: the operator had changed it, so it stays.
    NEW.shipped := NULL;
    RETURN NEW;
  END IF;

  -- A built-in tool that is gone would come back with the next restore.
  IF OLD.shipped IS NOT NULL AND (TG_OP = 'DELETE' OR NEW.name <> OLD.name) THEN
    RAISE object_not_in_prerequisite_state USING
      MESSAGE = format('built-in tool "%s" cannot be deleted or renamed', OLD.name),
      HINT = 'Set "enabled" to false, and insert a tool of your own if you need another name.';
  END IF;
  RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
END
$$;
REVOKE ALL ON FUNCTION mana_ai.keep_tool_changes() FROM PUBLIC;

CREATE TRIGGER keep_tool_changes
  BEFORE INSERT OR DELETE OR UPDATE ON mana_ai.tools
  FOR EACH ROW EXECUTE FUNCTION mana_ai.keep_tool_changes();

SELECT pg_catalog.pg_extension_config_dump('mana_ai.tools', 'WHERE NOT as_shipped');

-- lww.sql

-- Last-writer-wins over mana-sync's table (docs/contract/data.md).
CREATE FUNCTION mana_ai.fold_sync_change()
RETURNS trigger LANGUAGE c SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'mana_ai_fold_sync_change';
COMMENT ON FUNCTION mana_ai.fold_sync_change() IS
  'folds a new row of sync_changes into its snapshot; never makes the insert fail';

-- Reads with the rights of its caller: row-level security decides what it sees.
CREATE FUNCTION mana_ai.replay(user_id text, app_id text, table_name text, record_id text)
RETURNS jsonb LANGUAGE c STABLE STRICT PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'mana_ai_replay';
COMMENT ON FUNCTION mana_ai.replay(text, text, text, text) IS
  'last-writer-wins replay of one record; null when there is none or it is deleted';

CREATE FUNCTION mana_ai.newest_clock(record jsonb, clocks bytea, fields text[])
RETURNS timestamptz LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'mana_ai_newest_clock';

CREATE FUNCTION mana_ai.refresh_snapshots(
  OUT new_snapshots int, OUT updated_snapshots int, OUT rows_applied bigint)
RETURNS record LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'mana_ai_refresh_snapshots';
COMMENT ON FUNCTION mana_ai.refresh_snapshots() IS
  'folds the history of sync_changes into snapshots and repairs dirty records';

-- SECURITY DEFINER here and in detach() and refresh_snapshots(): a fold has to see every row, whatever
-- policies say of the caller. Nobody but superusers may call them, unless they are granted.
CREATE FUNCTION mana_ai.attach(sync_table regclass)
RETURNS void LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'mana_ai_attach';
COMMENT ON FUNCTION mana_ai.attach(regclass) IS
  'folds the history of mana-sync''s table and puts the trigger on it';

CREATE FUNCTION mana_ai.detach()
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'mana_ai_detach';
COMMENT ON FUNCTION mana_ai.detach() IS 'takes the trigger off again; snapshots stay as they are';

CREATE FUNCTION mana_ai.attached_table()
RETURNS regclass LANGUAGE c STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'mana_ai_attached_table';
COMMENT ON FUNCTION mana_ai.attached_table() IS 'the table that carries the trigger';

-- functions.sql

-- Running missions (docs/contract/interface.md, Functions).
CREATE FUNCTION mana_ai.run_tick(
  OUT scanned_at timestamptz, OUT due_mission_count int, OUT plans_produced int,
  OUT plans_written_back int, OUT parse_failures int, OUT skipped int, OUT errors text[])
RETURNS record LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'mana_ai_run_tick';
COMMENT ON FUNCTION mana_ai.run_tick() IS
  'plans all missions that are due, in a background worker, and returns the counts';

CREATE FUNCTION mana_ai.run_mission(
  user_id text, mission_id text,
  OUT outcome text, OUT iteration_id text, OUT steps int, OUT rounds int, OUT tokens bigint,
  OUT error text)
RETURNS record LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT
AS 'MODULE_PATHNAME', 'mana_ai_run_mission';
COMMENT ON FUNCTION mana_ai.run_mission(text, text) IS
  'plans one mission now, whether it is due or not; the gates apply';

CREATE FUNCTION mana_ai.next_run(cadence jsonb, from_time timestamptz, timezone text)
RETURNS timestamptz LANGUAGE c STABLE PARALLEL SAFE STRICT
AS 'MODULE_PATHNAME', 'mana_ai_next_run';
COMMENT ON FUNCTION mana_ai.next_run(jsonb, timestamptz, text) IS
  'the next run of a cadence after the given time; null for manual and for what is no cadence';

-- What is wrong with a mission's record; empty when nothing is.
CREATE FUNCTION mana_ai.record_problems(record jsonb)
RETURNS text[] LANGUAGE c STABLE PARALLEL SAFE STRICT
AS 'MODULE_PATHNAME', 'mana_ai_record_problems';

-- The decision of the gates on a mission as the worker would take it now.
CREATE FUNCTION mana_ai.gate_decision(
  mission jsonb, agent jsonb, agent_running int, agent_tokens_24h bigint,
  research_pending boolean DEFAULT false)
RETURNS text LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'mana_ai_gate_decision';

CREATE FUNCTION mana_ai.explain(
  user_id text, mission_id text,
  OUT system_prompt text, OUT user_prompt text, OUT tools jsonb, OUT decision text)
RETURNS record LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'mana_ai_explain';
COMMENT ON FUNCTION mana_ai.explain(text, text) IS
  'what a model would be told about the mission now; makes no call and opens nothing';

-- status.sql

-- What an operator can see (docs/contract/interface.md, status() and why()).
CREATE FUNCTION mana_ai.worker_status(
  OUT library_version text, OUT preloaded boolean, OUT worker_pid int, OUT worker_state text,
  OUT worker_since timestamptz, OUT in_flight int, OUT trigger_errors bigint)
RETURNS record LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'mana_ai_worker_status';

-- Why the worker of this database does no work; null when it does.
CREATE FUNCTION mana_ai.worker_problem()
RETURNS text LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  w record;
BEGIN
  IF pg_is_in_recovery() THEN
    RETURN 'this server is a standby; the worker starts when it is promoted';
  END IF;
  SELECT * INTO w FROM mana_ai.worker_status();
  IF NOT w.preloaded THEN
    RETURN 'worker is not running: mana_ai is not in shared_preload_libraries';
  ELSIF w.worker_pid IS NULL AND NOT current_database() = ANY (
      SELECT btrim(d, ' "') FROM unnest(string_to_array(current_setting('mana_ai.database'), ',')) d) THEN
    RETURN format('worker is not running: mana_ai.database does not name %s', current_database());
  ELSIF w.worker_pid IS NULL THEN
    RETURN 'worker is not running';
  ELSIF w.worker_state = 'wrong version' THEN
    RETURN format('worker waits: the server has loaded version %s of the library and must be restarted',
                  w.library_version);
  ELSIF NOT current_setting('mana_ai.tick_enabled')::boolean THEN
    RETURN 'worker is paused: mana_ai.tick_enabled is off';
  END IF;
  RETURN NULL;
END $$;

CREATE FUNCTION mana_ai.status(
  OUT library_version text, OUT extension_version text, OUT preloaded boolean, OUT worker_pid int,
  OUT worker_state text, OUT worker_since timestamptz, OUT worker_problem text, OUT in_flight int,
  OUT last_tick_at timestamptz, OUT last_tick_finished timestamptz, OUT last_tick_by text,
  OUT due_mission_count int, OUT plans_produced int, OUT plans_written_back int,
  OUT parse_failures int, OUT skipped int, OUT errors text[], OUT next_due timestamptz,
  OUT dirty_records bigint, OUT trigger_errors bigint, OUT sync_table text, OUT grant_key text,
  OUT research_jobs int)
RETURNS record LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
  SELECT w.library_version,
         (SELECT extversion FROM pg_extension WHERE extname = 'mana_ai'),
         w.preloaded, w.worker_pid, w.worker_state, w.worker_since, mana_ai.worker_problem(),
         (SELECT count(*)::int FROM mana_ai.runs WHERE outcome = 'running'),
         e.last_tick_at, e.last_tick_finished, e.last_tick_by, e.due_mission_count,
         e.plans_produced, e.plans_written_back, e.parse_failures, e.skipped, e.errors,
         (SELECT min(s.wake_at) FROM mana_ai.mission_schedule s),
         (SELECT count(DISTINCT (d.user_id, d.table_name, d.record_id))
            FROM mana_ai.dirty_records d),
         w.trigger_errors,
         mana_ai.attached_table()::text,
         coalesce(e.grant_key, 'not configured'),
         (SELECT count(*)::int FROM mana_ai.mission_research_jobs j WHERE j.state = 'waiting')
    FROM mana_ai.worker_status() w LEFT JOIN mana_ai.engine_state e ON true
$$;
COMMENT ON FUNCTION mana_ai.status() IS
  'is the worker alive, what is it doing, how did the last tick end, what is next';

-- Missions that cannot run as they are, and why.
CREATE VIEW mana_ai.mission_problems AS
SELECT m.user_id, m.mission_id, p.problem, m.updated_at AS since
  FROM mana_ai.mission_snapshots m
 CROSS JOIN LATERAL unnest(mana_ai.record_problems(m.record)) AS p(problem)
 WHERE m.record ->> 'state' = 'active'
UNION ALL
SELECT s.user_id, s.mission_id,
       format(CASE s.attempts WHEN 1 THEN 'failed: %2$s' ELSE 'failed %1$s times in a row, the last time: %2$s' END,
              s.attempts, coalesce(s.error_kind, 'crashed')),
       s.decided_at
  FROM mana_ai.mission_schedule s
 WHERE s.attempts > 0 AND s.due_at IS NOT NULL
UNION ALL
SELECT s.user_id, s.mission_id, s.decision, s.decided_at
  FROM mana_ai.mission_schedule s
 WHERE s.decision IN ('skipped-encrypted', 'skipped-unreviewed', 'skipped-agent-missing')
   AND s.not_before IS NOT NULL AND s.due_at IS NOT NULL
UNION ALL
SELECT d.user_id, d.record_id, 'the snapshot waits for repair: ' || d.reason, min(d.ts)
  FROM mana_ai.dirty_records d
 WHERE d.table_name = 'aiMissions'
 GROUP BY d.user_id, d.record_id, d.reason;
COMMENT ON VIEW mana_ai.mission_problems IS 'missions that cannot run as they are, and why';

-- The one reason why a mission is not running now.
CREATE FUNCTION mana_ai.why(user_id text, mission_id text)
RETURNS text LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  m       mana_ai.mission_snapshots%ROWTYPE;
  s       mana_ai.mission_schedule%ROWTYPE;
  a       jsonb;
  j       mana_ai.mission_research_jobs%ROWTYPE;
  running int;
  tokens  bigint;
  gate    text;
  name    text;
BEGIN
  SELECT * INTO m FROM mana_ai.mission_snapshots x
   WHERE x.user_id = why.user_id AND x.mission_id = why.mission_id;
  IF NOT FOUND THEN
    IF EXISTS (SELECT FROM mana_ai.record_tombstones t
                WHERE t.user_id = why.user_id AND t.table_name = 'aiMissions'
                  AND t.record_id = why.mission_id) THEN
      RETURN 'mission was deleted';
    ELSIF EXISTS (SELECT FROM mana_ai.dirty_records d
                   WHERE d.user_id = why.user_id AND d.table_name = 'aiMissions'
                     AND d.record_id = why.mission_id) THEN
      RETURN 'the mission''s snapshot waits for repair';
    END IF;
    RETURN 'no such mission';
  END IF;
  IF m.record ->> 'state' IS DISTINCT FROM 'active' THEN
    RETURN format('mission is not active but %s',
                  CASE WHEN m.record ->> 'state' IS NULL THEN 'without a state'
                       ELSE coalesce(mana_ai.readable_text(m.record, 'state'), 'encrypted') END);
  END IF;
  SELECT * INTO s FROM mana_ai.mission_schedule x
   WHERE x.user_id = why.user_id AND x.mission_id = why.mission_id;
  IF s.lease_owner IS NOT NULL AND s.wake_at > clock_timestamp() THEN
    RETURN (SELECT format('running since %s', r.started_at)
              FROM mana_ai.runs r WHERE r.user_id = why.user_id AND r.run_id = s.run_id);
  END IF;
  IF s.due_at IS NULL THEN
    RETURN CASE
      WHEN coalesce(jsonb_typeof(m.record -> 'nextRunAt'), 'null') = 'null' THEN
        'not scheduled: nextRunAt is not set'
      ELSE 'not scheduled: nextRunAt is not an instant' END;
  ELSIF s.due_at > clock_timestamp() THEN
    RETURN format('not due until %s', s.due_at);
  END IF;

  SELECT x.record INTO a FROM mana_ai.agent_snapshots x
   WHERE x.user_id = why.user_id AND x.agent_id = s.agent_id;
  SELECT count(*) INTO running FROM mana_ai.runs r
   WHERE r.user_id = why.user_id AND r.agent_id = s.agent_id AND r.outcome = 'running';
  SELECT coalesce(sum(u.tokens_used), 0) INTO tokens FROM mana_ai.token_usage u
   WHERE u.user_id = why.user_id AND u.agent_id = s.agent_id
     AND u.ts > clock_timestamp() - interval '24 hours';
  SELECT * INTO j FROM mana_ai.mission_research_jobs x
   WHERE x.user_id = why.user_id AND x.mission_id = why.mission_id;
  gate := mana_ai.gate_decision(m.record, a, running, tokens, j.state = 'waiting');
  -- A name that was encrypted on the user's device tells nobody anything.
  name := left(coalesce(nullif(mana_ai.readable_text(a, 'name'), ''), s.agent_id), 200);
  CASE gate
    WHEN 'skipped-agent-missing' THEN
      RETURN format('agent %s does not exist or is not synced yet', left(s.agent_id, 200));
    WHEN 'skipped-archived' THEN
      RETURN format('agent %s is archived', name);
    WHEN 'skipped-paused' THEN
      RETURN format('agent %s is paused', name);
    WHEN 'skipped-concurrency' THEN
      RETURN format('agent %s is running %s of its missions, as many as it may', name, running);
    WHEN 'skipped-budget' THEN
      RETURN format('agent %s has used %s of %s tokens in the last 24 hours', name, tokens,
                    left(a ->> 'maxTokensPerDay', 40));
    WHEN 'skipped-encrypted' THEN
      RETURN 'title, objective or concept is encrypted and no grant opens it';
    WHEN 'skipped-unreviewed' THEN
      RETURN format('%s or more iterations wait for the user''s review',
                    current_setting('mana_ai.max_unreviewed'));
    WHEN 'skipped-research' THEN
      RETURN format('waiting for research since %s, %s', coalesce(j.submitted_at, j.requested_at),
                    coalesce('last asked ' || j.last_polled_at, 'not asked yet'));
    ELSE NULL;
  END CASE;
  IF s.attempts > 0 AND s.not_before > clock_timestamp() THEN
    RETURN format('backing off until %s after %s %s: %s', s.not_before, s.attempts,
                  CASE s.attempts WHEN 1 THEN 'failure' ELSE 'failures' END,
                  coalesce(s.error_kind, 'crashed'));
  ELSIF s.not_before > clock_timestamp() AND s.decision = 'skipped-encrypted' THEN
    RETURN format('title, objective or concept is encrypted and the grant does not open it: %s',
                  coalesce(s.error_kind, 'unknown'));
  ELSIF s.not_before > clock_timestamp() THEN
    RETURN format('waiting until %s after decision %s', s.not_before, s.decision);
  END IF;
  RETURN coalesce(mana_ai.worker_problem(), 'due: the worker takes it up as soon as it has room');
END $$;
COMMENT ON FUNCTION mana_ai.why(text, text) IS 'the one reason why a mission is not running now';

-- inputs.sql

-- What missions read: who decrypted what, and resolvers of operators (docs/contract/inputs.md).

-- One row per attempt to decrypt a record under a grant. Append-only, and each user's own: whoever may read
-- the table sees the rows of app.current_user_id.
CREATE TABLE mana_ai.decrypt_audit (
  id           bigint      GENERATED ALWAYS AS IDENTITY,
  user_id      text COLLATE "C" NOT NULL,
  mission_id   text COLLATE "C" NOT NULL,
  iteration_id text COLLATE "C" NOT NULL,
  table_name   text COLLATE "C" NOT NULL,
  record_id    text COLLATE "C" NOT NULL,
  status       text        NOT NULL CONSTRAINT decrypt_audit_status_check
                             CHECK (status IN ('ok', 'failed', 'scope-violation')),
  reason       text,
  ts           timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (user_id, id)
);
CREATE INDEX decrypt_audit_ts ON mana_ai.decrypt_audit (ts);

ALTER TABLE mana_ai.decrypt_audit ENABLE ROW LEVEL SECURITY;
ALTER TABLE mana_ai.decrypt_audit FORCE ROW LEVEL SECURITY;
CREATE POLICY decrypt_audit_own_rows ON mana_ai.decrypt_audit FOR SELECT
  USING (user_id = current_setting('app.current_user_id', true));

-- Of rows, only DELETE needs to see which. ALWAYS: also where session_replication_role is replica.
CREATE FUNCTION mana_ai.protect_decrypt_audit()
RETURNS trigger LANGUAGE c SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'mana_ai_protect_decrypt_audit';
COMMENT ON FUNCTION mana_ai.protect_decrypt_audit() IS
  'refuses every change of decrypt_audit but the deletion of rows older than mana_ai.audit_retention';
CREATE TRIGGER append_only BEFORE UPDATE OR TRUNCATE ON mana_ai.decrypt_audit
  FOR EACH STATEMENT EXECUTE FUNCTION mana_ai.protect_decrypt_audit();
CREATE TRIGGER keep_until_expiry BEFORE DELETE ON mana_ai.decrypt_audit
  FOR EACH ROW EXECUTE FUNCTION mana_ai.protect_decrypt_audit();
ALTER TABLE mana_ai.decrypt_audit ENABLE ALWAYS TRIGGER append_only;
ALTER TABLE mana_ai.decrypt_audit ENABLE ALWAYS TRIGGER keep_until_expiry;

CREATE FUNCTION mana_ai.read_decrypt_audit(
  mission_id text DEFAULT NULL, max_rows int DEFAULT 200,
  OUT id bigint, OUT mission_id text, OUT iteration_id text, OUT table_name text, OUT record_id text,
  OUT status text, OUT reason text, OUT ts timestamptz)
RETURNS SETOF record LANGUAGE sql STABLE SECURITY DEFINER ROWS 200
SET search_path = pg_catalog, pg_temp AS $$
  SELECT a.id, a.mission_id, a.iteration_id, a.table_name, a.record_id, a.status, a.reason, a.ts
    FROM mana_ai.decrypt_audit a
   WHERE a.user_id = nullif(current_setting('app.current_user_id', true), '')
     AND ($1 IS NULL OR a.mission_id = $1)
   ORDER BY a.id DESC
   LIMIT greatest(1, least(coalesce($2, 200), 1000))
$$;
COMMENT ON FUNCTION mana_ai.read_decrypt_audit(text, int) IS
  'what was decrypted for the user of app.current_user_id, newest first';

-- Resolvers of operators for modules that we have none for. The function is named by its signature, as
-- text: a column of type regprocedure would not survive pg_upgrade.
CREATE TABLE mana_ai.resolvers (
  module         text        PRIMARY KEY,
  resolver       text        NOT NULL,
  registered_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
  failures       bigint      NOT NULL DEFAULT 0,
  last_failure   text,
  last_failed_at timestamptz
);
COMMENT ON TABLE mana_ai.resolvers IS
  'functions that turn references of a module into inputs; see mana_ai.register_resolver()';
COMMENT ON COLUMN mana_ai.resolvers.last_failure IS
  'SQLSTATE or reason of the last call that failed; never what the function said, which may quote users';

-- With its caller's rights: who is granted these registers functions of their own, and superusers any.
CREATE FUNCTION mana_ai.register_resolver(module text, resolver regprocedure)
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'mana_ai_register_resolver';
COMMENT ON FUNCTION mana_ai.register_resolver(text, regprocedure) IS
  'has inputs of a module read by a function (user_id text, ref jsonb) returns jsonb {title, content}';

CREATE FUNCTION mana_ai.unregister_resolver(module text)
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'mana_ai_unregister_resolver';
COMMENT ON FUNCTION mana_ai.unregister_resolver(text) IS
  'forgets the resolver of a module; its inputs are dropped from then on';

-- With the sequence: ids that begin anew after a restore would collide.
SELECT pg_catalog.pg_extension_config_dump('mana_ai.decrypt_audit', '');
SELECT pg_catalog.pg_extension_config_dump('mana_ai.decrypt_audit_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('mana_ai.resolvers', '');

-- metrics.sql

-- What is counted (docs/contract/interface.md, Metrics). SECURITY DEFINER: some gauges are looked up in
-- our tables, which those who watch may not read.
CREATE FUNCTION mana_ai.metrics()
RETURNS text LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'mana_ai_metrics_text';
COMMENT ON FUNCTION mana_ai.metrics() IS 'all metrics in Prometheus'' text format, version 0.0.4';

CREATE FUNCTION mana_ai.metric_samples(OUT name text, OUT labels jsonb, OUT value float8)
RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER ROWS 300
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'mana_ai_metric_samples';
COMMENT ON FUNCTION mana_ai.metric_samples() IS 'what the view mana_ai.metrics shows';

CREATE VIEW mana_ai.metrics AS SELECT s.name, s.labels, s.value FROM mana_ai.metric_samples() s;
COMMENT ON VIEW mana_ai.metrics IS 'all metrics as rows: the same numbers as mana_ai.metrics() returns';

-- http.sql

-- What the HTTP endpoint answers (docs/contract/interface.md, HTTP endpoints). Only the endpoint's
-- own process calls these, as the extension's owner.

-- A text of a record, fit to be shown: null when it was encrypted on the user's device, empty when there is
-- none or the record is gone.
CREATE FUNCTION mana_ai.readable_text(record jsonb, field text)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE WHEN record ->> field LIKE 'enc:1:%' THEN NULL
              ELSE left(coalesce(record ->> field, ''), 200) END
$$;

-- Research under way; empty while there is no table of it.
CREATE FUNCTION mana_ai.research_under_way()
RETURNS jsonb LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  jobs jsonb;
BEGIN
  IF to_regclass('mana_ai.mission_research_jobs') IS NULL THEN
    RETURN '[]';
  END IF;
  EXECUTE $query$
    SELECT coalesce(jsonb_agg(jsonb_build_object(
             'userId', j.user_id, 'missionId', j.mission_id,
             'title', mana_ai.readable_text(m.record, 'title'),
             'provider', j.provider_id, 'submittedAt', j.submitted_at,
             'lastPolledAt', j.last_polled_at) ORDER BY j.submitted_at), '[]')
      FROM (SELECT * FROM mana_ai.mission_research_jobs ORDER BY submitted_at LIMIT 50) j
      LEFT JOIN mana_ai.mission_snapshots m USING (user_id, mission_id)
  $query$ INTO jobs;
  RETURN jobs;
END $$;

-- Everything that the page shows. Null stands for a title or a name that is encrypted; what was
-- decrypted for a run is nowhere in here.
CREATE FUNCTION mana_ai.http_status()
RETURNS jsonb LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
WITH
running AS (
  SELECT r.* FROM mana_ai.runs r WHERE r.outcome = 'running' ORDER BY r.started_at LIMIT 50),
due AS (
  SELECT s.user_id, s.mission_id, s.agent_id, s.wake_at, s.due_at
    FROM mana_ai.mission_schedule s
   WHERE s.wake_at IS NOT NULL AND s.lease_owner IS NULL
   ORDER BY s.wake_at LIMIT 20),
last_runs AS (
  SELECT r.* FROM mana_ai.runs r WHERE r.outcome <> 'running' ORDER BY r.started_at DESC LIMIT 30),
spent AS (
  SELECT u.user_id, u.agent_id, sum(u.tokens_used)::bigint AS tokens
    FROM mana_ai.token_usage u
   WHERE u.ts > clock_timestamp() - interval '24 hours' AND u.agent_id IS NOT NULL
   GROUP BY u.user_id, u.agent_id),
-- Those who spent the most, some more than are shown since some are archived or gone; then the newest.
spenders AS (SELECT * FROM spent ORDER BY tokens DESC LIMIT 100),
newest AS (
  SELECT a.user_id, a.agent_id, 0::bigint AS tokens FROM mana_ai.agent_snapshots a
   WHERE a.record ->> 'state' IS DISTINCT FROM 'archived'
   ORDER BY a.updated_at DESC LIMIT 50),
agents AS (
  SELECT a.user_id, a.agent_id, a.record, c.tokens,
         -- A number of JSON may have thousands of digits.
         CASE WHEN jsonb_typeof(a.record -> 'maxTokensPerDay') = 'number'
              THEN trim_scale(trunc(least(greatest((a.record ->> 'maxTokensPerDay')::numeric, -1e18), 1e18), 3))
          END AS budget
    FROM (SELECT user_id, agent_id, max(tokens) AS tokens
            FROM (TABLE spenders UNION ALL TABLE newest) u GROUP BY user_id, agent_id) c
    JOIN mana_ai.agent_snapshots a USING (user_id, agent_id)
   WHERE a.record ->> 'state' IS DISTINCT FROM 'archived'
   ORDER BY c.tokens DESC, a.updated_at DESC LIMIT 50),
-- Reading every record for its problems takes seconds where there are many. A problem that stops a mission
-- shows in its schedule, and only such missions are looked at here; the view has them all.
suspects AS (
  (SELECT s.user_id, s.mission_id FROM mana_ai.mission_schedule s
    WHERE s.due_at IS NOT NULL AND (s.attempts > 0 OR s.decision IN (
            'skipped-encrypted', 'skipped-unreviewed', 'skipped-agent-missing'))
    ORDER BY s.decided_at DESC NULLS LAST LIMIT 100)
  UNION
  (SELECT s.user_id, s.mission_id FROM mana_ai.mission_schedule s
    WHERE s.due_at IS NULL ORDER BY s.decided_at DESC NULLS LAST LIMIT 100)
  UNION
  (SELECT d.user_id, d.record_id FROM mana_ai.dirty_records d
    WHERE d.table_name = 'aiMissions' LIMIT 100)),
problems AS (
  SELECT p.*
    FROM suspects x
   CROSS JOIN LATERAL (SELECT v.* FROM mana_ai.mission_problems v
                        WHERE v.user_id = x.user_id AND v.mission_id = x.mission_id
                       OFFSET 0) p  -- one suspect after the other
   ORDER BY p.since DESC NULLS LAST LIMIT 50)
SELECT jsonb_build_object(
  'now', clock_timestamp(),
  'database', current_database(),
  'worker', (SELECT to_jsonb(w) FROM (
      SELECT s.library_version AS version, s.worker_state AS state, s.worker_since AS since,
             s.worker_problem AS problem, s.last_tick_at AS "lastTickAt",
             s.due_mission_count AS "lastTickDue", s.plans_written_back AS "lastTickPlans",
             s.next_due AS "nextDue", s.dirty_records AS "dirtyRecords",
             s.trigger_errors AS "triggerErrors", s.in_flight AS "inFlight"
        FROM mana_ai.status() s) w),
  'running', (SELECT coalesce(jsonb_agg(jsonb_build_object(
      'userId', r.user_id, 'missionId', r.mission_id,
      'title', mana_ai.readable_text(m.record, 'title'),
      'agent', mana_ai.readable_text(a.record, 'name'), 'agentId', r.agent_id,
      'startedAt', r.started_at, 'tokens', r.total_tokens) ORDER BY r.started_at), '[]')
      FROM running r LEFT JOIN mana_ai.mission_snapshots m USING (user_id, mission_id)
      LEFT JOIN mana_ai.agent_snapshots a ON a.user_id = r.user_id AND a.agent_id = r.agent_id),
  'due', (SELECT coalesce(jsonb_agg(jsonb_build_object(
      'userId', d.user_id, 'missionId', d.mission_id,
      'title', mana_ai.readable_text(m.record, 'title'),
      'agent', mana_ai.readable_text(a.record, 'name'), 'agentId', d.agent_id,
      'at', d.wake_at, 'why', left(mana_ai.why(d.user_id, d.mission_id), 500)) ORDER BY d.wake_at), '[]')
      FROM due d LEFT JOIN mana_ai.mission_snapshots m USING (user_id, mission_id)
      LEFT JOIN mana_ai.agent_snapshots a ON a.user_id = d.user_id AND a.agent_id = d.agent_id),
  'runs', (SELECT coalesce(jsonb_agg(jsonb_build_object(
      'userId', r.user_id, 'missionId', r.mission_id,
      'title', mana_ai.readable_text(m.record, 'title'),
      'agent', mana_ai.readable_text(a.record, 'name'), 'agentId', r.agent_id,
      'startedAt', r.started_at, 'finishedAt', r.finished_at, 'outcome', r.outcome,
      'decision', r.decision, 'errorKind', r.error_kind, 'rounds', r.rounds, 'steps', r.steps,
      'promptTokens', r.prompt_tokens, 'completionTokens', r.completion_tokens,
      'tokens', r.total_tokens, 'model', r.model) ORDER BY r.started_at DESC), '[]')
      FROM last_runs r LEFT JOIN mana_ai.mission_snapshots m USING (user_id, mission_id)
      LEFT JOIN mana_ai.agent_snapshots a ON a.user_id = r.user_id AND a.agent_id = r.agent_id),
  'agents', (SELECT coalesce(jsonb_agg(jsonb_build_object(
      'userId', a.user_id, 'agentId', a.agent_id,
      'name', mana_ai.readable_text(a.record, 'name'), 'state', mana_ai.readable_text(a.record, 'state'),
      'tokens', a.tokens, 'budget', a.budget) ORDER BY a.tokens DESC), '[]') FROM agents a),
  'research', mana_ai.research_under_way(),
  'problems', (SELECT coalesce(jsonb_agg(jsonb_build_object(
      'userId', p.user_id, 'missionId', p.mission_id,
      'title', mana_ai.readable_text(m.record, 'title'), 'problem', left(p.problem, 500),
      'since', p.since, 'why', left(mana_ai.why(p.user_id, p.mission_id), 500))
      ORDER BY p.since DESC, p.mission_id, p.problem), '[]')
      FROM problems p LEFT JOIN mana_ai.mission_snapshots m USING (user_id, mission_id)))
$$;

-- One user's rows of the audit, newest first, with the names that the workbench knows.
CREATE FUNCTION mana_ai.http_audit(of_user text, of_mission text, max_rows int)
RETURNS jsonb LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  answer jsonb;
BEGIN
  PERFORM set_config('app.current_user_id', of_user, true);
  SELECT jsonb_build_object('rows', coalesce(jsonb_agg(jsonb_build_object(
           'id', r.id, 'missionId', r.mission_id, 'iterationId', r.iteration_id,
           'tableName', r.table_name, 'recordId', r.record_id, 'status', r.status,
           'reason', r.reason,
           'ts', to_char(r.ts AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'))
           ORDER BY r.ts DESC, r.id DESC), '[]'))
    INTO answer
    FROM mana_ai.read_decrypt_audit(of_mission, max_rows) r;
  RETURN answer;
END $$;

-- privileges.sql

-- Nothing is for everybody; pg_monitor may watch (docs/contract/interface.md).
REVOKE ALL ON SCHEMA mana_ai FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA mana_ai FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA mana_ai FROM PUBLIC;

GRANT USAGE ON SCHEMA mana_ai TO pg_monitor;
GRANT EXECUTE ON FUNCTION mana_ai.status() TO pg_monitor;
GRANT EXECUTE ON FUNCTION mana_ai.metrics(), mana_ai.metric_samples() TO pg_monitor;
GRANT SELECT ON mana_ai.metrics TO pg_monitor;
GRANT SELECT ON mana_ai.runs TO pg_monitor;

-- attach_at_create.sql

-- The last step of CREATE EXTENSION: attaches public.sync_changes if it is there, and says so if not.
CREATE FUNCTION mana_ai.attach_at_create()
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'mana_ai_attach_at_create';
SELECT mana_ai.attach_at_create();
DROP FUNCTION mana_ai.attach_at_create();
