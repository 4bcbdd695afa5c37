"""What a backend installs: it asks for deletions here, waits for their rows, and reads their receipts.

This package is the contract between a backend and the service. It needs pydantic, SQLAlchemy and temporalio, and imports
nothing of the service, which runs elsewhere.
"""

from artifact_deletion.blocking import BlockingDeletions
from artifact_deletion.client import Deletions
from artifact_deletion.images import reserve_images
from artifact_deletion.outbox import accept_deletion
from artifact_deletion.receipt import DeletionReceipt
from artifact_deletion.request import DeletionRequest

__all__ = ["BlockingDeletions", "DeletionReceipt", "DeletionRequest", "Deletions", "accept_deletion", "reserve_images"]
