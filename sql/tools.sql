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
  -- An array of {name, type, required, description, enum?, items?, properties?, minimum?, maximum?,
  -- minLength?, maxLength?}: as many elements as there are well-formed ones. In lax mode a filter
  -- looks into nested arrays, type() does not.
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
                      || @.items == "boolean" || @.items == "object" || @.items == "array")))
          && (!exists(@.minimum) || (@.minimum.type() == "number"
              && (@."type" == "number" || @."type" == "integer")))
          && (!exists(@.maximum) || (@.maximum.type() == "number"
              && (@."type" == "number" || @."type" == "integer")))
          && (!exists(@.minLength) || (@."type" == "string" && @.minLength.type() == "number"
              && @.minLength >= 0 && @.minLength <= 1000000000))
          && (!exists(@.maxLength) || (@."type" == "string" && @.maxLength.type() == "number"
              && @.maxLength >= 0 && @.maxLength <= 1000000000))
          && (!exists(@.properties) || (@.properties.type() == "array"
              && (@."type" == "object"
                  || (@."type" == "array" && (!exists(@.items) || @.items == "object")))
              && !exists(@.properties[*] ? (!(@.name.type() == "string"
                                              && @."type".type() == "string"))))))'))
    ELSE false END)
);

COMMENT ON TABLE mana_ai.tools IS
  'Tools that a plan may use; add your own, change the built-in ones, or disable them';
COMMENT ON COLUMN mana_ai.tools.default_policy IS
  'propose: offered to models; auto: runs on the device only, never offered; deny: never offered';
COMMENT ON COLUMN mana_ai.tools.parameters IS
  'array of {name, type, required, description, enum?, items?, properties?, minimum?, maximum?, minLength?, maxLength?}';
COMMENT ON COLUMN mana_ai.tools.shipped IS
  'a built-in tool as the extension delivered it, null for other tools; not to be changed by hand';
COMMENT ON COLUMN mana_ai.tools.as_shipped IS
  'whether this is a built-in tool that nobody changed; all other rows are part of a dump';

