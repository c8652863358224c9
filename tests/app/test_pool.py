"""Heavy solves in other processes: the same answers, bounded, and repaired."""

import asyncio
import json
import math
import os
import signal
import time
from typing import Any

import httpx
import pytest

from app.pool import Pool
from app.problems import Problem
from app.routes.recommendations import Recommendations
from app.schemas.recommendations import RecommendationRequest
from app.settings import Settings
from app.solving import Question
from app.store import Store

PATH = "/v1/recommendations"
HANG = 60


def run(work: Any) -> Any:
    async def guarded() -> Any:
        return await asyncio.wait_for(work, HANG)

    return asyncio.run(guarded())


def post(client: Any, body: Any) -> Any:
    return client.http.post(PATH, content=json.dumps(body), headers={"Content-Type": "application/json"})


def test_predicted_long_solves_leave_this_process_and_give_the_same_bytes(client, client_with, question, monkeypatch):
    inline = client.ask(question)
    assert inline.status_code == 200
    pooled_client = client_with(inline_milliseconds=0, pool_workers=1)
    # Children import the module anew and so don't see this.
    monkeypatch.setattr("rl2ml_core.recommend", lambda *_, **__: pytest.fail("solved in this process"))

    async def ask_and_watch() -> tuple[httpx.Response, int]:
        task = asyncio.create_task(post(pooled_client, question))
        answered = 0
        while not task.done():
            health = await pooled_client.http.get("/healthz")
            assert health.status_code == 200
            answered += not task.done()
            await asyncio.sleep(0.02)
        return await task, answered

    pooled, answered_meanwhile = pooled_client.run(ask_and_watch())
    assert pooled.status_code == 200, pooled.text
    assert pooled.content == inline.content
    assert pooled.headers["etag"] == inline.headers["etag"]
    assert answered_meanwhile >= 2, "a child takes far longer to start than two health checks"
    monkeypatch.undo()
    # What only the solve refuses comes back from the child as the same problem.
    wrong = question | {"search": {"gamma_min": 3}}
    assert pooled_client.ask(wrong).content == client_with().ask(wrong).content
    assert pooled_client.ask(wrong).json()["errors"][0]["pointer"] == "#/search/gamma_min"


def test_full_queue_and_deadline(client_with, question, refused):
    client = client_with(inline_milliseconds=0, pool_workers=1, pool_queue=1)
    bodies = [question | {"uncertainty": {"bootstrap": 0, "seed": seed}} for seed in range(3)]

    async def at_once() -> list[httpx.Response]:
        return await asyncio.gather(*(post(client, body) for body in bodies))

    responses = client.run(at_once())
    assert sorted(response.status_code for response in responses) == [200, 200, 503]
    (turned_away,) = (response for response in responses if response.status_code == 503)
    refused(turned_away, "overloaded")
    assert int(turned_away.headers["retry-after"]) >= 1
    # A place is free again.
    assert all(client.ask(body).status_code == 200 for body in bodies)


def test_deadline(client_with, question, refused):
    # A child needs tenths of a second to import the library.
    client = client_with(inline_milliseconds=0, pool_workers=1, solve_seconds=0.01)
    refused(client.ask(question), "deadline-exceeded")
    assert client.get("/healthz").status_code == 200


def test_killed_child_is_replaced_and_its_job_done():
    async def scenario() -> None:
        pool = Pool(Settings(pool_workers=1))
        try:
            child = await pool.run(os.getpid)
            assert child != os.getpid()
            # Idle:
            os.kill(child, signal.SIGKILL)
            second = await pool.run(os.getpid)
            assert second not in (child, os.getpid())
            # In the middle of a job, with another one waiting:
            jobs = [asyncio.create_task(pool.run(time.sleep, 0.3)), asyncio.create_task(pool.run(math.factorial, 5))]
            await asyncio.sleep(0.1)
            os.kill(second, signal.SIGKILL)
            assert await asyncio.gather(*jobs) == [None, 120]
        finally:
            pool.close()

    run(scenario())


def test_job_that_kills_its_child_is_given_up(refused):
    async def scenario() -> None:
        pool = Pool(Settings(pool_workers=1))
        try:
            with pytest.raises(Problem) as given_up:
                await pool.run(os._exit, 1)
            response = given_up.value.response()
            assert response.status_code == 503
            assert int(response.headers["retry-after"]) >= 1
            assert await pool.run(math.factorial, 4) == 24
        finally:
            pool.close()

    run(scenario())


