"""A batch of files to its partial aggregate, in one statement.

Rows become rollouts (each once), rollouts with the same prompt and completion are compared, and what remains is counted
per prompt. Levels that a format has no roles for are left out: a plain table is one GROUP BY.
"""

from rl2ml_core.pilot.rollouts.columns import FILE
from rl2ml_core.pilot.rollouts.format import Options, Scan
from rl2ml_core.pilot.rollouts.sql import identifier, literal

__all__ = ["INDEX", "KEYS", "MOST_REJECTS", "aggregate_sql", "flat_tally_sql", "rows_sql", "source_sql"]

#: The number of a row's file in its batch.
INDEX = "rl2ml_index"

#: What a partial aggregate may be keyed by, with the roles behind, besides its file and the reason of a skip.
KEYS = {"step": "BIGINT", "prompt": "UHUGEINT", "prompt_id": "UHUGEINT", "sample": "UHUGEINT"}

#: DuckDB's buffers are 16 times as large.
_LONGEST_CSV_LINE = 1 << 22

#: Rows of csv that cannot be parsed and are left out, by file; a file with more of them is none.
MOST_REJECTS = 10_000
_REJECTS = (
    f", store_rejects = true, rejects_table = 'rl2ml_rejects', rejects_scan = 'rl2ml_rejected_files', "
    f"rejects_limit = {MOST_REJECTS}"
)


def source_sql(scan: Scan, paths: list[str], *, skip_errors: bool, longest: int, rejects: bool = False) -> str:
    """The rows of files as they are, with the path and the number of each row's file.

    Args:
        scan: of all of them.
        paths: absolute.
        skip_errors: rows that cannot be parsed become NULLs.
        longest: bytes that one record may hold.
        rejects: what cannot be parsed of csv goes to the tables rl2ml_rejects and rl2ml_rejected_files.
    """
    if scan.documents is not None:
        return f"(SELECT *, {literal(paths[0])} AS {FILE}, 0 AS {INDEX} FROM rl2ml_documents)"
    files = f"[{', '.join(literal(_escaped(path)) for path in paths)}]"
    types = f"{{{', '.join(f'{literal(name)}: {literal(kind)}' for name, kind in scan.columns)}}}"
    compression = "uncompressed" if scan.compression == "none" else scan.compression
    # A folder named reward=0 must not win over a column.
    folders = "hive_partitioning = false"
    options = f"compression = {literal(compression)}, ignore_errors = {str(skip_errors).lower()}, {folders}"
    if scan.kind == "parquet":
        reader = f"read_parquet({files}, {folders})"
    elif scan.kind == "jsonl":
        reader = f"read_ndjson({files}, columns = {types}, maximum_object_size = {longest}, {options})"
    else:
        reader = (
            f"read_csv({files}, columns = {types}, auto_detect = false, header = true, "
            f"delim = {literal(chr(9) if scan.kind == 'tsv' else ',')}, quote = '\"', escape = '\"', "
            f"strict_mode = true, max_line_size = {_LONGEST_CSV_LINE}, {options}{_REJECTS if rejects else ''})"
        )
    if len(paths) == 1:
        return f"(SELECT *, {literal(paths[0])} AS {FILE}, 0 AS {INDEX} FROM {reader})"
    return f"(SELECT *, filename AS {FILE}, file_index AS {INDEX} FROM {reader})"


