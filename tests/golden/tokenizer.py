#!/usr/bin/env python3
"""Golden ids for tests/bpe_test.c, made by Hugging Face's tokenizers (0.19.1).

Run from the root of the repository: python3 tests/golden/tokenizer.py
Writes tests/golden/tokenizer/model.json (a small byte-level BPE) and cases.jsonl: one tokenizer per line with
texts (hexadecimal, any bytes; the library sees them as Python decodes them with errors="replace") and their ids.
With the directory of a large tokenizer as argument, books.txt too: an XXH3 of the ids of whole files."""
import json
import random
import struct
import sys
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

HERE = Path(__file__).parent / "tokenizer"
SAMPLE = """The quick brown fox jumps over the lazy dog; don't we've I'll it's they're.
#include <stdio.h>
int main(int argc, char **argv) { return argc == 1 ? 0 : 127; } /* 2024-01-31 12345 */
    for (size_t i = 0; i < n; i++)\n\t\tsum += x[i] * y[i];\r\n
Привет, мир! Это простой русский текст. 汉字测试，中文分词。日本語のテキスト。ひらがなカタカナ 한국어 문장
é è ü ö ø À Å ﬁ ½ ² ٣ Ⅷ 👍 👨‍👩‍👧 🇩🇪 e\u0301 a\u0327\u0301 العربية שלום हिन्दी ไทย
bc bc bc bc bc bc bc ab ab ab ab ab cab cab abca éa éa éa éa
the then there these those other another mother brother together weather whether
"""
GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
BYTES = {**GPT2, "use_regex": False}
PREFIX = {**GPT2, "add_prefix_space": True}
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
CL100K = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$"
          r"|\s*[\r\n]|\s+(?!\S)|\s")
V3 = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
      r"|\s*[\r\n]+|\s+(?!\S)|\s+")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
ATOMS = [" ", "  ", "\t", "\n", "\r\n", "\r", "\n\n", "   \n", "the", "The", "ing", "don't", "I'll", "'S", "'ſ", "we've",
         "1", "12", "2024", "½", "٣", "Ⅷ", "𝟘", "é", "e\u0301", "ö", "ß", "中", "汉字测试", "日本語", "カタカナ", "々", "한국어",
         "Привет", "العربية", "हिन्दी", "👍", "👨‍👩‍👧", "🇩🇪", "\u200d", "\ufeff", "\u00a0", "\u3000", "\u2028", "\u0085", "\u180e",
         "\x00", "\x1c", ".", ",", "!", "--", "...", "()", "/*", "#include", "==", "_foo", "x1", "，", "。", "<s>", "<mask>",
         "\u0327\u0301", "\u1100\u1161\u11a8", "か\u3099", "\u212b", "\ufffd", "aaaa", "        ", "\v", "‿", "K"]


def split(pattern, behavior="Isolated", invert=False, literal=False):
    return {"type": "Split", "pattern": {"String" if literal else "Regex": pattern}, "behavior": behavior, "invert": invert}


def digits(individual):
    return {"type": "Digits", "individual_digits": individual}


def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": [*steps, BYTES] if steps[-1].get("type") != "ByteLevel" else [*steps]}


def added(content, number, **flags):
    token = {"id": number, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}
    return {**token, **flags}


def cases(n):
    """name, pre_tokenizer, and what differs from the default of the other fields."""
    for behavior in ["Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"]:
        for invert in [False, True]:
            yield f"{behavior} {invert}", sequence(split(r"\s", behavior, invert)), {}
        yield f"{behavior} of one or two", sequence(split(r"[a-z]{1,2}|\d", behavior)), {}
        yield f"{behavior} of text", sequence(split("the", behavior, literal=True)), {}
    yield "bytes", BYTES, {}
    yield "gpt2", GPT2, {}
    yield "gpt2 prefix", PREFIX, {}
    yield "prefix of pieces", sequence(split(r"[\r\n]"), {**PREFIX, "use_regex": False}), {}
    yield "digits one by one", sequence(digits(True)), {}
    yield "digits together", sequence(digits(False)), {}
    for name, pattern in [("llama3", LLAMA3), ("cl100k", CL100K), ("v3", V3), ("o200k", O200K)]:
        yield name, sequence(split(pattern)), {}
    yield "v3 steps", sequence(split(r"\p{N}{1,3}"), split(r"[一-龥぀-ゟ゠-ヿ]+"), split(V3)), {}
    yield "v2 steps", sequence(split("[\r\n]"), split(r"\s?[A-Za-zµÀ-ÖØ-öø-ƺͰ-ͳА-ҁ]+"), split(r"\s?[!-/:-~！-／：-～]+"),
                               split(r"\s+$"), split("[一-龥ࠀ-一가-퟿]+"), digits(True)), {}
    for pattern in [r"a*", r"(?=[A-Z])", r"x|(?=b)", r"(?<=[a-z])(?=[A-Z])", r"(?<=\s)\S", r"\bt", r"\B.", r"^.", r".$",
                    r"(?m).+", r"\w+", r"[\w']+", r"\W", r"\h+", r"\D+", r"\S+?", r"(?>a|ab)c?", r"\A\s+", r"\s+\z", r"a|aa|aaa",
                    r"(?:ab|a)(?:c|bcd)?", r"(a|b|12)+?x?", r"\p{N}{1,3}+", r"\p{N}{2}+", r"a{,2}b", r"[aeiou]?+[a-e]", r"(?i)THE",
                    r"(?i:k)", r"\p{Han}+|\p{Katakana}", r"\p{^L}+", r"[^\S\n]+", r"\u0041|\x{74}|\x43", r"(?!\s).", r"\s+\Z"]:
        yield f"pattern {pattern}", sequence(split(pattern)), {}
    yield "nfc", GPT2, {"normalizer": {"type": "NFC"}}
    yield "nfc in a sequence", GPT2, {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}]}}
    yield "whole pieces first", GPT2, {"ignore_merges": True}
    yield "special", GPT2, {"added_tokens": [added("<s>", n), added("<mask>", n + 1, lstrip=True), added("<s>x", n + 2)]}
    yield "phrase", GPT2, {"added_tokens": [added("the then", n)]}
    yield "flags", GPT2, {"added_tokens": [
        added("<s>", n, rstrip=True), added("<mask>", n + 1, lstrip=True, rstrip=True), added("the then", n + 2, single_word=True),
        added("12", n + 3, single_word=True), added(" ", n + 4, lstrip=True, rstrip=True), added("中", n + 5, single_word=True)]}
    yield "normalized", GPT2, {"normalizer": {"type": "NFC"}, "added_tokens": [
        added("e\u0301", n, normalized=True, special=False), added("\u212b", n + 1, normalized=True),
        added("<mask>", n + 2, normalized=True, rstrip=True), added("\u1100\u1161\u11a8", n + 3, normalized=False)]}


