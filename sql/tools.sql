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

-- Each server has tools of its own: see drop_replicated_row().
CREATE TRIGGER mana_ai_drop_replicated
  BEFORE INSERT OR DELETE OR UPDATE ON mana_ai.tools
  FOR EACH ROW EXECUTE FUNCTION mana_ai.drop_replicated_row();
ALTER TABLE mana_ai.tools ENABLE REPLICA TRIGGER mana_ai_drop_replicated;

SELECT pg_catalog.pg_extension_config_dump('mana_ai.tools', 'WHERE NOT as_shipped');
