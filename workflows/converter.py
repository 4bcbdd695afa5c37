"""How payloads and failures are encoded: pydantic's JSON, and failures without data."""

import dataclasses

from temporalio.contrib.pydantic import pydantic_data_converter

from workflows.errors import FailuresWithoutData

data_converter = dataclasses.replace(pydantic_data_converter, failure_converter_class=FailuresWithoutData)
"""Clients and workers use the same one."""
