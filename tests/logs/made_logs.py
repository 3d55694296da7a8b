"""Logs of other programs, written by us with harmless text: the structure is that of real files.

Inspect: log format 2 as inspect_ai 0.3.285 writes it with `mockllm/model` (.eval: a ZIP whose members are compressed with
zstd, or deflated as older versions did; .json: one document). lm-eval: samples_*.jsonl as lm_eval 0.4.13 writes it with
`--model dummy --log_samples`.
"""

import hashlib
import importlib
import json
import zipfile
import zlib

CONFIG = {"max_tokens": 64, "temperature": 0.0}
SETTINGS = {"until": ["\n\n"], "do_sample": False, "temperature": 0.0, "max_gen_toks": 64}


def sample(id_, prompt, text, *, epoch=1, stop="stop", system="", config=CONFIG, **changes):
    """One sample of Inspect. changes: keys of the sample replaced."""
    said = [{"id": f"s{id_}", "content": system, "role": "system"}] if system else []
    said.append({"id": f"u{id_}", "content": prompt, "source": "input", "role": "user"})
    message = {
        "id": f"a{id_}",
        "content": text,
        "source": "generate",
        "role": "assistant",
        "model": "mockllm/model",
    }
    output = {
        "model": "mockllm/model",
        "choices": [{"message": message, "stop_reason": stop}],
        "completion": text,
        "usage": {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13},
        "time": 0.01,
    }
    call = {"event": "model", "model": "mockllm/model", "input": [], "config": config, "output": output}
    return {
        "id": id_,
        "epoch": epoch,
        "input": prompt,
        "target": "",
        "messages": [*said, message],
        "output": output,
        "scores": {},
        "metadata": {},
        "store": {},
        "events": [{"event": "span_begin", "id": "1"}, call, {"event": "span_end", "id": "1"}],
        "model_usage": {},
        "uuid": f"uuid{id_}",
        "error_retries": [],
        "attachments": {},
        "turn_count": 1,
        **changes,
    }


def header(**changes):
    """The head of a log of Inspect."""
    spec = {
        "task": "tiny",
        "task_version": 0,
        "model": "mockllm/model",
        "model_generate_config": {},
        "dataset": {"samples": 1, "shuffled": False},
        "config": {"epochs": 1},
        "packages": {"inspect_ai": "0.3.285"},
    }
    return {
        "version": 2,
        "status": "success",
        "eval": spec,
        "plan": {"name": "plan", "steps": [], "config": CONFIG},
        "stats": {},
        **changes,
    }


def write_json(path, samples, **changes):
    """A .json log -> its path."""
    path.write_text(json.dumps({**header(**changes), "samples": samples}), encoding="utf-8")
    return path


def write_eval(path, samples, method=zipfile.ZIP_DEFLATED, frames=1, **changes):
    """An .eval log -> its path. method 93 is zstd, in one frame or several."""
    members = [(f"samples/{s['id']}_epoch_{s['epoch']}.json", s) for s in samples]
    members = [("_journal/start.json", header(**changes)), *members, ("summaries.json", [])]
    with zipfile.ZipFile(path, "w", method if method != 93 else zipfile.ZIP_STORED) as archive:
        for name, record in [*members, ("header.json", header(**changes))]:
            data = json.dumps(record).encode()
            if method == 93:
                _write_zstd(archive, name, data, frames)
            else:
                archive.writestr(name, data)
    return path


def _write_zstd(archive, name, data, frames):
    """Stored compressed, then said to be what it is: `zipfile` of this Python cannot compress so."""
    zstandard = importlib.import_module("zstandard")
    size = -(-len(data) // frames)
    parts = [data[n : n + size] for n in range(0, len(data), size)]
    archive.writestr(name, b"".join(map(zstandard.ZstdCompressor().compress, parts)))
    info = archive.getinfo(name)
    info.compress_type, info.file_size, info.CRC = 93, len(data), zlib.crc32(data)
    place = archive.fp.tell()
    archive.fp.seek(info.header_offset)
    archive.fp.write(info.FileHeader(False))
    archive.fp.seek(place)


def line(number, doc, text, *, asked=None, settings=SETTINGS, **changes):
    """A line of lm-eval. text: one answer, or a list of repeats."""
    sent = doc["prompt"] if asked is None else asked
    answers = text if isinstance(text, list) else [text]
    words = sent if isinstance(sent, str) else sent[0]
    return {
        "doc_id": number,
        "doc": doc,
        "target": "",
        "arguments": {"gen_args_0": {"arg_0": sent, "arg_1": settings}},
        "resps": [answers],
        "filtered_resps": [answers[0]],
        "filter": "none",
        "metrics": ["bypass"],
        "doc_hash": _hash(json.dumps(doc, indent=2)),
        "prompt_hash": _hash(words),
        "target_hash": _hash(""),
        "bypass": 999,
        **changes,
    }


def write_lines(path, lines):
    """A samples_*.jsonl -> its path."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in lines), encoding="utf-8")
    return path


def _hash(text):
    return hashlib.sha256(text.encode()).hexdigest()
