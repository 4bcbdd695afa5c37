/**
 * Deletes artifacts from a backend in TypeScript: asks in its own transaction, then waits for the rows within a deadline.
 *
 *     npm install && npx tsc
 *     node delete_artifacts.js 1 4 42    # organization 1, artifacts 4 and 42
 *
 * DATABASE_URL, TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE say where both are. It prints what a handler would answer, as the
 * Python examples do.
 */
import { createHash } from 'node:crypto';
import { setTimeout as after } from 'node:timers/promises';
import { ApplicationFailure, Client, Connection, isGrpcServiceError, ServiceError } from '@temporalio/client';
import { WithStartWorkflowOperation, WorkflowFailedError, WorkflowUpdateFailedError } from '@temporalio/client';
import { WorkflowUpdateRPCTimeoutOrCancelledError } from '@temporalio/client';
import pg from 'pg';

/** As docs/request.schema.json has it. */
export interface DeletionRequest {
  organization_id: number;
  artifact_ids: number[];
  project_id?: number;
  requested_by?: string;
  reference?: string;
  images?: 'keep' | 'delete';
  not_before?: string; // a time with its zone, as Date's toISOString() gives it; no part of the id
}

export function deletionId(request: DeletionRequest): string {
  const artifacts = [...new Set(request.artifact_ids)].sort((one, other) => one - other); // plain sort() puts 10 before 9
  const project = request.project_id ?? null;
  const images = request.images ?? 'keep';
  const asked = { artifacts, images, mode: 'delete', organization: request.organization_id, project };
  return createHash('sha256').update(JSON.stringify(asked)).digest('hex').slice(0, 32);
}

export const workflowId = (of: DeletionRequest) => `delete-artifacts/${of.organization_id}/${deletionId(of)}`;

/** One INSERT in your own transaction: from its commit on the deletion will happen, Temporal up or down. */
export async function acceptDeletion(database: pg.ClientBase, request: DeletionRequest): Promise<void> {
  const ask = 'INSERT INTO artifact_deletion.artifact_deletion_ask (deletion_id, request) VALUES ($1, $2)';
  await database.query(ask, [deletionId(request), JSON.stringify(request)]);
}

/**
 * True: the rows are gone. False: not within the deadline, or Temporal cannot be reached; the relay starts what does not run.
 * Throws the failure with which the deletion ended before its rows were gone: its `type` is a name of docs/backend.md.
 */
export async function rowsDeleted(client: Client, request: DeletionRequest, withinMs: number): Promise<boolean> {
  const waiting = client.withDeadline(Date.now() + withinMs, () => waitForRows(client, request));
  return Promise.race([waiting, after(withinMs, false)]); // alone, calls that the SDK retries end seconds late
}

async function waitForRows(client: Client, request: DeletionRequest): Promise<boolean> {
  const start = {
    args: [request],
    taskQueue: 'artifact-deletion',
    workflowId: workflowId(request),
    workflowIdConflictPolicy: 'USE_EXISTING' as const,
    workflowIdReusePolicy: 'ALLOW_DUPLICATE' as const,
  };
  try {
    const run = await client.workflow.start('DeleteArtifactsWorkflow', start);
    await client.workflow.executeUpdateWithStart('rows_deleted', {
      startWorkflowOperation: new WithStartWorkflowOperation('DeleteArtifactsWorkflow', start),
      updateId: `rows-deleted-${run.firstExecutionRunId}`,
    });
    return true;
  } catch (error) {
    if (error instanceof WorkflowUpdateFailedError) throw await endOf(client, request, error);
    const late = error instanceof WorkflowUpdateRPCTimeoutOrCancelledError;
    if (late || error instanceof ServiceError || isGrpcServiceError(error)) return false; // your log should say which
    throw error;
  }
}

/** The workflow's own failure says why; the update's says only that the rows are not deleted. */
async function endOf(client: Client, request: DeletionRequest, update: WorkflowUpdateFailedError): Promise<unknown> {
  const ended: unknown = await client.workflow.result(workflowId(request)).catch((error: unknown) => error);
  return ended instanceof WorkflowFailedError && ended.cause instanceof ApplicationFailure ? ended.cause : update.cause;
}

async function main(organization_id: number, ...artifact_ids: number[]): Promise<object> {
  // Beyond Number.MAX_SAFE_INTEGER the id in JSON would be another one.
  const valid = (id: number) => Number.isSafeInteger(id) && id > 0;
  if (artifact_ids.length === 0 || ![organization_id, ...artifact_ids].every(valid)) return { status: 400 };
  const request = { organization_id, artifact_ids, requested_by: 'user:7', images: 'delete' as const };
  const database = new pg.Client({ connectionString: process.env.DATABASE_URL });
  await database.connect();
  await database.query('BEGIN');
  await acceptDeletion(database, request); // and your own rows beside it: both happen, or neither
  await database.query('COMMIT').then(() => database.end());
  const connection = Connection.lazy({ address: process.env.TEMPORAL_ADDRESS ?? '127.0.0.1:7233' });
  try {
    const namespace = process.env.TEMPORAL_NAMESPACE ?? 'default';
    const done = await rowsDeleted(new Client({ connection, namespace }), request, 5000);
    return done ? { status: 204 } : { status: 202, workflow_id: workflowId(request) };
  } catch (error) {
    if (!(error instanceof ApplicationFailure)) throw error;
    return { status: error.type === 'ArtifactNotInOrganization' ? 404 : 409, detail: error.message };
  }
}

const [organization = 0, ...artifacts] = process.argv.slice(2).map(Number);
console.log(JSON.stringify(await main(organization, ...artifacts)));
process.exit(); // a backend keeps one connection for all its calls
