"""Recompute a study's main numbers from its ledger, without specsafe: sqlite3, json and scipy alone.

Usage: python tests/recount_study.py LEDGER STUDY_JSON. Prints how many numbers agree; exit 1 names what differs.
Which cells there are is taken from the result, labels from the ledger's score table; everything else is counted again.
"""

import json
import math
from collections import defaultdict

import numpy as np
from scipy.stats import t

from recounting import UNSCORED, count, is_harm, main, mcnemar, same, same_rate, tango


def slope(columns, doses, clusters):
    """Least squares of items x doses with cluster totals (CR1) -> slope, half its 95 % interval."""
    y, x = np.array(columns).T, np.array(doses) - np.mean(doses)
    spread = (x**2).sum() * len(y)
    at = (y @ x).sum() / spread
    totals = defaultdict(float)
    for cluster, value in zip(clusters, (y - y.mean() - at * x) @ x, strict=True):
        totals[cluster] += value
    m = len(totals)
    se = math.sqrt(m / (m - 1) * sum(v**2 for v in totals.values())) / spread
    return at, t.ppf(0.975, m - 1) * se


class Study:
    """The rows of a ledger, by cell."""

    def __init__(self, db, result):
        (resolved,) = db.execute("SELECT resolved FROM study").fetchone()
        tasks = json.loads(resolved)["tasks"]
        self.task = {i: name for name, ids in tasks.items() for i in ids}
        self.item = {r["id"]: r for r in db.execute("SELECT id, axis, cluster, scorer FROM item")}
        self.arms = {r["role"]: r["id"] for r in db.execute("SELECT role, id FROM arm")}
        self.cells = {c["key"]: c for c in result["cells"]}
        self.items = {
            k: [i for x, n in c["tasks"].items() for i in tasks[x][:n]] for k, c in self.cells.items()
        }
        scores = db.execute("SELECT item, text_sha256, scorer, record FROM score")
        label = {(i, x, s.split("@")[0]): json.loads(r)["label"] for i, x, s, r in scores}
        columns = "arm, replicate, item, text, text_sha256, finish, drafted, accepted, rounds, accepted_at"
        query = f"SELECT {columns} FROM sample"  # noqa: S608
        rows = {(r["arm"], r["replicate"], r["item"]): r for r in db.execute(query)}
        failed = {tuple(r) for r in db.execute("SELECT arm, replicate, item FROM failure")}
        self.rows, self.failed, self.harm = {}, {}, {}
        for key, c in self.cells.items():
            arm = self.arms.get(c["arm"])
            places = [(arm, r, i) for r in c["replicates"] for i in self.items[key]]
            self.rows[key] = {p: rows[p] for p in places if p in rows}
            self.failed[key] = sum(p in failed and p not in rows for p in places)
            told = {
                p: label.get((p[2], r["text_sha256"], self.item[p[2]]["scorer"]))
                for p, r in self.rows[key].items()
            }
            known = {p: x for p, x in told.items() if x not in (UNSCORED, None)}
            self.harm[key] = {p: is_harm(x, self.item[p[2]]["axis"]) for p, x in known.items()}

    def first(self, key, values=None):
        """Item -> what its first sample was."""
        found, one = {}, self.cells[key]["replicates"][0]
        for (_, replicate, item), value in (values or self.harm)[key].items():
            if replicate == one:
                found[item] = value
        return found

    def chosen(self, key, line):
        ids = self.items[key]
        return [
            i
            for i in ids
            if line["axis"] in ("", self.item[i]["axis"]) and line["task"] in ("", self.task[i])
        ]

    def pairs(self, key, line):
        """(harm before, harm after) of the items of a line that both cells have scored."""
        before, after = self.first(self.cells[key]["baseline"]), self.first(key)
        return [(before[i], after[i]) for i in self.chosen(key, line) if i in before and i in after]


def counts(study, result):
    for key, c in study.cells.items():
        same(f"{key} planned", len(study.items[key]) * len(c["replicates"]), c["planned"])
        same(f"{key} answered", len(study.rows[key]), c["answered"])
        same(f"{key} failed", study.failed[key], c["failed"])
        same(f"{key} missing", c["planned"] - c["answered"] - c["failed"], c["missing"])
        same(f"{key} cut off", sum(r["finish"] == "length" for r in study.rows[key].values()), c["truncated"])


def contrasts(study, passes, alpha):
    for line in passes["equivalence"]["lines"]:
        pairs, e = study.pairs(line["cell"], line), line["estimates"][0]
        b, c, n = count(pairs)
        name = f"equivalence {line['cell']} {line['axis']} {line['task']}"
        for what, value in (("worse", b), ("better", c)):
            same(f"{name} {what}", value, e["parts"][what])
        same(f"{name} n", n, e["n"])
        same(f"{name} difference", (b - c) / n, e["estimate"])
        if e["parts"]["clusters"] == e["n"]:
            for what, value in zip(("low", "high"), tango(b, c, n, 1 - 2 * alpha), strict=True):
                same(f"{name} {what}", value, e[what], 1e-5)
    for line in (*passes["mcnemar_exact_rule"]["lines"], *passes["mcnemar_typical"]["lines"]):
        pairs, e = study.pairs(line["cell"], line), line["estimates"][0]
        b, c, _ = count(pairs)
        same(f"McNemar {line['cell']} {line['axis']}", mcnemar(b, c), e["p"])


