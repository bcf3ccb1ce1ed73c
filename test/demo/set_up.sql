-- A database as mana-sync has it: its table, and its role, which has no right on anything of mana_ai.
\set ON_ERROR_STOP on
\set QUIET on
\i sync_changes.sql

CREATE ROLE mana_sync_service LOGIN;
GRANT SELECT, INSERT ON public.sync_changes TO mana_sync_service;

CREATE EXTENSION mana_ai;
