"""The ledger: every claim is in it, and it is what the command makes of the committed tables."""

from __future__ import annotations

import json
import subprocess
from datetime import datetime

import pandas as pd
import pytest
import yaml

from bondlab.paths import committed_folder, repository_root
from bondlab.study import ledger
from bondlab.study.claims import LEAST, NO, NOT_RUN, YES
from bondlab.study.experiments import EXPERIMENTS
from bondlab.study.ledger_page import page, placed, scoreboard

CSV = committed_folder("report") / "claims.csv"


@pytest.fixture(scope="module")
def committed() -> pd.DataFrame:
    return pd.read_csv(CSV, dtype=str, keep_default_na=False)


def test_it_is_what_the_command_makes_of_the_committed_tables(committed):
    """Else: python -m bondlab claims."""
    assert CSV.read_text() == ledger.table().to_csv(index=False)
    assert (repository_root() / "CLAIMS.md").read_text() == page(committed, ledger.spent())
    readme = (repository_root() / "README.md").read_text()
    assert placed(readme, committed) == readme


def test_the_scoreboard_says_what_a_verdict_hangs_on(committed):
    """A line per claim in six words; a worse answer's number goes before a better one's, a place
    with more seeds before another, and language models before the toy."""
    lines = scoreboard(committed).splitlines()[2:]
    assert len(lines) == committed["id"].nunique()
    assert all(1 <= len(words.split()) <= 6 for words in committed["short"])
    own = {"id": "C0", "short": "x", "source": "section 6, Fig. 3", "rule fixed": "before"}
    told = [("a", "1", "one run: suggests no", "no"), ("b", "3", "open", "yes"),
            ("b", "3", "open", "open"), ("c", "1", "one run: suggests no", "no"),
            ("toy, N = 4", "100", "repeated", "yes")]  # fmt: skip
    rows = [
        {"where": w, "seeds": s, "verdict": v, "says": a, "measured": f"log quantile {place}",
         "effect": str(place), "low": "0", "high": "9", "kind": w.split(",")[0], **own}
        for place, (w, s, v, a) in enumerate(told)
    ]  # fmt: skip
    board = scoreboard(pd.DataFrame(rows))
    assert board.splitlines()[2] == (
        "| Fig. 3 | [x](CLAIMS.md#c0) | repeated (N = 4) | open (b); one run: suggests no (a; c) "
        "| log quantile 2: 2 [0, 9] | 3 |"
    )
    with pytest.raises(ValueError, match="must hold"):
        placed("no comments", committed)


def test_every_claim_of_the_paper_is_in_it(committed):
    known = {identity.split()[0].rstrip("abc") for identity in committed["id"]}
    assert {f"C{i}" for i in range(1, 17)} <= known
    asked = {claim.id for experiment in EXPERIMENTS.values() for claim in experiment.claims}
    assert asked <= {*committed["id"]}
    lines = committed[["id", "where", "measured"]]
    assert not lines.duplicated().any()
    assert set(committed["kind"]) == {"toy", "real models"}


def test_no_verdict_rests_on_fewer_seeds_than_it_takes(committed):
    final = committed[committed["verdict"].isin([YES, NO])]
    assert (final["seeds"].astype(int) >= LEAST).all()


def manifests() -> dict[str, dict]:
    """Those of all committed runs, by the run's name."""
    tables = map(pd.read_parquet, committed_folder("").rglob("results_runs.parquet"))
    return {
        run: json.loads(manifest)
        for table in tables for run, manifest in zip(table["run"], table["manifest"], strict=True)
    }  # fmt: skip


def test_what_decides_claims_was_computed_by_a_commit(committed):
    """No code that was never committed, so that whoever checks a number can run what made it."""
    known = manifests()
    runs = {run for names in committed["runs"] for run in names.split()}
    assert runs and [run for run in runs if known[run]["dirty"] or not known[run]["commit"]] == []


def test_a_rule_that_is_younger_than_its_runs_says_so(committed):
    """Against the manifests beside the tables; a verdict that says "before" has no older run."""
    starts = {run: datetime.fromisoformat(known["started"]) for run, known in manifests().items()}
    decided = committed[committed["runs"] != ""].drop_duplicates(["id", "where"])
    assert len(decided) and set(committed.loc[committed["runs"] == "", "verdict"]) <= {NOT_RUN, YES}
    for line in decided.to_dict("records"):
        fixed = datetime.fromisoformat(f"{line['rule fixed (UTC)']}+00:00")
        older = any(starts[run] < fixed for run in line["runs"].split())
        assert line["rule fixed"] == ("after these runs" if older else "before these runs")


def test_a_rule_s_date_is_no_earlier_than_its_commit(committed):
    """The commit that brought each date into the study's code, where its history is there."""
    root = repository_root()
    if not (root / ".git").exists() or (root / ".git" / "shallow").exists():
        pytest.skip("not a whole clone")
    for date in committed["rule fixed (UTC)"].unique():
        ask = ["git", "log", "--reverse", "--format=%cI", f"-S{date.replace(' ', 'T')}"]
        found = subprocess.run(
            [*ask, "--", "bondlab/study"], cwd=root, capture_output=True, text=True, check=True
        )
        first = datetime.fromisoformat(found.stdout.split()[0])
        assert first <= datetime.fromisoformat(f"{date}+00:00")


def test_theorem_1_is_wrong_where_ties_are_left_out(monkeypatch):
    """The check can fail: where ties are broken by the outcomes' order, the law is another."""
    assert ledger.THEOREM.decide(ledger.enumerated()).verdict == YES
    pmf = ledger.best_of_n.pmf
    apart = lambda probs, rewards, n: pmf(probs, rewards + 0.1 * rewards.argsort(), n)  # noqa: E731
    monkeypatch.setattr(ledger.best_of_n, "pmf", apart)
    assert ledger.THEOREM.decide(ledger.enumerated()).verdict == NO


def test_both_citations_name_the_same_work_and_paper():
    root = repository_root()
    meta, citation = (
        yaml.safe_load((root / f).read_text()) for f in ("metadata.yaml", "CITATION.cff")
    )
    assert meta["title"].endswith(citation["preferred-citation"]["title"])
    assert meta["authors"][0]["name"] == citation["authors"][0]["name"]
    (url,) = [line["url"] for line in meta["replication"] if "url" in line]
    assert url == citation["preferred-citation"]["url"]
    assert meta["abstract"].strip() == citation["abstract"].strip()