def alone(study, passes):
    for line in passes["baseline_rates"]["lines"]:
        key = line["cell"]
        if study.cells[key]["temperature"] == 0:
            harm = study.first(key)
            known = [harm[i] for i in study.chosen(key, line) if i in harm]
            same_rate(
                f"alone {key} {line['axis']} {line['task']}", sum(known), len(known), line["estimates"][0]
            )


def identity(study, passes):
    for line in passes["identity"]["lines"]:
        key = line["cell"]
        one, other = study.first(study.cells[key]["baseline"], study.rows), study.first(key, study.rows)
        both = [i for i in study.chosen(key, line) if i in one and i in other]
        k = sum(one[i]["text"] == other[i]["text"] for i in both)
        same_rate(f"identity {key} {line['axis']} {line['task']}", k, len(both), line["estimates"][0])


def doses(study, passes):
    for line in passes["dose_response"]["lines"]:
        path, _, rest = line["of"].partition(": ")
        pair = next(c["pair"] for c in study.cells.values() if c["pair"] and rest.startswith(f"{c['pair']} "))
        series = [
            k
            for k, c in study.cells.items()
            if k.startswith(f"{path}: ") and c["pair"] == pair and c["drafted"]
        ]
        series = sorted(series, key=lambda k: study.cells[k]["drafted"])
        before = study.first(study.cells[series[0]]["baseline"])
        after = [study.first(k) for k in series]
        items = [i for i in study.chosen(series[0], line) if i in before and all(i in a for a in after)]
        columns = [[float(a[i]) for i in items] for a in after]
        found, e = (
            slope(
                columns,
                [study.cells[k]["drafted"] for k in series],
                [study.item[i]["cluster"] for i in items],
            ),
            line["estimates"][0],
        )
        same(f"slope {line['of']} {line['axis']} {line['task']}", found[0], e["estimate"], 1e-9)
        if e["high"] is not None:
            same(f"slope {line['of']} {line['axis']} width", found[1], (e["high"] - e["low"]) / 2)


def acceptance(study, passes):
    for line in passes["acceptance_by_domain"]["lines"]:
        if line["axis"]:
            e, chosen = line["estimates"][0], set(study.chosen(line["cell"], line))
            rows = [r for p, r in study.rows[line["cell"]].items() if p[2] in chosen and r["drafted"]]
            same(f"accepted {line['cell']} {line['axis']}", sum(r["accepted"] for r in rows), e["k"])
            same(f"drafted {line['cell']} {line['axis']}", sum(r["drafted"] for r in rows), e["n"])
    for line in passes["matched_positions"]["lines"]:
        if line["of"] == "slot 1":
            e, chosen = line["estimates"][0], set(study.chosen(line["cell"], line))
            rows = [r for p, r in study.rows[line["cell"]].items() if p[2] in chosen and r["drafted"]]
            same(
                f"slot 1 {line['cell']} {line['axis']}",
                sum(json.loads(r["accepted_at"])[0] for r in rows),
                e["k"],
            )
            same(f"rounds {line['cell']} {line['axis']}", sum(r["rounds"] for r in rows), e["n"])


def sampled(study, passes):
    for line in passes["temperature"]["lines"]:
        key, e = line["cell"], line["estimates"][0]
        means = []
        for of in (study.cells[key]["baseline"], key):
            by_item = defaultdict(list)
            for (_, _, item), harm in study.harm[of].items():
                by_item[item].append(harm)
            means.append({i: sum(v) / len(v) for i, v in by_item.items()})
        items = [i for i in study.chosen(key, line) if i in means[0] and i in means[1]]
        same(f"sampled {key} {line['axis']} {line['task']} n", len(items), e["n"])
        same(
            f"sampled {key} difference",
            sum(means[1][i] - means[0][i] for i in items) / len(items),
            e["estimate"],
            1e-9,
        )


def decided(study, result):
    for cell in result["gates"]:
        for gate in cell["gates"]:
            pairs, d = study.pairs(cell["cell"], {"axis": gate["axis"], "task": ""}), gate["decision"]
            for what, value in zip(("worse", "better", "pairs"), count(pairs), strict=True):
                same(f"gate {cell['cell']} {gate['axis']} {what}", value, d[what])


def check(db, result):
    study, passes = Study(db, result), {p["name"]: p for p in result["passes"]}
    counts(study, result)
    contrasts(study, passes, result["alpha"])
    for part in (alone, identity, doses, acceptance, sampled):
        part(study, passes)
    decided(study, result)


if __name__ == "__main__":
    main(check)
