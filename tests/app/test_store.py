"""The store: its schema, what it survives, and what its troubles are answered with."""

import json
import shutil
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from app.database_errors import problem_of
from app.problems import Problem
from app.settings import Settings
from app.store import FILE, NewerSchema, Store, add_key, find_keys, revoke_key
from app.stored_content import add_pilot, add_recommendations, find_pilot, find_recommendation
from app.tables import metadata, pilots, windows

RUNS = "/v1/runs"
#: By the fast criterion: what is tested here is the same under every one.
RUN = {
    "metric": "pass@8",
    "budget": {"num_rollouts": 8},
    "search": {"criterion": "rms_gain"},
    "uncertainty": {"bootstrap": 0},
}
WINDOW = [0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 1, 1, 1, 2]


@pytest.fixture
def store(kept):
    made = Store(Settings(**kept))
    yield made
    made.close()


@pytest.fixture
def sqlite(tmp_path):
    return {"data_folder": tmp_path / "data"}


# --- schema -----------------------------------------------------------------------------------------------------------


def test_migrations_make_the_tables_in_use(store):
    def differences(connection):
        return compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata)

    assert store.read(differences) == []


def test_an_index_for_the_window_that_stands(store):
    """One window of a number in a run, unless a rewind gave it up: the database itself sees to it."""

    def put(connection, generation, superseded):
        row = {"run": "run_1", "generation": generation, "number": 7, "superseded": superseded, "put": 0, "hash": ""}
        connection.execute(sa.insert(windows), row | dict.fromkeys(("cells", "state", "decision", "objective"), ""))

    def begin(connection):
        names = ("id", "owner", "settings", "state", "decision", "objective")
        numbers = {"created": 0, "generation": 0, "next_number": 0}
        connection.execute(sa.insert(metadata.tables["runs"]), dict.fromkeys(names, "") | {"id": "run_1"} | numbers)

    store.write(begin)
    for generation in (0, 1):
        store.write(put, generation, superseded=True)
    store.write(put, 2, superseded=False)
    with pytest.raises(sa.exc.IntegrityError):
        store.write(put, 3, superseded=False)
    with pytest.raises(sa.exc.IntegrityError):  # no window without a run
        store.write(lambda c: c.execute(sa.update(windows).values(run="run_2")))
    store.write(lambda c: c.execute(sa.delete(metadata.tables["runs"])))
    assert store.read(lambda c: c.execute(sa.select(windows)).all()) == []


def test_opened_by_many_at_once(kept):
    stores = [Store(Settings(**kept)) for _ in range(6)]
    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(lambda one: one.read(find_keys), stores)) == [[]] * 6
    for one in stores:
        one.close()


def test_a_newer_schema_is_left_alone(kept, store, serve_once):
    store.write(lambda c: c.execute(sa.text("UPDATE alembic_version SET version_num = '9999'")))
    newer = Store(Settings(**kept))
    for _ in range(2):
        with pytest.raises(NewerSchema, match=r"schema 9999.*newer version"):
            newer.open()
    with pytest.raises(Problem) as refused:
        newer.read(find_keys)
    assert (refused.value.name, "9999" in refused.value.detail) == ("store-unavailable", True)
    newer.close()
    done = serve_once(kept)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("Cannot use the store: the store is of schema 9999, which this version does not know: ")


@pytest.fixture
def serve_once(run_app):
    """`python -m app` with a store that it refuses."""

    def run(kept):
        variables = {f"RL2ML_{name.upper()}": str(value) for name, value in kept.items()}
        return run_app(PORT="0", **variables)

    return run


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://root:secret@db/x", "must be PostgreSQL's; got mysql://"),
        ("secret", "is not a URL; expected postgresql://"),
    ],
)
def test_other_databases_are_refused_without_the_password(serve_once, url, message):
    with pytest.raises(ValueError, match=message):
        Store(Settings(database_url=url))
    done = serve_once({"database_url": url})
    (line,) = done.stderr.splitlines()
    assert message in line
    assert "secret" not in line
    assert "secret" not in repr(Settings(database_url=url))


