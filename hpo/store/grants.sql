-- What a worker and a viewer may do with the tables. Run it as hpo_owner once the tables exist; running it again is safe:
--
--     hpo doctor --sql grants | psql -U hpo_owner -d hpo

SET client_min_messages = warning; -- policies that do not exist yet are no news

GRANT SELECT ON ALL TABLES IN SCHEMA public TO hpo_worker, hpo_viewer;

-- A worker writes about existing trials, takes leases, and tells that it waits. It creates no study and no trial, changes
-- no definition, and deletes no more than the latter.
GRANT UPDATE ON trials TO hpo_worker;
GRANT INSERT, UPDATE ON
  hpo_leases, hpo_attempts, hpo_rung_losses, trial_params, trial_values, trial_intermediate_values,
  trial_user_attributes, trial_system_attributes TO hpo_worker;
GRANT INSERT, UPDATE, DELETE ON hpo_workers TO hpo_worker;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO hpo_worker;

-- It writes three of a study's attributes: the QMC sampler's count, and once the study's precision and the fingerprint of
-- its images. For all it locks the study's row. Locking a row needs the right to update one of its columns; this column is one that foreign keys keep from
-- being changed.
GRANT UPDATE (study_id) ON studies TO hpo_worker;
GRANT INSERT, UPDATE (value_json) ON study_system_attributes TO hpo_worker;
ALTER TABLE study_system_attributes ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS readable ON study_system_attributes;
DROP POLICY IF EXISTS counted ON study_system_attributes;
DROP POLICY IF EXISTS recounted ON study_system_attributes;
CREATE POLICY readable ON study_system_attributes FOR SELECT TO hpo_worker, hpo_viewer USING (true);
CREATE POLICY counted ON study_system_attributes FOR INSERT TO hpo_worker
  WITH CHECK (key LIKE 'qmc%' OR key IN ('hpo:precision', 'hpo:images'));
CREATE POLICY recounted ON study_system_attributes FOR UPDATE TO hpo_worker
  USING (true) WITH CHECK (key LIKE 'qmc%');
