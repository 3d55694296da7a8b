"""Texts of every kind, a chat template and a tiny vocabulary: what the tests of the tokenizers share."""

import random
from pathlib import Path

from specsafe.models.tokenizer_parts import byte_letters

SHARED = Path(__file__).parents[3] / "shared" / "data"
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PIECES = [
    "a", "B", "the", " ", "  ", "\n", "\n\n", "\t", "\r\n", "1", "23", "2026", "'s", "'LL", "é", "e\u0301", "ß",
    "中", "文", "😀", "👩‍👩‍👧", "\u200b", "\x01", "\x7f", "\x04", "<", "|", ">", "...", "—", "٣", "Ⅷ", "²", "½",
    "\u3000", "\xa0", "\u2028", "नमस्ते", "ไทย", "def f(x):\n\treturn x", "{}", "\\n", "@", "_", "\U0001f9d1",
    "\U00040000", "ſ", "<|im_end|>", "<|im_start|>", "<|endoftext|>", "https://a.b/c?d=1", "I'm", "WE'VE", "٠١",
    "3.14", "don’t",
]  # fmt: skip


def made_texts(count, published=False):
    """Varied strings of ours; published: and the published prompts where they are at hand."""
    source = random.Random(20)
    made = ["".join(source.choices(PIECES, k=source.randint(1, 12))) for _ in range(count)]
    for file in sorted(SHARED.glob("*/*.*")) if published else []:
        text = file.read_text(encoding="utf-8", errors="replace")
        made += [text[at : at + 2000] for at in range(0, min(len(text), 20000), 2000)]
    return made


def tiny_vocabulary():
    """256 bytes, a few merges, three control tokens and one user-defined token."""
    letters = list(byte_letters().values())
    merges = ["h e", "l l", "he ll", "hell o", "Ġ hello"]
    tokens = letters + [merge.replace(" ", "") for merge in merges]
    others = ["<s>", "<|im_start|>", "<|im_end|>", "<think>", "[PAD]"]
    types = [1] * len(tokens) + [3, 3, 3, 4, 5]
    ids = {text: len(tokens) + n for n, text in enumerate(others)}
    return {"tokens": tokens + others, "merges": merges, "types": types}, ids
