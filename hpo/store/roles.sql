-- Three roles for a shared store: the owner creates studies, workers run trials, viewers read.
-- An administrator runs this once, in an empty database made for the store:
--
--     hpo doctor --sql roles | psql -d hpo
--
-- Then give each role that logs in a password (\password hpo_worker), create a study as hpo_owner (the first one creates
-- the tables), and run 'hpo doctor --sql grants | psql -d hpo' as hpo_owner.

CREATE ROLE hpo_owner LOGIN;
CREATE ROLE hpo_worker LOGIN CONNECTION LIMIT 200; -- up to two per worker process
CREATE ROLE hpo_viewer LOGIN;

ALTER ROLE hpo_viewer SET default_transaction_read_only = on;

-- Nobody else may connect, and only the owner creates tables.
DO $$ BEGIN
  EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
  EXECUTE format('GRANT CONNECT ON DATABASE %I TO hpo_owner, hpo_worker, hpo_viewer', current_database());
END $$;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO hpo_owner, hpo_worker, hpo_viewer;
GRANT CREATE ON SCHEMA public TO hpo_owner;
