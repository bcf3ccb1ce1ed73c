\echo Use "ALTER EXTENSION mana_ai UPDATE TO '0.2.0'" to load this file. \quit

-- The result is what a fresh installation of 0.2.0 has; test/tap/023_upgrade.pl compares the two.

-- ---------------------------------------------------------------- the log: attach, fold, refresh

-- ---------------------------------------------------------------- the trigger, marks and our tables

-- ---------------------------------------------------------------- runs, status and problems

-- ---------------------------------------------------------------- processes and crashes

-- ---------------------------------------------------------------- inputs, resolvers, endpoint