# --- SQLite -----------------------------------------------------------------------------------------------------------


def test_sqlite_is_set_up_to_lose_nothing(sqlite):
    store = Store(Settings(**sqlite, store_bytes=1 << 20))

    def pragmas(connection):
        names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "max_page_count")
        return [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names]

    assert store.read(pragmas) == ["wal", 2, 1, 5000, 256]
    assert [path.name for path in sqlite["data_folder"].iterdir() if path.suffix == ".sqlite3"] == [FILE]
    store.close()


def test_without_a_folder_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = Store(Settings())
    assert not store.is_lasting
    store.write(add_key, "key", "name", "hash")
    assert [key.id for key in store.read(find_keys)] == ["key"]
    assert len(list(tmp_path.iterdir())) == 1
    store.close()
    del store
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["a file", "no permission", "no database"])
def test_folders_that_cannot_be_used(client_with, refused, tmp_path, what):
    folder = tmp_path / "data"
    if what == "a file":
        folder.write_text("")
    elif what == "no permission":
        folder = Path("/proc/data")
    else:
        folder.mkdir()
        (folder / FILE).write_bytes(b"no database at all " * 100)
    client = client_with(data_folder=folder)
    response = client.ask(RUN, path=RUNS)
    refused(response, "store-unavailable")
    assert int(response.headers["retry-after"]) >= 1
    assert client.get("/healthz").status_code == 200


# --- contention -------------------------------------------------------------------------------------------------------


