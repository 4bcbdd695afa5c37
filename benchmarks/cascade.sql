-- The same cascade as a good engineer writes it by hand: one statement a table, children before parents, one transaction.
DELETE FROM sentry_preprodartifactsizecomparison c USING sentry_preprodartifactsizemetrics m
 WHERE c.head_size_analysis_id = m.id AND m.preprod_artifact_id = ANY(%(ids)s);
DELETE FROM sentry_preprodartifactsizecomparison c USING sentry_preprodartifactsizemetrics m
 WHERE c.base_size_analysis_id = m.id AND m.preprod_artifact_id = ANY(%(ids)s);
DELETE FROM sentry_preprodsnapshotcomparison c USING sentry_preprodsnapshotmetrics m
 WHERE c.head_snapshot_metrics_id = m.id AND m.preprod_artifact_id = ANY(%(ids)s);
DELETE FROM sentry_preprodsnapshotcomparison c USING sentry_preprodsnapshotmetrics m
 WHERE c.base_snapshot_metrics_id = m.id AND m.preprod_artifact_id = ANY(%(ids)s);
DELETE FROM sentry_installablepreprodartifact WHERE preprod_artifact_id = ANY(%(ids)s);
DELETE FROM sentry_preprodartifactmobileappinfo WHERE preprod_artifact_id = ANY(%(ids)s);
DELETE FROM sentry_preprodcomparisonapproval WHERE preprod_artifact_id = ANY(%(ids)s);
DELETE FROM sentry_preprodartifactsizemetrics WHERE preprod_artifact_id = ANY(%(ids)s);
DELETE FROM sentry_preprodsnapshotmetrics WHERE preprod_artifact_id = ANY(%(ids)s);
DELETE FROM sentry_preprodartifact WHERE id = ANY(%(ids)s);
