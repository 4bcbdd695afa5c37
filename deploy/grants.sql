-- The rights of the service in the backend's database, and no more. Run it as the owner of the tables, after `starter.py setup`
-- and again after each upgrade: psql "$OWNER_URL" -f deploy/grants.sql, or python deploy/grants.py.
--
-- It needs three roles. Make them once a server, and give each login one of them:
--     CREATE ROLE artifact_deletion_worker NOLOGIN;    -- workers
--     CREATE ROLE artifact_deletion_backend NOLOGIN;   -- the backend, which asks for deletions, and the relay
--     CREATE ROLE artifact_deletion_operator NOLOGIN;  -- people at the command line: they look, hold, confirm, ask again
-- None of them makes tables: the owner runs `starter.py setup`. `starter.py doctor --role ROLE` tries what a role may do.

-- The ledger. ------------------------------------------------------------------------------------------------------------
GRANT USAGE ON SCHEMA artifact_deletion TO artifact_deletion_worker, artifact_deletion_backend, artifact_deletion_operator;
GRANT SELECT ON ALL TABLES IN SCHEMA artifact_deletion TO artifact_deletion_worker, artifact_deletion_operator;
GRANT INSERT, UPDATE (served_at) ON artifact_deletion.artifact_deletion_ask TO artifact_deletion_worker;
GRANT INSERT, UPDATE ON artifact_deletion.artifact_deletion TO artifact_deletion_worker;
GRANT INSERT, UPDATE, DELETE ON
    artifact_deletion.artifact_deletion_artifact,
    artifact_deletion.artifact_deletion_chunk,
    artifact_deletion.artifact_deletion_page,
    artifact_deletion.artifact_deletion_prefix,
    artifact_deletion.artifact_deletion_image,
    artifact_deletion.artifact_deletion_image_page,
    artifact_deletion.artifact_deletion_snapshot,
    artifact_deletion.artifact_deletion_orphan
    TO artifact_deletion_worker;
GRANT INSERT ON artifact_deletion.artifact_deletion_report TO artifact_deletion_worker;
GRANT INSERT ON artifact_deletion.artifact_deletion_hold TO artifact_deletion_worker;
GRANT UPDATE (used_until) ON artifact_deletion.artifact_deletion_limit TO artifact_deletion_worker;

-- A backend asks and reads. A broken backend can neither confirm its own requests nor lift a hold that stops them.
GRANT SELECT ON
    artifact_deletion.artifact_deletion_ask,
    artifact_deletion.artifact_deletion,
    artifact_deletion.artifact_deletion_version
    TO artifact_deletion_backend;
-- The relay looks which projects have images on their way.
GRANT SELECT (organization_id, project_id) ON artifact_deletion.artifact_deletion_image TO artifact_deletion_backend;
GRANT SELECT (deletion_id, chunk, organization_id, project_id, decided_at) ON artifact_deletion.artifact_deletion_image_page
    TO artifact_deletion_backend;
GRANT SELECT (deletion_id, chunk, state) ON artifact_deletion.artifact_deletion_chunk TO artifact_deletion_backend;
GRANT INSERT (deletion_id, request, reason) ON artifact_deletion.artifact_deletion_ask
    TO artifact_deletion_backend, artifact_deletion_operator;
GRANT INSERT, UPDATE ON artifact_deletion.artifact_deletion_hold TO artifact_deletion_operator;
GRANT INSERT, DELETE ON artifact_deletion.artifact_deletion_policy TO artifact_deletion_operator;

-- The artifacts' own rows. To lock rows, PostgreSQL asks for the right to update a column. The id is a column that cannot be
-- changed while other rows refer to it. --------------------------------------------------------------------------------------
GRANT SELECT, DELETE ON
    sentry_preprodartifact,
    sentry_installablepreprodartifact,
    sentry_preprodartifactmobileappinfo,
    sentry_preprodartifactsizemetrics,
    sentry_preprodartifactsizecomparison,
    sentry_preprodcomparisonapproval,
    sentry_preprodsnapshotmetrics,
    sentry_preprodsnapshotcomparison,
    sentry_file,
    sentry_fileblobindex,
    sentry_preprodbuildconfiguration
    TO artifact_deletion_worker;