INSERT INTO mana_ai.tools (name, module, default_policy, description, parameters) VALUES
  ('create_task', 'todo', 'propose',
   'Aufgabe anlegen. Für alles, was der Mensch selbst erledigen soll; eine Aufgabe je Handlung.',
   '[
    {"name": "title", "type": "string", "required": true, "description": "Kurzer Titel, der die Handlung nennt"},
    {"name": "dueDate", "type": "string", "required": false, "description": "Fälligkeit als Tag ohne Uhrzeit, JJJJ-MM-TT, z. B. 2026-04-15; weglassen, wenn offen"},
    {"name": "priority", "type": "string", "required": false, "enum": ["low", "medium", "high"], "description": "Dringlichkeit; weglassen, wenn gewöhnlich"},
    {"name": "description", "type": "string", "required": false, "description": "Einzelheiten, die nicht in den Titel passen"}
  ]'),
  ('complete_task', 'todo', 'propose',
   'Aufgabe als erledigt markieren. Nur mit einer ID, die in den Eingaben steht.',
   '[
    {"name": "taskId", "type": "string", "required": true, "description": "ID der Aufgabe"}
  ]'),
  ('complete_tasks_by_title', 'todo', 'propose',
   'Aufgaben nach Titel als erledigt markieren. Trifft jede offene Aufgabe, deren Titel den Text enthält, und scheitert, wenn es keine gibt.',
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
   'Notiz überschreiben. Ersetzt die angegebenen Felder ganz, mindestens title oder content; zum Ergänzen append_to_note verwenden.',
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
   'Notiz mit einem Schlagwort versehen. Es wird als #Schlagwort an den Text angehängt; steht es schon da, ändert sich nichts.',
   '[
    {"name": "noteId", "type": "string", "required": true, "description": "ID der Notiz"},
    {"name": "tag", "type": "string", "required": true, "description": "Schlagwort ohne #, am besten ein Wort; Leerzeichen werden zu _"}
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
    {"name": "title", "type": "string", "required": false, "description": "Überschrift, nur zur Anzeige im Plan: gespeichert wird, was unter der Adresse steht"},
    {"name": "summary", "type": "string", "required": false, "description": "Warum sich das Lesen lohnt, nur zur Anzeige im Plan"}
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
    {"name": "title", "type": "string", "required": false, "description": "Überschrift, nur zur Anzeige im Plan: gespeichert wird, was unter der Adresse steht"},
    {"name": "reason", "type": "string", "required": false, "description": "Warum sich das Lesen lohnt, ein Satz, nur zur Anzeige im Plan"}
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
    {"name": "tagName", "type": "string", "required": true, "description": "Schlagwort ohne #, höchstens 60 Zeichen"}
  ]'),
  ('add_article_highlight', 'articles', 'propose',
   'Textstelle in einem Artikel markieren. Die Stelle muss wörtlich im Artikel stehen.',
   '[
    {"name": "articleId", "type": "string", "required": true, "description": "ID des Artikels"},
    {"name": "text", "type": "string", "required": true, "minLength": 10, "maxLength": 500, "description": "Wortlaut der Stelle, 10 bis 500 Zeichen"},
    {"name": "color", "type": "string", "required": false, "enum": ["yellow", "green", "blue", "pink"], "description": "Farbe der Markierung"},
    {"name": "note", "type": "string", "required": false, "description": "Anmerkung zur Stelle"}
  ]'),
  ('research_news', 'news-research', 'propose',
   'Nachrichten recherchieren. Die Suche läuft später auf dem Gerät; ihre Ergebnisse liegen hier nicht vor und werden nicht gespeichert.',
   '[
    {"name": "query", "type": "string", "required": true, "description": "Suchbegriffe, knapp und treffend"},
    {"name": "language", "type": "string", "required": false, "description": "Sprache der Quellen: de oder en"},
    {"name": "limit", "type": "number", "required": false, "description": "Höchstzahl der Artikel, 1 bis 50; ohne Angabe 15"}
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
    {"name": "icon", "type": "string", "required": true, "description": "Name eines Symbols, kein Emoji (das bliebe unsichtbar), z. B. star, heart, barbell, bicycle, person-simple-run, person-simple-walk, person-simple-tai-chi, coffee, drop, fork-knife, pill, bed, shower, book-open, brain, pencil-simple, notebook, music-note, palette, camera, leaf, sun, moon, clock, timer, target, flag, check-square"},
    {"name": "color", "type": "string", "required": true, "description": "Farbe als Hexwert, z. B. #22c55e"}
  ]'),
  ('log_habit', 'habits', 'propose',
   'Gewohnheit abhaken. Gilt für den Zeitpunkt der Ausführung; nur mit einer ID, die in den Eingaben steht.',
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
   'Ziel anlegen. Entweder aus einer Vorlage, dann nur templateId, oder frei: dann sind title und eventType nötig, dazu targetValue und period.',
   '[
    {"name": "templateId", "type": "string", "required": false, "description": "Eine dieser Vorlagen; alles andere gilt dann nicht: tpl-water-daily (8 Gläser Wasser am Tag), tpl-tasks-daily (5 Aufgaben am Tag), tpl-meals-daily (3 Mahlzeiten am Tag erfassen), tpl-calories-daily (höchstens 2000 kcal am Tag), tpl-places-weekly (3 Orte in der Woche), tpl-coffee-limit (höchstens 3 Kaffee am Tag)"},
    {"name": "title", "type": "string", "required": false, "description": "Name des Ziels; ohne Vorlage nötig"},
    {"name": "description", "type": "string", "required": false, "description": "Worum es geht und warum"},
    {"name": "targetValue", "type": "number", "required": false, "description": "Zielwert je Zeitraum, größer als 0; ohne Angabe 1"},
    {"name": "period", "type": "string", "required": false, "enum": ["day", "week", "month"], "description": "Zeitraum, in dem gezählt wird; ohne Angabe day"},
    {"name": "comparison", "type": "string", "required": false, "enum": ["gte", "lte"], "description": "gte: mindestens den Zielwert erreichen; lte: höchstens; ohne Angabe gte"},
    {"name": "eventType", "type": "string", "required": false, "description": "Ereignis, das gezählt wird; ohne Vorlage nötig. Eines von: TaskCompleted, DrinkLogged, MealLogged, HabitLogged, WorkoutFinished, MeditationCompleted, SleepLogged, JournalEntryCreated, NoteCreated, PlaceVisited, TimerStopped, LibraryEntryCompleted"},
    {"name": "moduleId", "type": "string", "required": false, "description": "Modul, zu dem das Ziel gehört, z. B. todo, drink, food, body, habits; ohne Angabe general"}
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
    {"name": "level", "type": "number", "required": true, "description": "Befinden als ganze Zahl von 1 (sehr schlecht) bis 10 (sehr gut)"},
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
    {"name": "amount", "type": "number", "required": true, "description": "Betrag in Euro, größer als 0, ohne Vorzeichen"},
    {"name": "description", "type": "string", "required": true, "description": "Wofür, in wenigen Worten"},
    {"name": "date", "type": "string", "required": false, "description": "Buchungstag, JJJJ-MM-TT; ohne Angabe heute"}
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
   'Laufende Zeiterfassung beenden. Speichert die gemessene Zeit und scheitert, wenn keine läuft.',
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
   'Gefundene Veranstaltung übernehmen. Legt sie unter den eigenen Veranstaltungen an; nur eine, deren ID in den Eingaben steht.',
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
   'Quiz ändern. Nur die angegebenen Felder ändern sich, mindestens eines.',
   '[
    {"name": "quizId", "type": "string", "required": true, "description": "ID des Quiz"},
    {"name": "title", "type": "string", "required": false, "description": "Neuer Titel, nicht leer"},
    {"name": "description", "type": "string", "required": false, "description": "Neue Beschreibung; leerer Text löscht sie"},
    {"name": "category", "type": "string", "required": false, "description": "Neues Themengebiet; leerer Text löscht es"},
    {"name": "isPinned", "type": "boolean", "required": false, "description": "true heftet das Quiz an, false löst es"},
    {"name": "isArchived", "type": "boolean", "required": false, "description": "true archiviert das Quiz, false holt es zurück"}
  ]'),
  ('add_quiz_question', 'quiz', 'propose',
   'Quizfrage hinzufügen. Eine Frage je Aufruf, zu einem Quiz, das es schon gibt.',
   '[
    {"name": "quizId", "type": "string", "required": true, "description": "ID des Quiz"},
    {"name": "type", "type": "string", "required": true, "enum": ["single", "multi", "truefalse", "text"], "description": "single: eine richtige Antwort; multi: mehrere; truefalse: wahr oder falsch; text: freie Eingabe"},
    {"name": "questionText", "type": "string", "required": true, "description": "Wortlaut der Frage"},
    {"name": "optionsJson", "type": "string", "required": true, "description": "Antworten als Text, je nach type: bei single und multi ein JSON-Array mit mindestens zwei Objekten wie {\"text\": \"Bern\", \"correct\": true}, bei single genau eines mit correct true, bei multi mindestens eines; bei truefalse nur das Wort true oder false; bei text die erwartete Antwort als Klartext"},
    {"name": "explanation", "type": "string", "required": false, "description": "Erklärung, die nach der Antwort erscheint"}
  ]'),
  ('update_quiz_question', 'quiz', 'propose',
   'Quizfrage ändern. Nur die angegebenen Felder ändern sich, mindestens eines.',
   '[
    {"name": "questionId", "type": "string", "required": true, "description": "ID der Frage"},
    {"name": "questionText", "type": "string", "required": false, "description": "Neuer Wortlaut, nicht leer"},
    {"name": "type", "type": "string", "required": false, "enum": ["single", "multi", "truefalse", "text"], "description": "Neue Art, nur zusammen mit optionsJson; single: eine richtige Antwort; multi: mehrere; truefalse: wahr oder falsch; text: freie Eingabe"},
    {"name": "optionsJson", "type": "string", "required": false, "description": "Alle Antworten neu, als Text, je nach type: bei single und multi ein JSON-Array mit mindestens zwei Objekten wie {\"text\": \"Bern\", \"correct\": true}, bei single genau eines mit correct true, bei multi mindestens eines; bei truefalse nur das Wort true oder false; bei text die erwartete Antwort als Klartext"},
    {"name": "explanation", "type": "string", "required": false, "description": "Neue Erklärung; leerer Text löscht sie"}
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
   'Rechnung entwerfen. Sie wird nicht verschickt; ihre Nummer bekommt sie von selbst.',
   '[
    {"name": "clientName", "type": "string", "required": true, "description": "Name der Kundschaft"},
    {"name": "clientEmail", "type": "string", "required": false, "description": "E-Mail-Adresse der Kundschaft"},
    {"name": "clientAddress", "type": "string", "required": false, "description": "Anschrift, Zeilen durch Umbruch getrennt"},
    {"name": "subject", "type": "string", "required": false, "description": "Betreff"},
    {"name": "currency", "type": "string", "required": false, "enum": ["CHF", "EUR", "USD"], "description": "Währung; ohne Angabe CHF"},
    {"name": "dueDate", "type": "string", "required": false, "description": "Zahlbar bis, JJJJ-MM-TT; ohne Angabe nach der eingestellten Frist, gewöhnlich 30 Tage"},
    {"name": "lines", "type": "array", "required": true, "properties": [{"name": "title", "type": "string", "required": true}, {"name": "quantity", "type": "number", "required": true}, {"name": "unitPrice", "type": "number", "required": true}, {"name": "unit", "type": "string"}, {"name": "vatRate", "type": "number"}, {"name": "description", "type": "string"}, {"name": "discount", "type": "number"}], "description": "Posten, mindestens einer, je ein Objekt {title, quantity, unitPrice, unit?, vatRate?, description?, discount?}. quantity und unitPrice sind Zahlen, unitPrice in ganzer Währung (150 heißt 150,00); unit z. B. Stunden; vatRate in Prozent, ohne Angabe 8.1 (Schweiz), in Deutschland meist 19. Posten ohne title, quantity oder unitPrice fallen weg"}
  ]'),
  ('mark_invoice_paid', 'invoices', 'propose',
   'Rechnung als bezahlt markieren. Nur, wenn die Zahlung belegt ist; wirkt nur bei verschickten und überfälligen Rechnungen, nicht bei Entwürfen.',
   '[
    {"name": "invoiceId", "type": "string", "required": true, "description": "ID der Rechnung"},
    {"name": "paidAt", "type": "string", "required": false, "description": "Tag der Zahlung, JJJJ-MM-TT; ohne Angabe heute"}
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
    {"name": "status", "type": "string", "required": false, "enum": ["planned", "active", "completed", "paused", "dropped"], "description": "planned: vorgemerkt; active: angefangen; completed: beendet; paused: unterbrochen; dropped: abgebrochen; ohne Angabe planned"},
    {"name": "rating", "type": "number", "required": false, "minimum": 1, "maximum": 5, "description": "Bewertung von 1 bis 5; weglassen, wenn keine bekannt ist"},
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
    {"name": "rating", "type": "number", "required": true, "minimum": 1, "maximum": 5, "description": "Bewertung von 1 bis 5"}
  ]'),
  ('list_library_entries', 'library', 'auto',
   'Bibliothek auflisten. Liefert Titel, Art, Status, Bewertung und ID.',
   '[
    {"name": "kind", "type": "string", "required": false, "enum": ["book", "movie", "series", "comic"], "description": "Nur diese Art"},
    {"name": "status", "type": "string", "required": false, "enum": ["planned", "active", "completed", "paused", "dropped"], "description": "Nur dieser Status"},
    {"name": "limit", "type": "number", "required": false, "description": "Höchstzahl der Einträge"}
  ]'),
  ('create_campaign_draft', 'broadcast', 'propose',
   'Newsletter entwerfen. Er wird nicht verschickt; die Empfänger wählt der Mensch.',
   '[
    {"name": "name", "type": "string", "required": true, "description": "Interner Name"},
    {"name": "subject", "type": "string", "required": true, "description": "Betreffzeile, am besten unter 60 Zeichen"},
    {"name": "preheader", "type": "string", "required": false, "description": "Vorschautext nach dem Betreff, ein Satz"},
    {"name": "htmlContent", "type": "string", "required": true, "description": "Inhalt als HTML, nur mit p, h1, h2, h3, ul, ol, li, a, strong, em und br"}
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
   'Website anlegen. Mit leerer Startseite und nicht öffentlich; mit Inhalt beginnt apply_website_template. Ihre ID gibt es erst nach der Ausführung.',
   '[
    {"name": "name", "type": "string", "required": true, "description": "Name der Website"},
    {"name": "slug", "type": "string", "required": true, "maxLength": 40, "description": "Kurzname für die Adresse, 2 bis 40 Zeichen: Kleinbuchstaben, Ziffern und Bindestriche, am Anfang und Ende kein Bindestrich, noch nicht vergeben. Nicht erlaubt: app, api, auth, admin, settings, docs, blog, www, mail, dashboard, login, logout, register, signup, signin, account, billing, help, support, s"}
  ]'),
  ('apply_website_template', 'website', 'propose',
   'Website aus einer Vorlage anlegen. Nicht öffentlich, bis publish_website ausgeführt ist.',
   '[
    {"name": "templateId", "type": "string", "required": true, "enum": ["portfolio", "personal-linktree", "event", "blank"], "description": "Vorlage; blank ist die leere"},
    {"name": "name", "type": "string", "required": true, "description": "Name der Website"},
    {"name": "slug", "type": "string", "required": true, "maxLength": 40, "description": "Kurzname für die Adresse, 2 bis 40 Zeichen: Kleinbuchstaben, Ziffern und Bindestriche, am Anfang und Ende kein Bindestrich, noch nicht vergeben. Nicht erlaubt: app, api, auth, admin, settings, docs, blog, www, mail, dashboard, login, logout, register, signup, signin, account, billing, help, support, s"}
  ]'),
  ('create_website_page', 'website', 'propose',
   'Seite zu einer Website hinzufügen. Die Website muss es schon geben.',
   '[
    {"name": "siteId", "type": "string", "required": true, "description": "ID der Website"},
    {"name": "path", "type": "string", "required": true, "description": "Pfad, beginnt mit /, Teile aus Kleinbuchstaben, Ziffern und Bindestrichen, z. B. /kontakt oder /team/anna; / ist die Startseite, die es schon gibt"},
    {"name": "title", "type": "string", "required": true, "description": "Titel der Seite"}
  ]'),
  ('add_website_block', 'website', 'propose',
   'Block auf einer Website-Seite einfügen. Er kommt ans Ende der Seite oder des Fachs.',
   '[
    {"name": "pageId", "type": "string", "required": true, "description": "ID der Seite"},
    {"name": "type", "type": "string", "required": true, "enum": ["hero", "richText", "cta", "image", "gallery", "faq", "form", "moduleEmbed", "columns", "spacer"], "description": "Art des Blocks"},
    {"name": "props", "type": "object", "required": false, "properties": [{"name": "title", "type": "string"}, {"name": "subtitle", "type": "string"}, {"name": "eyebrow", "type": "string"}, {"name": "ctaLabel", "type": "string"}, {"name": "ctaHref", "type": "string"}, {"name": "content", "type": "string"}, {"name": "description", "type": "string"}, {"name": "buttonLabel", "type": "string"}, {"name": "buttonHref", "type": "string"}, {"name": "url", "type": "string"}, {"name": "altText", "type": "string"}, {"name": "caption", "type": "string"}, {"name": "images", "type": "array", "properties": [{"name": "url", "type": "string"}, {"name": "altText", "type": "string"}, {"name": "caption", "type": "string"}]}, {"name": "items", "type": "array", "properties": [{"name": "question", "type": "string"}, {"name": "answer", "type": "string"}]}, {"name": "fields", "type": "array", "properties": [{"name": "name", "type": "string"}, {"name": "label", "type": "string"}, {"name": "type", "type": "string"}, {"name": "required", "type": "boolean"}]}, {"name": "submitLabel", "type": "string"}, {"name": "source", "type": "string"}, {"name": "sourceId", "type": "string"}, {"name": "layout", "type": "string"}, {"name": "maxItems", "type": "number"}, {"name": "count", "type": "number"}, {"name": "size", "type": "string"}], "description": "Eigenschaften je nach type; ohne Angabe gilt ein Beispielinhalt, unbekannte fallen weg. hero: title (Pflicht, bis 240 Zeichen), subtitle, eyebrow, ctaLabel, ctaHref. richText: content (Klartext bis 10000 Zeichen, Absätze durch Leerzeilen getrennt, kein Markdown). cta: title, description, buttonLabel, buttonHref. image: url, altText, caption. gallery: title, images als [{url, altText, caption}]. faq: title, items als [{question, answer}]. form: title, description, fields als [{name, label, type, required}], mindestens eines, name aus Buchstaben, Ziffern und _, type text, email, tel, url, textarea oder number; submitLabel. moduleEmbed: source picture.board oder library.entries, sourceId, title, layout grid oder list, maxItems 1 bis 48. columns: count 2 oder 3. spacer: size sm, md, lg oder xl"},
    {"name": "parentBlockId", "type": "string", "required": false, "description": "ID des umgebenden Blocks, z. B. eines columns-Blocks"},
    {"name": "slotKey", "type": "string", "required": false, "description": "Fach im umgebenden Block, nur mit parentBlockId; in columns col-0, col-1 oder col-2"}
  ]'),
  ('update_website_block', 'website', 'propose',
   'Block einer Website ändern. Nur die angegebenen Eigenschaften ändern sich.',
   '[
    {"name": "blockId", "type": "string", "required": true, "description": "ID des Blocks"},
    {"name": "patch", "type": "object", "required": true, "properties": [{"name": "title", "type": "string"}, {"name": "subtitle", "type": "string"}, {"name": "eyebrow", "type": "string"}, {"name": "ctaLabel", "type": "string"}, {"name": "ctaHref", "type": "string"}, {"name": "content", "type": "string"}, {"name": "description", "type": "string"}, {"name": "buttonLabel", "type": "string"}, {"name": "buttonHref", "type": "string"}, {"name": "url", "type": "string"}, {"name": "altText", "type": "string"}, {"name": "caption", "type": "string"}, {"name": "images", "type": "array", "properties": [{"name": "url", "type": "string"}, {"name": "altText", "type": "string"}, {"name": "caption", "type": "string"}]}, {"name": "items", "type": "array", "properties": [{"name": "question", "type": "string"}, {"name": "answer", "type": "string"}]}, {"name": "fields", "type": "array", "properties": [{"name": "name", "type": "string"}, {"name": "label", "type": "string"}, {"name": "type", "type": "string"}, {"name": "required", "type": "boolean"}]}, {"name": "submitLabel", "type": "string"}, {"name": "source", "type": "string"}, {"name": "sourceId", "type": "string"}, {"name": "layout", "type": "string"}, {"name": "maxItems", "type": "number"}, {"name": "count", "type": "number"}, {"name": "size", "type": "string"}], "description": "Geänderte Eigenschaften als Objekt, mindestens eine; welche es je Art gibt, steht bei add_website_block. Listen wie items ersetzen die bisherigen ganz"}
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

-- Whether the bounds and properties of a parameter are what the worker takes: of the right type, and
-- properties {name, type, ...} in their turn, each name once, four levels deep at the most.
CREATE FUNCTION mana_ai.bounds_fit(parameter jsonb, depth int DEFAULT 1)
RETURNS boolean LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  types    text[] := '{string,number,integer,boolean,object,array}';
  of_type  text := parameter->>'type';
  property jsonb;
BEGIN
  IF EXISTS (SELECT FROM jsonb_each(parameter) AS m
              WHERE m.key IN ('minimum', 'maximum', 'minLength', 'maxLength')
                AND (jsonb_typeof(m.value) <> 'number'
                     OR CASE WHEN m.key IN ('minimum', 'maximum') THEN of_type NOT IN ('number', 'integer')
                             ELSE of_type <> 'string' END)) THEN
    RETURN false;
  ELSIF EXISTS (SELECT FROM jsonb_each(parameter) AS m
                 WHERE m.key IN ('minLength', 'maxLength')
                   AND m.value::numeric NOT BETWEEN 0 AND 1000000000) THEN
    RETURN false;
  ELSIF NOT parameter ? 'properties' THEN
    RETURN true;
  ELSIF jsonb_typeof(parameter->'properties') <> 'array' OR depth >= 4
        OR NOT (of_type = 'object'
                OR of_type = 'array' AND coalesce(parameter->>'items', 'object') = 'object') THEN
    RETURN false;
  END IF;
  FOR property IN SELECT p FROM jsonb_array_elements(parameter->'properties') AS p LOOP
    IF jsonb_typeof(property) <> 'object'
       OR coalesce(jsonb_typeof(property->'name') <> 'string' OR property->>'name' !~ '^[A-Za-z0-9_-]{1,64}$', true)
       OR coalesce(jsonb_typeof(property->'type') <> 'string' OR property->>'type' <> ALL (types), true)
       OR jsonb_typeof(property->'required') <> 'boolean'
       OR property ? 'enum' AND (property->>'type' <> 'string' OR jsonb_typeof(property->'enum') <> 'array'
                                 OR property->'enum' = '[]' OR property @? 'strict $.enum[*].type() ? (@ != "string")')
       OR property ? 'items' AND (property->>'type' <> 'array' OR coalesce(property->>'items' <> ALL (types), true))
       OR NOT mana_ai.bounds_fit(property, depth + 1) THEN
      RETURN false;
    END IF;
  END LOOP;
  RETURN NOT EXISTS (SELECT FROM jsonb_array_elements(parameter->'properties') AS p
                      GROUP BY p->'name' HAVING count(*) > 1);
END
$$;
REVOKE ALL ON FUNCTION mana_ai.bounds_fit(jsonb, int) FROM PUBLIC;

CREATE FUNCTION mana_ai.keep_tool_changes() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  misfits text[];
BEGIN
  IF TG_OP <> 'DELETE' THEN
    -- The table's CHECK refuses everything that is no array of objects, but cannot see this.
    IF jsonb_typeof(NEW.parameters) = 'array'
       AND EXISTS (SELECT FROM jsonb_array_elements(NEW.parameters) AS parameter
                    GROUP BY parameter->'name' HAVING count(*) > 1) THEN
      RAISE check_violation USING
        MESSAGE = format('tool "%s" has two parameters of the same name', NEW.name);
    END IF;
    -- Nor all of this.
    misfits := ARRAY(SELECT p.parameter->>'name'
                       FROM jsonb_array_elements(CASE WHEN jsonb_typeof(NEW.parameters) = 'array'
                                                      THEN NEW.parameters ELSE '[]' END)
                            WITH ORDINALITY AS p(parameter, n)
                      WHERE CASE WHEN jsonb_typeof(p.parameter) = 'object'
                                 THEN NOT mana_ai.bounds_fit(p.parameter) END
                      ORDER BY p.n);
    IF misfits <> '{}' AND TG_OP = 'UPDATE' THEN
      RAISE check_violation USING
        MESSAGE = format('bounds or properties of parameter "%s" of tool "%s" do not fit', misfits[1], NEW.name),
        CONSTRAINT = 'tools_parameters_check';
    ELSIF misfits <> '{}' THEN
      -- In a dump of version 0.1.0 they may have any shape: there they meant nothing.
      RAISE WARNING 'bounds and properties of parameters of tool "%" are left out, since they do not fit', NEW.name
        USING DETAIL = format('Parameters: %s.', array_to_string(misfits, ', '));
      NEW.parameters := (
        SELECT jsonb_agg(CASE WHEN p.parameter->>'name' = ANY (misfits)
                              THEN p.parameter - '{minimum,maximum,minLength,maxLength,properties}'::text[]
                              ELSE p.parameter END ORDER BY p.n)
          FROM jsonb_array_elements(NEW.parameters) WITH ORDINALITY AS p(parameter, n));
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

-- Each server has tools of its own: see drop_replicated_row().
CREATE TRIGGER mana_ai_drop_replicated
  BEFORE INSERT OR DELETE OR UPDATE ON mana_ai.tools
  FOR EACH ROW EXECUTE FUNCTION mana_ai.drop_replicated_row();
ALTER TABLE mana_ai.tools ENABLE REPLICA TRIGGER mana_ai_drop_replicated;

SELECT pg_catalog.pg_extension_config_dump('mana_ai.tools', 'WHERE NOT as_shipped');

-- ---------------------------------------------------------------- catalogs of other clients
-- Clients of different age carry out different tools: what one does not know fails there as a step.
-- mana_ai.tools holds those of one catalog, '2026-04' unless another has been chosen; here are all.
CREATE TABLE mana_ai.tool_catalogs (
  name           text   NOT NULL,
  catalogs       text[] NOT NULL,
  module         text   NOT NULL,
  description    text   NOT NULL,
  default_policy text   NOT NULL,
  parameters     jsonb  NOT NULL,
  PRIMARY KEY (name, catalogs)
);
COMMENT ON TABLE mana_ai.tool_catalogs IS
  'the built-in tools of all catalogs that mana_ai.set_tool_catalog() knows; not to be changed';

-- No row: '2026-04'.
CREATE TABLE mana_ai.chosen_tool_catalog (
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
  catalog  text NOT NULL
);
COMMENT ON TABLE mana_ai.chosen_tool_catalog IS
  'the catalog that mana_ai.set_tool_catalog() has chosen; empty: 2026-04';

INSERT INTO mana_ai.tool_catalogs (name, catalogs, module, description, default_policy, parameters)
SELECT t.name,
       -- The newest client does not have these modules and tools any more, though its catalog
       -- still names some of them; create_goal counts other events there.
       CASE WHEN t.name IN ('create_place', 'visit_place', 'save_news_article', 'save_article',
                            'archive_article', 'tag_article', 'add_article_highlight',
                            'log_meal', 'nutrition_summary', 'create_goal')
            THEN '{2026-04}' ELSE '{2026-04,2026-05}' END::text[],
       t.shipped->>'module', t.shipped->>'description', t.shipped->>'default_policy',
       t.shipped->'parameters'
  FROM mana_ai.tools t WHERE t.shipped IS NOT NULL;

INSERT INTO mana_ai.tool_catalogs (name, catalogs, module, default_policy, description, parameters)
SELECT v.name, '{2026-05}', v.module, v.default_policy, v.description, v.parameters::jsonb
  FROM (VALUES
  ('create_goal', 'goals', 'propose',
   'Ziel anlegen. Entweder aus einer Vorlage, dann nur templateId, oder frei: dann sind title und eventType nötig, dazu targetValue und period.',
   '[
    {"name": "templateId", "type": "string", "required": false, "description": "Eine dieser Vorlagen; alles andere gilt dann nicht: tpl-water-daily (8 Gläser Wasser am Tag), tpl-tasks-daily (5 Aufgaben am Tag), tpl-coffee-limit (höchstens 3 Kaffee am Tag)"},
    {"name": "title", "type": "string", "required": false, "description": "Name des Ziels; ohne Vorlage nötig"},
    {"name": "description", "type": "string", "required": false, "description": "Worum es geht und warum"},
    {"name": "targetValue", "type": "number", "required": false, "description": "Zielwert je Zeitraum, größer als 0; ohne Angabe 1"},
    {"name": "period", "type": "string", "required": false, "enum": ["day", "week", "month"], "description": "Zeitraum, in dem gezählt wird; ohne Angabe day"},
    {"name": "comparison", "type": "string", "required": false, "enum": ["gte", "lte"], "description": "gte: mindestens den Zielwert erreichen; lte: höchstens; ohne Angabe gte"},
    {"name": "eventType", "type": "string", "required": false, "description": "Ereignis, das gezählt wird; ohne Vorlage nötig. Eines von: TaskCompleted, DrinkLogged, HabitLogged, WorkoutFinished, MeditationCompleted, SleepLogged, JournalEntryCreated, NoteCreated, TimerStopped, LibraryEntryCompleted"},
    {"name": "moduleId", "type": "string", "required": false, "description": "Modul, zu dem das Ziel gehört, z. B. todo, drink, body, habits; ohne Angabe general"}
  ]'),
  ('import_articles_from_urls', 'articles', 'auto',
   'Mehrere Artikel speichern. Läuft im Hintergrund.',
   '[
    {"name": "urls", "type": "array", "required": true, "items": "string", "description": "Vollständige Adressen, höchstens 50"}
  ]'),
  ('list_drafts', 'writing', 'auto',
   'Textentwürfe auflisten. Liefert Art, Titel, Status, Länge und ID.',
   '[
    {"name": "kind", "type": "string", "required": false, "enum": ["blog", "essay", "email", "social", "story", "letter", "speech", "cover-letter", "product-description", "press-release", "bio", "other"], "description": "Nur diese Textart"},
    {"name": "status", "type": "string", "required": false, "enum": ["draft", "refining", "complete", "published"], "description": "Nur dieser Status"},
    {"name": "limit", "type": "number", "required": false, "description": "Höchstzahl der Entwürfe"}
  ]'),
  ('get_draft', 'writing', 'auto',
   'Textentwurf abrufen. Liefert Auftrag, Text, Stil und Quellen.',
   '[
    {"name": "draftId", "type": "string", "required": true, "description": "ID des Entwurfs"}
  ]'),
  ('list_writing_styles', 'writing', 'auto',
   'Schreibstile auflisten. Liefert Namen, Kurzbeschreibungen und IDs.',
   '[]'),
  ('create_draft', 'writing', 'propose',
   'Textentwurf anlegen. Nur der Auftrag, noch ohne Text; seine ID gibt es erst nach der Ausführung.',
   '[
    {"name": "kind", "type": "string", "required": true, "enum": ["blog", "essay", "email", "social", "story", "letter", "speech", "cover-letter", "product-description", "press-release", "bio", "other"], "description": "Textart"},
    {"name": "title", "type": "string", "required": true, "description": "Titel oder Arbeitstitel"},
    {"name": "topic", "type": "string", "required": true, "description": "Worum es im Text gehen soll"},
    {"name": "audience", "type": "string", "required": false, "description": "Für wen der Text ist"},
    {"name": "tone", "type": "string", "required": false, "description": "Ton, z. B. sachlich oder herzlich"},
    {"name": "language", "type": "string", "required": false, "description": "Sprache als ISO-639-1-Kürzel; ohne Angabe de"},
    {"name": "targetWords", "type": "number", "required": false, "description": "Angestrebte Länge in Wörtern"},
    {"name": "styleId", "type": "string", "required": false, "description": "ID eines Schreibstils, die in den Eingaben steht"},
    {"name": "extraInstructions", "type": "string", "required": false, "description": "Weitere Vorgaben für den Text"}
  ]'),
  ('generate_draft_content', 'writing', 'propose',
   'Text zu einem Entwurf schreiben lassen. Das Gerät lässt ihn nach dem Auftrag des Entwurfs erzeugen und legt ihn als neue Fassung an.',
   '[
    {"name": "draftId", "type": "string", "required": true, "description": "ID eines Entwurfs, den es schon gibt"}
  ]'),
  ('refine_draft_selection', 'writing', 'propose',
   'Ausschnitt eines Entwurfs überarbeiten lassen. Ändert die aktuelle Fassung; die Zeichenpositionen müssen aus den Eingaben bekannt sein.',
   '[
    {"name": "draftId", "type": "string", "required": true, "description": "ID eines Entwurfs, der schon Text hat"},
    {"name": "operation", "type": "string", "required": true, "enum": ["shorten", "expand", "tone", "rewrite", "translate"], "description": "shorten: kürzen; expand: ausbauen; tone: anderer Ton; rewrite: neu fassen; translate: übersetzen"},
    {"name": "selectionStart", "type": "number", "required": true, "minimum": 0, "description": "Erstes Zeichen des Ausschnitts, von 0 an gezählt"},
    {"name": "selectionEnd", "type": "number", "required": true, "description": "Zeichen nach dem Ausschnitt, größer als selectionStart"},
    {"name": "targetTone", "type": "string", "required": false, "description": "Gewünschter Ton, nur bei tone; ohne Angabe neutral"},
    {"name": "instruction", "type": "string", "required": false, "description": "Anweisung, bei rewrite nötig"},
    {"name": "targetLanguage", "type": "string", "required": false, "description": "Zielsprache als ISO-639-1-Kürzel, nur bei translate; ohne Angabe en"}
  ]'),
  ('set_draft_status', 'writing', 'propose',
   'Status eines Entwurfs ändern. Veröffentlicht nichts, sondern hält nur den Stand fest.',
   '[
    {"name": "draftId", "type": "string", "required": true, "description": "ID des Entwurfs"},
    {"name": "status", "type": "string", "required": true, "enum": ["draft", "refining", "complete", "published"], "description": "draft: Entwurf; refining: in Überarbeitung; complete: fertig; published: veröffentlicht"}
  ]'),
  -- In the client's own catalog, but carried out nowhere.
  ('save_draft_as_article', 'writing', 'deny',
   'Entwurf als Artikel speichern. Legt die aktuelle Fassung in der Leseliste ab.',
   '[
    {"name": "draftId", "type": "string", "required": true, "description": "ID des Entwurfs"}
  ]'),
  ('capture_sign', 'augur', 'propose',
   'Zeichen festhalten. Ein Omen, eine Weissagung oder ein Bauchgefühl, das der Mensch selbst genannt hat.',
   '[
    {"name": "kind", "type": "string", "required": true, "enum": ["omen", "fortune", "hunch"], "description": "omen: Omen; fortune: Weissagung; hunch: Bauchgefühl"},
    {"name": "source", "type": "string", "required": true, "description": "Woher es kommt, z. B. Glückskeks"},
    {"name": "claim", "type": "string", "required": true, "description": "Was es besagt"},
    {"name": "sourceCategory", "type": "string", "required": false, "enum": ["gut", "tarot", "horoscope", "fortune-cookie", "iching", "dream", "person", "media", "natural", "other"], "description": "Art der Quelle"},
    {"name": "vibe", "type": "string", "required": false, "enum": ["good", "bad", "mysterious"], "description": "Grundstimmung; ohne Angabe mysterious"},
    {"name": "feltMeaning", "type": "string", "required": false, "description": "Deutung des Menschen"},
    {"name": "expectedOutcome", "type": "string", "required": false, "description": "Was eintreten soll"},
    {"name": "expectedBy", "type": "string", "required": false, "description": "Bis wann es sich zeigt, JJJJ-MM-TT"},
    {"name": "probability", "type": "number", "required": false, "minimum": 0, "maximum": 1, "description": "Wahrscheinlichkeit von 0 bis 1"},
    {"name": "tags", "type": "string", "required": false, "description": "Schlagwörter, durch Komma getrennt"}
  ]'),
  ('resolve_sign', 'augur', 'propose',
   'Zeichen auflösen. Hält fest, ob es eingetreten ist; nur, wenn der Mensch es gesagt hat.',
   '[
    {"name": "entryId", "type": "string", "required": true, "description": "ID des Zeichens"},
    {"name": "outcome", "type": "string", "required": true, "enum": ["fulfilled", "partly", "not-fulfilled"], "description": "fulfilled: eingetreten; partly: teilweise; not-fulfilled: nicht eingetreten"},
    {"name": "note", "type": "string", "required": false, "description": "Wie es kam"}
  ]'),
  ('list_open_signs', 'augur', 'auto',
   'Offene Zeichen auflisten. Liefert Art, Quelle, Aussage und ID.',
   '[
    {"name": "kind", "type": "string", "required": false, "enum": ["omen", "fortune", "hunch"], "description": "Nur diese Art"},
    {"name": "limit", "type": "number", "required": false, "description": "Höchstzahl der Zeichen"}
  ]'),
  ('consult_oracle', 'augur', 'auto',
   'Frühere Zeichen befragen. Liefert, was bei ähnlichen Zeichen geschah.',
   '[
    {"name": "kind", "type": "string", "required": true, "enum": ["omen", "fortune", "hunch"], "description": "Art des Zeichens"},
    {"name": "sourceCategory", "type": "string", "required": true, "enum": ["gut", "tarot", "horoscope", "fortune-cookie", "iching", "dream", "person", "media", "natural", "other"], "description": "Art der Quelle"},
    {"name": "vibe", "type": "string", "required": true, "enum": ["good", "bad", "mysterious"], "description": "Grundstimmung"},
    {"name": "source", "type": "string", "required": false, "description": "Stichwort zur Quelle"},
    {"name": "claim", "type": "string", "required": false, "description": "Stichwort zur Aussage"},
    {"name": "tags", "type": "string", "required": false, "description": "Schlagwörter, durch Komma getrennt"}
  ]'),
  ('augur_year_recap', 'augur', 'auto',
   'Jahr der Zeichen zusammenfassen. Liefert Anzahl und Trefferquote.',
   '[
    {"name": "year", "type": "number", "required": false, "description": "Jahr, vierstellig; ohne Angabe das laufende"}
  ]'),
  ('create_last', 'lasts', 'propose',
   'Letztes Mal festhalten. Etwas, das der Mensch zum letzten Mal getan hat oder vermutlich getan hat.',
   '[
    {"name": "title", "type": "string", "required": true, "description": "Was zum letzten Mal geschah"},
    {"name": "category", "type": "string", "required": false, "enum": ["culinary", "adventure", "travel", "people", "career", "creative", "nature", "culture", "health", "tech", "other"], "description": "Lebensbereich"},
    {"name": "status", "type": "string", "required": false, "enum": ["suspected", "confirmed"], "description": "suspected: vermutet; confirmed: sicher, nur wenn der Mensch es gesagt hat; ohne Angabe suspected"},
    {"name": "date", "type": "string", "required": false, "description": "Tag, JJJJ-MM-TT, falls bekannt"},
    {"name": "confidence", "type": "string", "required": false, "enum": ["probably", "likely", "certain"], "description": "Wie sicher es ist; zählt nur bei suspected"},
    {"name": "meaning", "type": "string", "required": false, "description": "Was es bedeutet hat"},
    {"name": "note", "type": "string", "required": false, "description": "Anmerkung"}
  ]'),
  ('confirm_last', 'lasts', 'propose',
   'Vermutetes letztes Mal bestätigen. Nur, was der Mensch selbst gesagt hat.',
   '[
    {"name": "lastId", "type": "string", "required": true, "description": "ID des Eintrags"},
    {"name": "date", "type": "string", "required": false, "description": "Tag, JJJJ-MM-TT; ohne Angabe heute"},
    {"name": "meaning", "type": "string", "required": false, "description": "Was es bedeutet hat"},
    {"name": "whatIKnewThen", "type": "string", "required": false, "description": "Was damals nicht bekannt war"},
    {"name": "whatIKnowNow", "type": "string", "required": false, "description": "Was heute klar ist"},
    {"name": "tenderness", "type": "number", "required": false, "minimum": 1, "maximum": 5, "description": "Wie sehr es heute berührt, 1 bis 5"},
    {"name": "wouldReclaim", "type": "string", "required": false, "enum": ["no", "maybe", "yes"], "description": "Ob der Mensch es zurückholen würde"}
  ]'),
  ('reclaim_last', 'lasts', 'propose',
   'Letztes Mal aufheben. Es ist wieder geschehen; geht nur bei bestätigten Einträgen.',
   '[
    {"name": "lastId", "type": "string", "required": true, "description": "ID eines Eintrags mit Status confirmed"},
    {"name": "reclaimedNote", "type": "string", "required": false, "description": "Was wieder geschehen ist"}
  ]'),
  ('list_lasts', 'lasts', 'auto',
   'Letzte Male auflisten. Liefert Titel, Status, Tag und ID.',
   '[
    {"name": "status", "type": "string", "required": false, "enum": ["suspected", "confirmed", "reclaimed"], "description": "Nur dieser Status"},
    {"name": "category", "type": "string", "required": false, "enum": ["culinary", "adventure", "travel", "people", "career", "creative", "nature", "culture", "health", "tech", "other"], "description": "Nur dieser Lebensbereich"},
    {"name": "limit", "type": "number", "required": false, "description": "Höchstzahl der Einträge"}
  ]'),
  ('suggest_lasts', 'lasts', 'auto',
   'Letzte Male vermuten. Sucht in Orten, Gewohnheiten und Kontakten nach solchem, was seltener wurde.',
   '[]'),
  ('forms_create', 'forms', 'propose',
   'Formular anlegen. Als Entwurf, nicht öffentlich; seine ID gibt es erst nach der Ausführung, also alle Felder gleich mitgeben.',
   '[
    {"name": "title", "type": "string", "required": true, "description": "Titel des Formulars"},
    {"name": "description", "type": "string", "required": false, "description": "Text über den Feldern"},
    {"name": "fields", "type": "array", "required": false, "properties": [{"name": "type", "type": "string", "required": true, "enum": ["short_text", "long_text", "single_choice", "multi_choice", "number", "date", "email", "yes_no", "rating", "section", "consent"]}, {"name": "label", "type": "string", "required": true}, {"name": "required", "type": "boolean"}, {"name": "helpText", "type": "string"}, {"name": "options", "type": "array", "properties": [{"name": "label", "type": "string", "required": true}]}], "description": "Felder, je ein Objekt {type, label, required?, helpText?, options?}; type ist short_text, long_text, single_choice, multi_choice, number, date, email, yes_no, rating, section oder consent; options bei single_choice und multi_choice als [{label}]. Felder ohne gültigen type und label fallen weg"}
  ]'),
  ('forms_add_field', 'forms', 'propose',
   'Feld an ein Formular anhängen. Es kommt ans Ende.',
   '[
    {"name": "formId", "type": "string", "required": true, "description": "ID eines Formulars, das es schon gibt"},
    {"name": "type", "type": "string", "required": true, "enum": ["short_text", "long_text", "single_choice", "multi_choice", "number", "date", "email", "yes_no", "rating", "section", "consent"], "description": "Art des Feldes; section ist nur eine Überschrift"},
    {"name": "label", "type": "string", "required": true, "description": "Frage oder Beschriftung"},
    {"name": "helpText", "type": "string", "required": false, "description": "Hinweis unter dem Feld"},
    {"name": "required", "type": "boolean", "required": false, "description": "true, wenn das Feld ausgefüllt werden muss"},
    {"name": "options", "type": "array", "required": false, "properties": [{"name": "label", "type": "string", "required": true}], "description": "Auswahl bei single_choice und multi_choice, als [{label}]"}
  ]'),
  ('forms_publish', 'forms', 'propose',
   'Formular veröffentlichen. Braucht mindestens ein Feld, das nicht section oder consent ist.',
   '[
    {"name": "formId", "type": "string", "required": true, "description": "ID des Formulars"}
  ]'),
  ('forms_close', 'forms', 'propose',
   'Formular schließen. Nimmt keine Antworten mehr an; die bisherigen bleiben.',
   '[
    {"name": "formId", "type": "string", "required": true, "description": "ID des Formulars"}
  ]'),
  ('forms_list', 'forms', 'auto',
   'Formulare auflisten. Liefert Titel, Status, Zahl der Felder und Antworten und ID.',
   '[
    {"name": "status", "type": "string", "required": false, "enum": ["draft", "published", "closed"], "description": "Nur dieser Status"},
    {"name": "limit", "type": "number", "required": false, "description": "Höchstzahl der Formulare"}
  ]'),
  ('forms_get_responses', 'forms', 'auto',
   'Antworten eines Formulars abrufen. Liefert Häufigkeiten und Texte.',
   '[
    {"name": "formId", "type": "string", "required": true, "description": "ID des Formulars"},
    {"name": "limit", "type": "number", "required": false, "description": "Höchstzahl der Texte je Feld"}
  ]'),
  ('forms_summarize_responses', 'forms', 'auto',
   'Antworten eines Formulars sammeln. Liefert sie zum Zusammenfassen.',
   '[
    {"name": "formId", "type": "string", "required": true, "description": "ID des Formulars"},
    {"name": "sinceDays", "type": "number", "required": false, "description": "Nur die letzten so vielen Tage"}
  ]')
  ) AS v(name, module, default_policy, description, parameters);

CREATE FUNCTION mana_ai.tool_catalog()
RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce((SELECT c.catalog FROM mana_ai.chosen_tool_catalog c), '2026-04')
$$;
COMMENT ON FUNCTION mana_ai.tool_catalog() IS 'the catalog that mana_ai.tools follows';

-- Makes mana_ai.tools that of a catalog. Rows that an operator has added are left alone; so are
-- columns that an operator has changed. A changed tool that the catalog does not have stays and
-- becomes the operator's own.
CREATE FUNCTION mana_ai.apply_tool_catalog(new_catalog text)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  kept text;
  gone text[];
  come text[];
BEGIN
  WITH wanted AS (
    SELECT c.*, jsonb_build_object('module', c.module, 'description', c.description,
                                   'default_policy', c.default_policy,
                                   'parameters', c.parameters) AS shipped
      FROM mana_ai.tool_catalogs c WHERE new_catalog = ANY (c.catalogs))
  UPDATE mana_ai.tools t
     SET module = CASE WHEN t.module = t.shipped->>'module' THEN w.module ELSE t.module END,
         description = CASE WHEN t.description = t.shipped->>'description'
                            THEN w.description ELSE t.description END,
         default_policy = CASE WHEN t.default_policy = t.shipped->>'default_policy'
                               THEN w.default_policy ELSE t.default_policy END,
         parameters = CASE WHEN t.parameters = t.shipped->'parameters'
                           THEN w.parameters ELSE t.parameters END,
         shipped = w.shipped
    FROM wanted w
   WHERE t.name = w.name AND t.shipped IS NOT NULL AND t.shipped <> w.shipped;

  FOR kept IN
    UPDATE mana_ai.tools t SET shipped = NULL
     WHERE t.shipped IS NOT NULL AND NOT t.as_shipped
       AND NOT EXISTS (SELECT FROM mana_ai.tool_catalogs c
                        WHERE c.name = t.name AND new_catalog = ANY (c.catalogs))
    RETURNING t.name
  LOOP
    RAISE NOTICE 'tool "%" is not in catalog % and stays, since it was changed here', kept,
      new_catalog;
  END LOOP;

  FOR kept IN
    SELECT t.name FROM mana_ai.tools t
     WHERE t.shipped IS NULL
       AND EXISTS (SELECT FROM mana_ai.tool_catalogs c
                    WHERE c.name = t.name AND new_catalog = ANY (c.catalogs))
     ORDER BY t.name
  LOOP
    RAISE NOTICE 'tool "%" of catalog % is not taken, since there is another one of that name here', kept,
      new_catalog;
  END LOOP;

  -- Two steps, and so for what comes: the table's trigger deletes no tool that is built in, and
  -- makes every tool that is inserted the operator's.
  gone := ARRAY(SELECT t.name FROM mana_ai.tools t
                 WHERE t.as_shipped
                   AND NOT EXISTS (SELECT FROM mana_ai.tool_catalogs c
                                    WHERE c.name = t.name AND new_catalog = ANY (c.catalogs)));
  UPDATE mana_ai.tools t SET shipped = NULL WHERE t.name = ANY (gone);
  DELETE FROM mana_ai.tools t WHERE t.name = ANY (gone);

  come := ARRAY(SELECT c.name FROM mana_ai.tool_catalogs c
                 WHERE new_catalog = ANY (c.catalogs)
                   AND NOT EXISTS (SELECT FROM mana_ai.tools t WHERE t.name = c.name));
  INSERT INTO mana_ai.tools (name, module, description, default_policy, parameters)
  SELECT c.name, c.module, c.description, c.default_policy, c.parameters
    FROM mana_ai.tool_catalogs c WHERE c.name = ANY (come) AND new_catalog = ANY (c.catalogs);
  UPDATE mana_ai.tools t
     SET shipped = jsonb_build_object('module', t.module, 'description', t.description,
                                      'default_policy', t.default_policy,
                                      'parameters', t.parameters)
   WHERE t.name = ANY (come);
END
$$;

CREATE FUNCTION mana_ai.follow_chosen_catalog() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  -- Also when a dump is restored, whose row comes with no call of ours.
  PERFORM mana_ai.apply_tool_catalog(NEW.catalog);
  RETURN NULL;
END
$$;
CREATE TRIGGER follow_chosen_catalog AFTER INSERT ON mana_ai.chosen_tool_catalog
  FOR EACH ROW EXECUTE FUNCTION mana_ai.follow_chosen_catalog();

CREATE FUNCTION mana_ai.set_tool_catalog(catalog text)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  known text[] := ARRAY(SELECT DISTINCT unnest(c.catalogs) FROM mana_ai.tool_catalogs c ORDER BY 1);
BEGIN
  IF catalog IS NULL OR catalog <> ALL (known) THEN
    RAISE invalid_parameter_value USING
      MESSAGE = format('there is no tool catalog "%s"', catalog),
      HINT = format('Catalogs are: %s.', array_to_string(known, ', '));
  END IF;
  LOCK TABLE mana_ai.chosen_tool_catalog IN SHARE ROW EXCLUSIVE MODE;
  DELETE FROM mana_ai.chosen_tool_catalog;
  INSERT INTO mana_ai.chosen_tool_catalog (catalog) VALUES (catalog);
END
$$;
COMMENT ON FUNCTION mana_ai.set_tool_catalog(text) IS
  'makes the built-in tools those that a client of that age carries out: 2026-04 or 2026-05';

DO $$
DECLARE
  made_here text;
BEGIN
  FOREACH made_here IN ARRAY ARRAY['tool_catalogs', 'chosen_tool_catalog'] LOOP
    EXECUTE format('CREATE TRIGGER mana_ai_drop_replicated BEFORE INSERT OR UPDATE OR DELETE ON mana_ai.%I'
                   ' FOR EACH ROW EXECUTE FUNCTION mana_ai.drop_replicated_row()', made_here);
    EXECUTE format('ALTER TABLE mana_ai.%I ENABLE REPLICA TRIGGER mana_ai_drop_replicated', made_here);
  END LOOP;
END $$;

SELECT pg_catalog.pg_extension_config_dump('mana_ai.chosen_tool_catalog', '');
