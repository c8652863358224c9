"""lm-evaluation-harness with --log_samples: `samples_{task}_{date}.jsonl`.

One row per document and filter, so that one filter must be chosen; `score=` takes a filter, a metric, or both as the
harness writes them ("exact_match,strict-match"). Repeats of a task were collapsed into one score before they were
saved: such a row is one rollout.
"""

from rl2ml_core.errors import InvalidTable
from rl2ml_core.pilot.rollouts.columns import column, declared, id_in_file, scoped
from rl2ml_core.pilot.rollouts.format import Format, Head, Options, Scan, listed, require
from rl2ml_core.pilot.rollouts.sql import content_key, literal

__all__ = ["FORMAT"]

#: Responses of a generation are strings; the others are log-likelihoods, one per choice.
_GENERATED = "json_type({0}, '$[0][0]') = 'VARCHAR'"


def _matches(head: Head) -> bool:
    return head.kind == "jsonl" and head.has("doc_id", "doc", "resps", "filtered_resps")


def _plan(head: Head, options: Options) -> Scan:
    require(head, FORMAT.title, "doc_id", "doc", "resps")
    filters = head.distinct("filter") if "filter" in head.fields else []
    metric, filter_name = _chosen(head, options, filters)
    others = [name for name in [*filters, *_metrics(head)] if name not in (metric, filter_name)]
    score = column(head, metric, "JSON")
    doc_id, responses = column(head, "doc_id"), column(head, "resps")
    used = [score, doc_id, responses]
    # The hashes are short; the document itself where a version did not have them.
    names = ("doc_hash", "prompt_hash") if head.has("doc_hash") else ("doc",)
    content = [column(head, name) for name in names if name in head.fields]
    used += content
    cases = f"WHEN {responses.text} IN ('[]', '[[]]', '[[\"\"]]') THEN 'empty'"
    if filter_name is not None:
        which = column(head, "filter")
        used.append(which)
        cases = f"WHEN {which.text} IS DISTINCT FROM {literal(filter_name)} THEN 'other filter' {cases}"
    return Scan(
        format="lm_eval",
        kind=head.kind,
        columns=declared(head, used),
        prompt=content_key(*(f"coalesce({one.text}, '')" for one in content)),
        shown=f"concat('doc_id ', {doc_id.text})",
        score=score.number,
        given=score.text,
        skip=f"CASE {cases} END",
        prompt_id=id_in_file(doc_id.text),
        shown_id=doc_id.text,
        # The harness numbers documents: two rows of one, with the same filter, are one rollout twice.
        rollout=scoped(doc_id.text),
        noted=f"json_array_length({responses.text}, '$[0]') > 1 AND {_GENERATED.format(responses.text)}",
        note=("collapsed_repeats", "Scores that stand for several responses each, of which the harness kept no others"),
        others=tuple(others),
    )


def _chosen(head: Head, options: Options, filters: list[str]) -> tuple[str, str | None]:
    """The metric and the filter that count; the filter is None where there is none."""
    metrics = _metrics(head)
    metric = options.success.column if options.success else None
    chosen_filter = None
    for part in options.score.split(",") if options.score and options.score not in filters else [options.score]:
        if part is None:
            continue
        if part in filters:
            chosen_filter = part
        elif part in head.fields:
            metric = part
        else:
            raise InvalidTable(
                f"score names neither a filter ({listed(filters)}) nor a metric ({listed(metrics)}); got {part!r:.60}",
                field="score",
            )
    if options.reward is not None:
        metric = options.reward
    if metric is None:
        if len(metrics) != 1:
            raise InvalidTable(
                f"several metrics: {listed(metrics)}; say which counts, such as score={metrics[0]!r}"
                if metrics
                else "no metric found in the first record",
                field="score",
            )
        metric = metrics[0]
    if chosen_filter is None and len(filters) > 1:
        raise InvalidTable(
            f"several filters give each rollout a score of its own: {listed(filters)}; say which counts, such as "
            f"score={filters[0]!r}",
            field="score",
        )
    return metric, chosen_filter or (filters[0] if filters else None)


def _metrics(head: Head) -> list[str]:
    said = head.first.get("metrics")
    names = said if isinstance(said, list) else []
    known = [name for name in names if isinstance(name, str) and name in head.fields]
    if known:
        return known
    # Before there was a list, metrics came last.
    numbers = [name for name, value in head.first.items() if isinstance(value, (int, float))]
    return [name for name in numbers if name != "doc_id"]


FORMAT = Format(
    name="lm_eval",
    title="lm-evaluation-harness samples",
    fields="doc_id, doc, resps, filtered_resps, filter, metrics",
    matches=_matches,
    plan=_plan,
)