GRANT UPDATE (id) ON
    sentry_preprodartifact,
    sentry_preprodartifactsizemetrics,
    sentry_preprodsnapshotmetrics,
    sentry_preprodsnapshotcomparison,
    sentry_file
    TO artifact_deletion_worker;

-- Whose they are: read, and locked while an artifact's rows are deleted. ----------------------------------------------------
GRANT SELECT (id, organization_id), UPDATE (id) ON sentry_project TO artifact_deletion_worker;
GRANT SELECT (blob_id, organization_id) ON sentry_fileblobowner TO artifact_deletion_worker;
GRANT SELECT (id) ON sentry_fileblob TO artifact_deletion_worker;
GRANT SELECT (id, project_id, date_added, installable_app_file_id) ON sentry_preprodartifact TO artifact_deletion_operator;
GRANT SELECT (id, organization_id) ON sentry_project TO artifact_deletion_operator;
GRANT SELECT (id, preprod_artifact_id, date_added, extras) ON sentry_preprodsnapshotmetrics TO artifact_deletion_operator;

-- What has expired, and what others need: the operator's only to look at retention. --------------------------------------------
GRANT SELECT (id, organization_id, head_sha, base_sha, head_repo_name, base_repo_name) ON sentry_commitcomparison
    TO artifact_deletion_worker, artifact_deletion_operator;
GRANT SELECT (app_id, build_configuration_id, commit_comparison_id) ON sentry_preprodartifact TO artifact_deletion_operator;
GRANT SELECT (is_selective) ON sentry_preprodsnapshotmetrics TO artifact_deletion_operator;
GRANT SELECT (head_snapshot_metrics_id, base_snapshot_metrics_id) ON sentry_preprodsnapshotcomparison
    TO artifact_deletion_operator;
GRANT SELECT (id, preprod_artifact_id) ON sentry_preprodartifactsizemetrics TO artifact_deletion_operator;
GRANT SELECT (head_size_analysis_id, base_size_analysis_id) ON sentry_preprodartifactsizecomparison
    TO artifact_deletion_operator;
GRANT SELECT (preprod_artifact_id) ON sentry_installablepreprodartifact TO artifact_deletion_operator;

-- A file that another table refers to is kept. So every column that refers to files is read. ---------------------------------
DO $$
DECLARE
    refers record;
BEGIN
    FOR refers IN
        SELECT key.conrelid::regclass AS other, attribute.attname AS name
        FROM pg_constraint AS key
        JOIN pg_attribute AS attribute ON attribute.attrelid = key.conrelid AND attribute.attnum = ANY (key.conkey)
        WHERE key.contype = 'f' AND key.confrelid = 'sentry_file'::regclass
    LOOP
        EXECUTE format('GRANT SELECT (%I) ON %s TO artifact_deletion_worker', refers.name, refers.other);
    END LOOP;
END
$$;

-- Only for a backend that commits snapshots with reserve_images:
-- GRANT SELECT (project_id, artifact_id), INSERT ON artifact_deletion.artifact_deletion_snapshot TO artifact_deletion_backend;
-- GRANT UPDATE (state, images, read_at) ON artifact_deletion.artifact_deletion_snapshot TO artifact_deletion_backend;
-- GRANT SELECT (project_id, hash, state, round, codes) ON artifact_deletion.artifact_deletion_image TO artifact_deletion_backend;
-- GRANT UPDATE (state, since, codes) ON artifact_deletion.artifact_deletion_image TO artifact_deletion_backend;

-- Only with TRACE_STORE=sql:
-- GRANT SELECT, DELETE ON trace_items TO artifact_deletion_worker;