# Texts for what random ones seldom meet.
MORE = {
    "bytes": ["".join(f" {a}{b}ther{c}" for a in "wbmo" for b in ["ea", "ro", "o"] for c in ["s", ", the", "ing"]),
              "".join(random.Random(3).choices("abc", k=300))],  # where the longest token is often wrong
    "special": ["<s>x<s> <mask>\n <mask><s", "   <mask>"],
    "phrase": ["x the then y", "the the thenthen then"],
    "flags": ["<s>   <mask>  12 12a the then\t the thenx", "<s>  \n 中中 中 a中", "<mask> <mask>   <s> ", "        "],
    "nfc": ["ze\u0301a e\u0301a", "a\u1abf\u0327 x\u0898\u0301\u0323 \u11935\u11930", "e\u0323\u0302\u0301" + "\u0301\u0323" * 40],
    "normalized": ["e\u0301 é \u212b A\u030a <mask>  \u1100\u1161\u11a8 각"],
}


def texts(name, seed):
    r = random.Random(seed)
    for text in MORE.get(name, []):
        yield text.encode()
    for _ in range(2):
        yield "".join(r.choice(ATOMS) for _ in range(r.randrange(8, 24))).encode()
    yield bytes(r.choice([r.randrange(256), 32, 97, 0xE4, 0xB8, 0xAD, 0xF0, 0x9F, 0x91, 0x8D]) for _ in range(24))
    run = r.choice([" ", "a", "7", "中", "\n", "ab", " t", "the"])
    yield (run * r.choice([20, 50, 135]) + r.choice(["", "x", "5 y"])).encode()


def make_model():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r" ?[^\s]+|\s+"), "isolated"),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    trainer = trainers.BpeTrainer(vocab_size=560, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    t.train_from_iterator([SAMPLE] * 3 + [" " * 70, "a" * 33, "\n" * 9], trainer)
    return json.loads(t.to_str())["model"]


def books(directory, files):
    import xxhash
    t = Tokenizer.from_file(str(Path(directory) / "tokenizer.json"))
    for file in sorted(files):
        ids = t.encode(Path(file).read_bytes().decode(errors="replace"), add_special_tokens=False).ids
        digest = xxhash.xxh3_64_hexdigest(struct.pack(f"<{len(ids)}i", *ids))
        yield f"{Path(file).name} {len(ids)} {digest}\n"


def main():
    model = make_model()
    model["ignore_merges"] = False
    (HERE / "model.json").write_text(json.dumps(model, ensure_ascii=False, separators=(",", ":")) + "\n")
    lines = []
    for seed, (name, pre_tokenizer, other) in enumerate(cases(len(model["vocab"]))):
        head = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": other.get("added_tokens", []),
                "normalizer": other.get("normalizer"), "pre_tokenizer": pre_tokenizer, "post_processor": None,
                "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}}
        ignore = other.get("ignore_merges", False)
        t = Tokenizer.from_str(json.dumps({**head, "model": {**model, "ignore_merges": ignore}}))
        pairs = [[x.hex(), t.encode(x.decode(errors="replace"), add_special_tokens=False).ids] for x in texts(name, seed)]
        lines.append(json.dumps({"name": name, "ignore_merges": ignore, "head": json.dumps(head, ensure_ascii=False)[1:-1],
                                 "texts": pairs}, ensure_ascii=False, separators=(",", ":")))
    (HERE / "cases.jsonl").write_text("\n".join(lines) + "\n")
    if len(sys.argv) > 2:
        (HERE / "books.txt").write_text("".join(books(sys.argv[1], sys.argv[2:])))


if __name__ == "__main__":
    main()
