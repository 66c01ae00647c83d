"""A GraphQL subscription of Strawberry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import strawberry
from strawberry.asgi import GraphQL


@strawberry.type
class Query:
    framework: str = "strawberry"


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def count(self, target: int) -> AsyncGenerator[int, None]:
        for number in range(1, target + 1):
            yield number
            await asyncio.sleep(0)


app: GraphQL[None, None] = GraphQL(strawberry.Schema(query=Query, subscription=Subscription))