def test_a_deadline_in_the_queue_ends_no_child():
    """A job that never began leaves those that run alone."""

    async def scenario() -> None:
        pool = Pool(Settings(pool_workers=1, pool_queue=8, solve_seconds=20))
        try:
            child = await pool.run(os.getpid)
            running = asyncio.create_task(pool.run(time.sleep, 1.2))
            await asyncio.sleep(0.1)
            # The executor hands two jobs out ahead: what comes behind them waits in the queue.
            ahead = [asyncio.create_task(pool.run(time.sleep, 0.05)) for _ in range(3)]
            await asyncio.sleep(0)
            pool._settings = Settings(pool_workers=1, pool_queue=8, solve_seconds=0.2)
            with pytest.raises(Problem) as late:
                await pool.run(os.getpid)
            pool._settings = Settings(pool_workers=1, pool_queue=8, solve_seconds=20)
            assert late.value.name == "deadline-exceeded"
            assert await asyncio.gather(running, *ahead) == [None] * 4
            assert await pool.run(os.getpid) == child
        finally:
            pool.close()

    run(scenario())


def test_deadline_of_one_job_is_not_the_end_of_those_waiting():
    async def scenario() -> None:
        settings = Settings(pool_workers=1, solve_seconds=1)
        pool = Pool(settings)
        try:
            slow = asyncio.create_task(pool.run(time.sleep, HANG))
            await asyncio.sleep(0)
            pool._settings = settings.model_copy(update={"solve_seconds": HANG})
            waiting = [asyncio.create_task(pool.run(math.factorial, n)) for n in (3, 4)]
            with pytest.raises(Problem) as late:
                await slow
            assert late.value.name == "deadline-exceeded"
            assert await asyncio.gather(*waiting) == [6, 24]
        finally:
            pool.close()

    run(scenario())


def test_closing_ends_the_children():
    async def scenario() -> int:
        pool = Pool(Settings(pool_workers=1))
        child = await pool.run(os.getpid)
        pool.close()
        pool.close()  # twice is no error
        return child

    child = run(scenario())
    deadline = time.monotonic() + HANG
    while time.monotonic() < deadline:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("the child is still there")


def test_stopping_server_says_so(question):
    settings = Settings(pool_workers=1, inline_milliseconds=0)

    async def scenario() -> Problem:
        pool = Pool(settings)
        try:
            asked = Question.of(RecommendationRequest.model_validate(question), settings)
            job = asyncio.create_task(Recommendations(settings, pool, Store(settings)).of(asked))
            await asyncio.sleep(0.05)
            job.cancel()  # as the server does when its patience ends
            with pytest.raises(Problem) as stopped:
                await job
            return stopped.value
        finally:
            pool.close()

    assert run(scenario()).name == "not-ready"


def test_the_same_heavy_question_is_solved_once(question):
    settings = Settings(pool_workers=1, inline_milliseconds=0)
    solved = []

    class Counting(Pool):
        async def run(self, function, *arguments):
            solved.append(arguments)
            await asyncio.sleep(0.05)
            return function(*arguments)

    async def scenario() -> list[tuple[str, bytes]]:
        recommendations = Recommendations(settings, Counting(settings), Store(settings))
        asked = Question.of(RecommendationRequest.model_validate(question), settings)
        return await asyncio.gather(*(recommendations.of(asked) for _ in range(4)))

    answers = run(scenario())
    assert len(solved) == 1
    assert len(set(answers)) == 1


def test_answers_are_kept_within_a_number_of_bytes(question):
    settings = Settings(cache_bytes=10_000)
    recommendations = Recommendations(settings, Pool(settings), Store(settings))

    async def scenario() -> list[bytes | None]:
        found = []
        for seed in range(4):
            request = RecommendationRequest.model_validate(question | {"uncertainty": {"seed": seed}})
            found.append((await recommendations.of(Question.of(request, settings)))[0])
        return [await recommendations.get(identity) for identity in found]

    kept = run(scenario())
    assert kept[0] is None  # about 5 kB each
    assert kept[-1] is not None
    assert sum(len(body) for body in kept if body) <= 10_000
