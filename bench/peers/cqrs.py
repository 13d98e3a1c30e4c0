"""python-cqrs: a query sent through a ``RequestMediator``.

Its fastest form is put together by hand: dataclass requests, one handler object for all requests, no logging. The form
of its README, ``bootstrap`` with pydantic requests and the ``di`` container, is measured too.
"""

# Its generic classes come without their arguments.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import asyncio
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import cqrs
import di
from cqrs.bootstrap.requests import bootstrap
from cqrs.container.dependency_injector import DependencyInjectorCQRSContainer
from dependency_injector import containers, providers

from bench.rounds import Opening, each_round
from bench.workload import per_second


@dataclass
class UserView(cqrs.DCResponse):
    user_id: str
    email: str


@dataclass
class GetUser(cqrs.DCRequest):
    user_id: str


class GetUserHandler(cqrs.RequestHandler[GetUser]):
    async def handle(self, request: GetUser) -> UserView:
        return UserView(request.user_id, "user@example.com")


class Handlers(containers.DeclarativeContainer):
    get_user = providers.Singleton(GetUserHandler)


class ModelUserView(cqrs.Response):
    user_id: str
    email: str


class GetModelUser(cqrs.Request[ModelUserView]):
    user_id: str


class GetModelUserHandler(cqrs.RequestHandler[GetModelUser]):
    async def handle(self, request: GetModelUser) -> ModelUserView:
        return ModelUserView(user_id=request.user_id, email="user@example.com")


def _asked_by(callers: int) -> Opening:
    @each_round
    async def measure(count: int) -> float:
        container = DependencyInjectorCQRSContainer()
        container.attach_external_container(Handlers())
        queries: cqrs.RequestMap[Any] = cqrs.RequestMap()
        queries.bind(GetUser, GetUserHandler)
        mediator = cqrs.RequestMediator(queries, container)
        each = -(-count // callers)

        async def ask() -> None:
            for _ in range(each):
                view = await mediator.send(GetUser("123"))
                assert view.user_id == "123"

        started = perf_counter()
        async with asyncio.TaskGroup() as asking:
            for _ in range(callers):
                asking.create_task(ask())
        return per_second(each * callers, started)

    return measure


asked_by_one = _asked_by(1)
asked_by_hundred = _asked_by(100)


@each_round
async def bootstrapped(count: int) -> float:
    def bind(queries: cqrs.RequestMap[Any]) -> None:
        queries.bind(GetModelUser, GetModelUserHandler)

    mediator = bootstrap(di_container=di.Container(), queries_mapper=bind)
    started = perf_counter()
    for _ in range(count):
        view = await mediator.send(GetModelUser(user_id="123"))
        assert view.user_id == "123"
    return per_second(count, started)
