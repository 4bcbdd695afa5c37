-- Artifacts :first to :first + :count - 1 with all that may hang from one, compared with the ten snapshots before them, which stay.
TRUNCATE sentry_organization, sentry_project, sentry_preprodartifact, sentry_preprodsnapshotmetrics,
  sentry_preprodsnapshotcomparison, sentry_preprodartifactsizemetrics, sentry_preprodartifactsizecomparison,
  sentry_installablepreprodartifact, sentry_preprodartifactmobileappinfo, sentry_preprodcomparisonapproval,
  artifact_deletion.artifact_deletion, artifact_deletion.artifact_deletion_artifact, artifact_deletion.artifact_deletion_chunk,
  artifact_deletion.artifact_deletion_page, artifact_deletion.artifact_deletion_prefix CASCADE;
INSERT INTO sentry_organization (id, slug) VALUES (:organization, 'rows');
INSERT INTO sentry_project (id, slug, organization_id) VALUES (:project, 'rows', :organization);
INSERT INTO sentry_preprodartifact (id, project_id, state)
 SELECT id, :project, 3 FROM generate_series(:first - 10, :first + :count - 1) id;
INSERT INTO sentry_preprodsnapshotmetrics (id, preprod_artifact_id, image_count, extras)
 SELECT id, id, 50, '{}' FROM sentry_preprodartifact;
INSERT INTO sentry_preprodartifactsizemetrics (id, preprod_artifact_id) SELECT id, id FROM sentry_preprodartifact;
INSERT INTO sentry_preprodartifactsizecomparison (organization_id, head_size_analysis_id, base_size_analysis_id)
 SELECT :organization, id, :first - 10 FROM sentry_preprodartifact WHERE id >= :first;
INSERT INTO sentry_installablepreprodartifact (url_path, preprod_artifact_id) SELECT 'install-' || id, id FROM sentry_preprodartifact;
INSERT INTO sentry_preprodartifactmobileappinfo (preprod_artifact_id) SELECT id FROM sentry_preprodartifact;
INSERT INTO sentry_preprodcomparisonapproval (preprod_artifact_id) SELECT id FROM sentry_preprodartifact;
-- One in a hundred has objects.
INSERT INTO sentry_preprodsnapshotcomparison (head_snapshot_metrics_id, base_snapshot_metrics_id, extras)
 SELECT head.id, base.id, CASE WHEN head.id % 10 = 0 AND base.id = :first - 10 THEN jsonb_build_object(
   'comparison_key', format('%s/%s/%s/%s/comparison.json', :organization, :project, head.id, base.id)) END
 FROM sentry_preprodartifact head, sentry_preprodartifact base WHERE head.id >= :first AND base.id < :first;
