-- What the service may do in the backend's database, and no more. Run it as the owner of the tables, after `starter.py setup`
-- and again after each upgrade: psql "$OWNER_URL" -f deploy/grants.sql
--
-- Three roles, to be made once a server, and given to whoever logs in:
--     CREATE ROLE artifact_deletion_worker NOLOGIN;    -- workers
--     CREATE ROLE artifact_deletion_backend NOLOGIN;   -- whoever accepts deletions: the backend, the relay
--     CREATE ROLE artifact_deletion_operator NOLOGIN;  -- whoever is at the command line: looks, freezes, confirms
-- None makes tables: `starter.py setup` is run by the owner.

-- The ledger. ------------------------------------------------------------------------------------------------------------
GRANT USAGE ON SCHEMA artifact_deletion TO artifact_deletion_worker, artifact_deletion_backend, artifact_deletion_operator;
GRANT SELECT ON ALL TABLES IN SCHEMA artifact_deletion TO artifact_deletion_worker, artifact_deletion_operator;
GRANT INSERT, UPDATE ON artifact_deletion.artifact_deletion TO artifact_deletion_worker;
GRANT INSERT, UPDATE, DELETE ON
    artifact_deletion.artifact_deletion_artifact,
    artifact_deletion.artifact_deletion_chunk,
    artifact_deletion.artifact_deletion_page,
    artifact_deletion.artifact_deletion_prefix
    TO artifact_deletion_worker;
GRANT UPDATE (used_until) ON artifact_deletion.artifact_deletion_limit TO artifact_deletion_worker;

GRANT SELECT, INSERT, UPDATE (state) ON artifact_deletion.artifact_deletion TO artifact_deletion_backend;

-- A backend that is broken must neither confirm what it asks for nor thaw what was frozen because of it.
GRANT INSERT, UPDATE (state, confirmed_at, confirmed_by) ON artifact_deletion.artifact_deletion TO artifact_deletion_operator;
GRANT INSERT, UPDATE (reason), DELETE ON artifact_deletion.artifact_deletion_freeze TO artifact_deletion_operator;

-- The artifacts' own rows. PostgreSQL asks for the right to update a column where rows are locked: an id, which nothing that
-- is referred to can change. -------------------------------------------------------------------------------------------------
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
    sentry_file
    TO artifact_deletion_worker;

-- Whose they are: read, and locked while an artifact's rows go. -----------------------------------------------------------
GRANT SELECT (id, organization_id), UPDATE (id) ON sentry_project TO artifact_deletion_worker;
GRANT SELECT (blob_id, organization_id) ON sentry_fileblobowner TO artifact_deletion_worker;
GRANT SELECT (id, project_id) ON sentry_preprodartifact TO artifact_deletion_backend;
GRANT SELECT (id, project_id, date_added) ON sentry_preprodartifact TO artifact_deletion_operator;
GRANT SELECT (id, organization_id) ON sentry_project TO artifact_deletion_backend, artifact_deletion_operator;

-- A file that another table refers to is kept: so the columns that do are read, whichever they are. --------------------------
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