def _escaped(path: str) -> str:
    """A path that DuckDB takes for no pattern."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in path)


def rows_sql(scan: Scan, source: str, options: Options, **more: str) -> str:
    """One row per row of the files: their roles, and why a row is not counted; and more columns, if any."""
    roles = {
        **more,
        "file": INDEX,
        "prompt": scan.prompt,
        "score": scan.score,
        "given": scan.given,
        "step": scan.step,
        "prompt_id": scan.prompt_id,
        "sample": scan.group,
        "rollout": scan.rollout,
        "nth": f"coalesce({scan.order}, 0)" if scan.order else None,
        "completion": scan.completion,
        "k": scan.counts[0] if scan.counts else None,
        "n": scan.counts[1] if scan.counts else None,
        "noted": f"coalesce({scan.noted}, false)" if scan.noted else None,
        "unfit": scan.skip,
        "malformed": _malformed(scan) if options.skip_errors else None,
    }
    selected = ", ".join(f"{sql} AS {name}" for name, sql in roles.items() if sql is not None)
    return f"SELECT *, {_skip(scan, options)} AS skip FROM (SELECT {selected} FROM {source})"


def _malformed(scan: Scan) -> str | None:
    """Rows that could not be parsed, of which nothing is left."""
    if scan.kind != "jsonl" or scan.documents is not None:
        return None
    return f"coalesce({', '.join(f'CAST({identifier(name)} AS VARCHAR)' for name, _ in scan.columns)}) IS NULL"


def _skip(scan: Scan, options: Options) -> str:
    cases = []
    if options.skip_errors and _malformed(scan):
        cases.append(("malformed", "unreadable"))
    if options.steps is not None:
        first, end = options.steps
        cases.append((f"step IS NULL OR step < {first} OR step >= {end}", "outside steps"))
    before = " ".join(f"WHEN {condition} THEN '{reason}'" for condition, reason in cases)
    after = [("prompt IS NULL", "no prompt")]
    if scan.rollout is not None:
        after.append(("rollout IS NULL", "no id"))
    if scan.counts is not None:
        whole = "k >= 0 AND n >= 1 AND k <= n AND n <= 10000000 AND k = floor(k) AND n = floor(n)"
        after.append((f"NOT coalesce({whole}, false)", "not counts"))
    after += [
        ("given IS NULL", scan.missing),
        ("score IS NULL OR isinf(score)", "not a number"),
        ("isnan(score)", scan.missing),
    ]
    last = " ".join(f"WHEN {condition} THEN '{reason}'" for condition, reason in after)
    unfit = "WHEN unfit IS NOT NULL THEN unfit " if scan.skip else ""
    return f"CAST(CASE {before} {unfit}{last} END AS rl2ml_reason)"


def flat_tally_sql(scan: Scan, source: str, options: Options) -> str:
    """What became of the rows of each file, where rows are rollouts as they are; columns as in `Engine.tallies`."""
    partial = "count_if(skip IS NULL AND score NOT IN (0, 1))"
    counts = f"count(*), count_if(skip IS NULL), count_if(skip IS NULL), {partial}, 0, 0"
    return f"SELECT file, CAST(skip AS VARCHAR), {counts} FROM ({rows_sql(scan, source, options)}) GROUP BY file, skip"


def aggregate_sql(scan: Scan, source: str, options: Options, *, by_file: bool) -> str:
    """The partial aggregate of a batch.

    Columns: `file` if it is to be told apart; the keys that the format has; `skip`; and counts per group: `seen` rows,
    `used` ones, `n`, `k`, `partial` scores beside 0 and 1, `flaky` completions with both outcomes, and `noted` rows.
    """
    roles = {"step": scan.step, "prompt": scan.prompt, "prompt_id": scan.prompt_id, "sample": scan.group}
    keys = [name for name in KEYS if roles[name] is not None]
    own = {name: f"CASE WHEN skip IS NULL THEN {name} END" for name in keys}
    file = ["file"] if by_file else []
    rows = f"({rows_sql(scan, source, options)})"
    success = scan.success(options)
    noted = "count_if(noted AND skip IS NULL)" if scan.noted else "0"
    named = ", ".join(f"{sql} AS {name}" for name, sql in own.items())
    kept = ", ".join([*file, "skip", named])
    if scan.counts is not None or (scan.rollout is None and scan.completion is None):
        n, k, partial = "count(*)", f"count_if({success})", "count_if(score NOT IN (0, 1))"
        if scan.counts is not None:
            n, k = (f"CAST(sum(CAST({name} AS BIGINT)) AS BIGINT)" for name in ("n", "k"))
            partial = "0"
        return (
            f"SELECT {kept}, count(*) AS seen, count(*) AS used, {n} AS n, {k} AS k, {partial} AS partial, 0 AS flaky, "
            f"{noted} AS noted FROM {rows} GROUP BY ALL"
        )
    completion = "completion" if scan.completion else "NULL"
    if scan.rollout is not None:
        # The least row of a rollout, by the order of its outputs and then by value: the same in whatever order they
        # are read.
        rest = [name for name in keys if name not in ("step", "sample")]
        fields = ["nth" if scan.order else "0", "score", *rest, *(["completion"] if scan.completion else [])]
        fields += ["noted"] if scan.noted else []
        packed = ", ".join(f"f{i} := {name}" for i, name in enumerate(fields))
        unpacked = ", ".join(f"least.f{i} AS {name}" for i, name in enumerate(fields) if i)
        both = ", ".join([*file, *(name for name in ("step", "sample") if name in keys)])
        both = f"{both}, " if both else ""
        rollout = "CASE WHEN skip IS NULL THEN rollout END"
        rows = (
            f"(SELECT {both}skip, seen, {unpacked} FROM (SELECT {both}skip, {rollout} AS rollout, count(*) AS seen, "
            f"min(struct_pack({packed})) AS least FROM {rows} GROUP BY ALL))"
        )
    else:
        rows = f"(SELECT *, 1 AS seen FROM {rows})"
    alike = (
        f"(SELECT {kept}, CASE WHEN skip IS NULL THEN {completion} END AS completion, "
        f"CAST(sum(seen) AS BIGINT) AS seen, count(*) AS n, count_if({success}) AS k, "
        f"count_if(score NOT IN (0, 1)) AS partial, {noted} AS noted FROM {rows} GROUP BY ALL)"
    )
    flaky = "count_if(k > 0 AND k < n)" if scan.completion else "0"
    out = ", ".join([*file, "skip", *keys])
    sums = {"seen": "seen", "used": "n", "n": "n", "k": "k", "partial": "partial", "noted": "noted"}
    summed = ", ".join(f"CAST(sum({name}) AS BIGINT) AS {total}" for total, name in sums.items())
    return f"SELECT {out}, {summed}, {flaky} AS flaky FROM {alike} GROUP BY ALL"