def hold(kept):
    """Another process in the middle of a change to the windows: call the result to end it."""
    if "data_folder" in kept:
        connection = sqlite3.connect(kept["data_folder"] / FILE, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
    else:
        connection = psycopg.connect(kept["database_url"])
        connection.execute("LOCK TABLE runs IN ACCESS EXCLUSIVE MODE")
    return lambda: (connection.execute("ROLLBACK"), connection.close())


def test_waiting_too_long_is_a_503_and_nothing_is_lost(client_with, refused, kept):
    client = client_with(**kept, store_seconds=0.2).solve_here()
    run = client.ask(RUN, path=RUNS).json()["id"]
    assert client.put(run, 0, WINDOW).status_code == 201
    release = hold(kept)
    for _ in range(2):
        response = client.put(run, 1, WINDOW)
        refused(response, "store-busy")
        assert response.headers["retry-after"] == "1"
        refused(client.ask(RUN, path=RUNS), "store-busy")
        refused(client.request("DELETE", f"{RUNS}/{run}"), "store-busy")
        refused(client.ask({"to_index": 0}, path=f"{RUNS}/{run}/rewinds"), "store-busy")
    release()
    assert client.put(run, 1, WINDOW).status_code == 201
    assert client.put(run, 1, WINDOW).status_code == 200
    assert len(client.get(f"{RUNS}/{run}/windows").json()["items"]) == 2
    assert len(client.get(RUNS).json()["items"]) == 1


def test_the_same_window_from_two_processes(client_with, kept):
    """Each of two services has the run's state at hand, and both are asked at once: one of them is first."""
    clients = [client_with(**kept).solve_here() for _ in range(2)]
    run = clients[0].ask(RUN, path=RUNS).json()["id"]
    at_once = threading.Barrier(2)

    def put(client, index, window):
        at_once.wait()
        return client.put(run, index, window)

    statuses = []
    with ThreadPoolExecutor(2) as threads:
        for index in range(20):
            different = index % 2
            others = [WINDOW, WINDOW[different:]]
            found = list(threads.map(put, clients, [index] * 2, others))
            statuses.append(sorted(response.status_code for response in found))
            if not different:
                assert found[0].content == found[1].content
            else:
                (late,) = (response for response in found if response.status_code == 409)
                assert late.json()["expected_index"] == index + 1
    assert statuses == [[200, 201], [201, 409]] * 10
    listed = clients[0].get(f"{RUNS}/{run}/windows?limit=100").json()["items"]
    assert [item["index"] for item in listed] == list(range(20))


def test_the_same_key_from_two_processes(client_with, kept):
    clients = [client_with(**kept).solve_here() for _ in range(2)]
    at_once = threading.Barrier(2)

    def create(client, key):
        at_once.wait()
        for _ in range(20):  # where the disk is slow the store may be busy for longer than a request waits
            response = client.ask(RUN, {"Idempotency-Key": key}, RUNS)
            if response.status_code != 503:
                break
            time.sleep(float(response.headers["retry-after"]))
        return response

    with ThreadPoolExecutor(2) as threads:
        for key in map(str, range(10)):
            found = list(threads.map(create, clients, [key] * 2))
            assert sorted(response.status_code for response in found) == [200, 201]
            assert found[0].content == found[1].content
    assert len(clients[0].get(f"{RUNS}?limit=100").json()["items"]) == 10


def test_a_rewind_elsewhere_is_noticed(client_with, refused, kept):
    one, other = client_with(**kept).solve_here(), client_with(**kept).solve_here()
    run = one.ask(RUN, path=RUNS).json()["id"]
    for index in range(3):
        assert one.put(run, index, WINDOW).status_code == 201
    assert other.ask({"to_index": 1}, path=f"{RUNS}/{run}/rewinds").status_code == 200
    assert refused(one.put(run, 3, WINDOW), "window-conflict")["expected_index"] == 1
    for index in (1, 2):
        assert other.put(run, index, WINDOW[1:]).json()["generation"] == 1
    # The number is the one that the first has in mind, but the windows before it are others.
    late = one.put(run, 3, WINDOW)
    assert (late.status_code, late.json()["generation"]) == (201, 1)
    expected = other.put(run, 3, WINDOW)
    assert (expected.status_code, expected.content) == (200, late.content)
    assert other.request("DELETE", f"{RUNS}/{run}").status_code == 204
    refused(one.put(run, 4, WINDOW), "not-found")


def test_only_so_many_wait(client_with, refused, sqlite, monkeypatch):
    client = client_with(**sqlite).solve_here()
    monkeypatch.setattr("app.store._MOST_WAITING", 0)
    response = client.ask(RUN, path=RUNS)
    refused(response, "store-busy")
    assert response.headers["retry-after"] == "1"


# --- errors -----------------------------------------------------------------------------------------------------------


class Raised(Exception):
    def __init__(self, **codes):
        vars(self).update(codes)


@pytest.mark.parametrize(
    ("codes", "name"),
    [
        ({"sqlite_errorcode": sqlite3.SQLITE_BUSY_SNAPSHOT}, "store-busy"),
        ({"sqlite_errorcode": sqlite3.SQLITE_FULL}, "storage-full"),
        ({"sqlite_errorcode": sqlite3.SQLITE_IOERR_FSYNC}, "store-unavailable"),
        ({"sqlite_errorcode": sqlite3.SQLITE_ERROR}, None),
        ({"sqlstate": "55P03"}, "store-busy"),
        ({"sqlstate": "40P01"}, "store-busy"),
        ({"sqlstate": "53100"}, "storage-full"),
        ({"sqlstate": "53300"}, "store-unavailable"),
        ({"sqlstate": "57P01"}, "store-unavailable"),
        ({"sqlstate": "42P01"}, None),
        ({}, None),
    ],
)
def test_errors_of_databases(codes, name):
    found = problem_of(sa.exc.OperationalError("", {}, Raised(**codes)))
    assert (found.name if found else None) == name
    assert problem_of(sa.exc.IntegrityError("", {}, Raised(**codes))) is None


# --- keys and content -------------------------------------------------------------------------------------------------


def test_keys(store):
    first = store.write(add_key, "a", "Ada", "1" * 64)
    second = store.write(add_key, "b", "Bob", "2" * 64)
    assert store.read(find_keys) == [first, second]
    for identity, digest in (("a", "3" * 64), ("c", "1" * 64)):
        with pytest.raises(sa.exc.IntegrityError):
            store.write(add_key, identity, "", digest)
    assert store.write(revoke_key, "a") is True
    assert store.write(revoke_key, "a") is False
    assert store.write(revoke_key, "c") is False
    assert store.read(find_keys, good=True) == [second]
    assert [key.revoked is None for key in store.read(find_keys)] == [False, True]


def test_what_fails_in_the_middle_leaves_nothing(store):
    def fail(connection):
        add_key(connection, "a", "Ada", "1" * 64)
        raise KeyError

    with pytest.raises(KeyError):
        store.write(fail)
    assert store.read(find_keys) == []


def test_the_oldest_content_makes_room(store):
    for i in range(30):
        store.write(add_recommendations, {f"rec_{i}": b"%d" % i}, 20)
        store.write(add_pilot, f"pilot_{i}", str(i), 20)
        store.write(add_pilot, "pilot_0", "0", 20)
    for kind, find in (("rec", find_recommendation), ("pilot", find_pilot)):
        there = [i for i in range(30) if store.read(find, f"{kind}_{i}") is not None]
        assert 18 <= len(there) <= 20
        assert there[-10:] == list(range(20, 30))
    assert store.read(find_pilot, "pilot_0") == "0", "used again, so as if new"
    assert store.read(lambda c: c.execute(sa.select(sa.func.count()).select_from(pilots)).scalar()) <= 20
    assert store.write(add_pilot, "pilot_0", "0", 20) is False


def test_recommendations_outlive_the_process(client_with, kept, question, refused):
    first = client_with(**kept).solve_here()
    posted = first.ask(question)
    first.run(first.app.state.recommendations.saved())
    path = posted.headers["content-location"]
    second = client_with(**kept).solve_here()
    got = second.get(path)
    assert (got.status_code, got.content, got.headers["etag"]) == (200, posted.content, posted.headers["etag"])
    assert second.get(path, **{"If-None-Match": got.headers["etag"]}).status_code == 304
    refused(second.get(path[:-1] + "g"), "not-found")
    refused(second.get(path[:-4] + "0000"), "not-found")


def test_recommendations_do_not_need_the_store(client_with, question, sqlite, caplog):
    client = client_with(**sqlite, store_seconds=0.1)
    client.app.state.store.open()
    release = hold(sqlite)
    posted = client.ask(question)
    assert posted.status_code == 200
    client.run(client.app.state.recommendations.saved())
    assert client.get(posted.headers["content-location"]).content == posted.content
    release()
    shutil.rmtree(sqlite["data_folder"])
    assert client.ask(question | {"metric": "pass@4"}).status_code == 200
    assert "store-busy" in caplog.text


def test_a_backup_taken_meanwhile_is_whole(client_with, sqlite, tmp_path):
    client = client_with(**sqlite).solve_here()
    run = client.ask(RUN, path=RUNS).json()["id"]
    for index in range(3):
        client.put(run, index, WINDOW)
    folder = tmp_path / "copy"
    folder.mkdir()
    source = sqlite3.connect(sqlite["data_folder"] / FILE)
    source.execute("VACUUM INTO ?", (str(folder / FILE),))
    source.close()
    copy = client_with(data_folder=folder)
    assert copy.get(f"{RUNS}/{run}").content == client.get(f"{RUNS}/{run}").content
    assert copy.put(run, 3, WINDOW).status_code == 201


def test_states_are_small(store, client_with, kept):
    """Settings and objectives are not repeated in every state."""
    client = client_with(**kept).solve_here()
    run = client.ask(RUN, path=RUNS).json()["id"]
    for index in range(3):
        client.put(run, index, WINDOW)
    (state,) = store.read(lambda c: c.execute(sa.select(windows.c.state).where(windows.c.number == 2)).one())
    assert json.loads(state).keys() == {"schema", "index", "chosen", "cells", "decision"}
    assert len(state) < 2500
