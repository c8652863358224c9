"""From rows to cells in SQL: what the engine runs, and what runs the same elsewhere.

`DEDUPLICATED`, `PER_PROMPT`, `CELLS` and `PER_STEP` are plain SQL over a table of rows
(step, prompt, sample, rollout, output, score), a score that is missing being NULL: they run unchanged on Spark, DuckDB,
Postgres or BigQuery. The engine builds its partial aggregates from the same steps, with the columns that a format has.
"""

import re

__all__ = [
    "CELLS",
    "DEDUPLICATED",
    "PER_PROMPT",
    "PER_STEP",
    "content_key",
    "id_key",
    "identifier",
    "integer_key",
    "literal",
    "matches_text",
    "number",
    "published",
]

#: A rollout that a dump repeats, in several outputs or rows, counts once, by its first output. `sample` is the group of
#: rollouts that were sampled together, `rollout` its number among them, `output` the number of a row among the
#: rollout's. A file's ids hold within the file: put its name into `sample` where there are several.
DEDUPLICATED = """\
SELECT step, prompt, score
FROM (
  SELECT step, prompt, score,
    ROW_NUMBER() OVER (PARTITION BY step, sample, rollout ORDER BY output, score, prompt) AS nth
  FROM {rollouts}
  WHERE score IS NOT NULL
) AS numbered
WHERE nth = 1"""

#: n and k of each prompt. At two steps it is two prompts: the policy has moved in between. {rollouts} is a table with
#: one row per rollout, {success} a condition on score.
PER_PROMPT = """\
SELECT step, prompt, COUNT(*) AS num_rollouts, SUM(CASE WHEN {success} THEN 1 ELSE 0 END) AS num_successes
FROM {rollouts}
WHERE score IS NOT NULL
GROUP BY step, prompt"""

#: The pilot: how many prompts had k successes in n rollouts. {prompts} is a table like the result of PER_PROMPT.
CELLS = """\
SELECT num_rollouts, num_successes, COUNT(*) AS num_prompts
FROM {prompts}
GROUP BY num_rollouts, num_successes
ORDER BY num_rollouts, num_successes"""

#: Per step, from the same.
PER_STEP = """\
SELECT step, COUNT(*) AS prompts, SUM(num_rollouts) AS rollouts, SUM(num_successes) AS successes
FROM {prompts}
GROUP BY step
ORDER BY step"""


def published(success: str = "score >= 1", *, table: str = "rollouts", repeated: bool = True) -> str:
    """The whole way from rows to cells as one statement to paste.

    Args:
        success: a condition on score.
        table: of the rows.
        repeated: rows may repeat a rollout. Without it only step, prompt and score are needed.
    """
    parts = {"deduplicated": DEDUPLICATED.format(rollouts=table)} if repeated else {}
    parts["prompts"] = PER_PROMPT.format(success=success, rollouts="deduplicated" if repeated else table)
    tables = ",\n".join(f"{name} AS (\n{_indented(text)}\n)" for name, text in parts.items())
    return f"WITH {tables}\n{CELLS.format(prompts='prompts')}"


def _indented(text: str) -> str:
    return re.sub("^", "  ", text, flags=re.MULTILINE)


def identifier(name: str) -> str:
    """A column's name, quoted: whatever it holds, it stays a name."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A string, quoted."""
    return "'" + text.replace("'", "''") + "'"


def number(value: float) -> str:
    """A finite float, exactly."""
    return f"CAST({value!r} AS DOUBLE)"


def content_key(*texts: str) -> str:
    """128 bits of the MD5 of texts: what identifies a prompt by its content. NULL if one of them is."""
    joined = texts[0] if len(texts) == 1 else "(" + " || chr(31) || ".join(texts) + ")"
    return f"md5_number({joined})"


def id_key(text: str) -> str:
    """A key of an id in text: whole numbers are themselves, so that 17 in a csv is 17 in a parquet file."""
    whole = f"regexp_full_match({text}, '0|-?[1-9][0-9]{{0,17}}')"
    return f"CASE WHEN {whole} THEN {integer_key(f'CAST({text} AS BIGINT)')} ELSE md5_number({text}) END"


def integer_key(value: str) -> str:
    """The same key of an integer column."""
    return f"CAST(CAST({value} AS HUGEINT) + 9223372036854775808 AS UHUGEINT)"


def matches_text(text: str, *values: str) -> str:
    """Whether an expression is one of some strings."""
    return f"{text} IN ({', '.join(map(literal, values))})"
