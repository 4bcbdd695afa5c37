"""`worker.py` with workflows inside the SDK's sandbox, to see what the sandbox costs."""

from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

import worker

if __name__ == "__main__":
    vars(worker)["UnsandboxedWorkflowRunner"] = SandboxedWorkflowRunner
    worker.run()
