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
    artifact_deletion.artifact_deletion_prefix
    TO artifact_deletion_worker;
GRANT INSERT ON artifact_deletion.artifact_deletion_hold TO artifact_deletion_worker;
GRANT UPDATE (used_until) ON artifact_deletion.artifact_deletion_limit TO artifact_deletion_worker;

-- A backend asks and reads. A broken backend can neither confirm its own requests nor lift a hold that stops them.
GRANT SELECT ON
    artifact_deletion.artifact_deletion_ask,
    artifact_deletion.artifact_deletion,
    artifact_deletion.artifact_deletion_version
    TO artifact_deletion_backend;
GRANT INSERT (deletion_id, request, reason) ON artifact_deletion.artifact_deletion_ask
    TO artifact_deletion_backend, artifact_deletion_operator;
GRANT INSERT, UPDATE ON artifact_deletion.artifact_deletion_hold TO artifact_deletion_operator;

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
    sentry_fileblobindex
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
GRANT SELECT (id, project_id, date_added) ON sentry_preprodartifact TO artifact_deletion_operator;
GRANT SELECT (id, organization_id) ON sentry_project TO artifact_deletion_operator;

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

-- Only with TRACE_STORE=sql:
-- GRANT SELECT, DELETE ON trace_items TO artifact_deletion_worker;
