"""`setup`: make the things that must be there before the first deletion."""

from typing import Annotated, Literal

import typer
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client

from artifact_deletion.request import SEARCH_ATTRIBUTES
from commands.connection import connect, open_ledger
from commands.exit_codes import DONE
from commands.output import say
from migrations import as_sql, migrate
from settings import DatabaseSettings, load

_TYPES = {"Keyword": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD, "Int": IndexedValueType.INDEXED_VALUE_TYPE_INT}
Sql = Annotated[
    Literal["postgresql", "sqlite"] | None, typer.Option(case_sensitive=False, help="print the tables' SQL instead")
]


async def setup(*, sql: Sql = None) -> int:
    """Create or update the ledger's tables and Temporal's search attributes.

    Safe to repeat. With SEARCH_ATTRIBUTES=yes or no the ledger alone, without Temporal.
    """
    if sql is not None:
        say(as_sql(sql))
        return DONE
    with open_ledger() as database:
        migrate(database)
    say("the ledger is up to date")
    if (known := load(DatabaseSettings).search_attributes) != "ask":
        say(f"search attributes: not asked for (SEARCH_ATTRIBUTES={known})")
        return DONE
    added = await register_search_attributes(await connect())
    say(f"search attributes: {', '.join(added) or 'all there already'}")
    return DONE


async def register_search_attributes(client: Client) -> list[str]:
    """Add those of our search attributes that the namespace lacks. Safe to repeat. On Temporal Cloud, make them beforehand."""
    operator = client.operator_service
    known = await operator.list_search_attributes(ListSearchAttributesRequest(namespace=client.namespace))
    missing = {name: _TYPES[kind] for name, kind in SEARCH_ATTRIBUTES.items() if name not in known.custom_attributes}
    if missing:
        await operator.add_search_attributes(AddSearchAttributesRequest(namespace=client.namespace, search_attributes=missing))
    return sorted(missing)
