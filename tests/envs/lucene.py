"""What the official shop's search engine answers: Anserini 0.14.3, which Pyserini 0.17.0 brings, on Lucene 8.

    pip download pyserini==0.17.0 --no-deps && unzip -j pyserini-0.17.0-*.whl '*.jar'
    python -m tests.envs.lucene anserini-0.14.3-fatjar.jar     # asks it anew; a JDK is needed

The record beside this file has texts with their terms, and for each query the places of the best 50 of `documents`.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path

RECORD = Path(__file__).with_suffix(".jsonl")
_JAVA = """
import io.anserini.analysis.*;
import io.anserini.search.SimpleSearcher;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.nio.file.*;
import java.util.*;
public class Ask {
  public static void main(String[] given) throws Exception {
    ObjectMapper json = new ObjectMapper();
    DefaultEnglishAnalyzer english = DefaultEnglishAnalyzer.newDefaultInstance();
    Map<String, List<Object>> found = new HashMap<>();
    found.put("terms", new ArrayList<>());
    found.put("best", new ArrayList<>());
    Map<String, List<String>> asked = json.readValue(Paths.get(given[0]).toFile(), Map.class);
    for (String text : asked.get("texts")) found.get("terms").add(AnalyzerUtils.analyze(english, text));
    SimpleSearcher searcher = new SimpleSearcher(given[1]);
    for (String query : asked.get("queries")) {
      List<String> names = new ArrayList<>();
      for (SimpleSearcher.Result hit : searcher.search(query, 50)) names.add(hit.docid);
      found.get("best").add(names);
    }
    json.writeValue(Paths.get(given[2]).toFile(), found);
  }
}
"""
_WORDS = """
    women's women\u2019s running shoe shoes cotton soft the for with size sizes 5.5'' 16" 1,000 x_y a:b 3-in-1 t-shirt
    U.S.A. 100% caf\u00e9 \u2605 \u2714\ufe0f \u2764\ufe0f Sock\u00ae Brand\u2122 \u00a9 \U0001f44d\U0001f3fd
    \u00bd \u00b8 \u02da \u02dc \u03a3\u039f\u03a6\u039f\u03a3 \u0130stanbul \u6f22\u5b57 \u30ab\u30bf\u30ab\u30ca
    \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \U0001f1fa\U0001f1f8 red blue navy wool relational dresses
    lightweight waterproof #\ufe0f\u20e3
"""
_ALPHABETS = [
    "abcdefghij   ",
    "'\u2019\uff07.:,;_\u00b7-\u2013 5a\uff11\uff41",
    "".join(map(chr, range(0x20, 0x7F))),
    "".join(map(chr, range(0xA0, 0x400))),
    "".join(map(chr, range(0x400, 0x700))),
    "".join(map(chr, range(0xE00, 0xE60))),
    "".join(map(chr, range(0x3040, 0x3100))) + "\u4e00\uac00\uac01",
    "".join(map(chr, range(0x2000, 0x2C00))),
    "".join(map(chr, range(0x1F300, 0x1F700))),
    "\u200d\ufe0f\ufe0e\u20e3#*12\U0001f469\U0001f468\u2764\U0001f3fd\U0001f3f3\U0001f308\U0001f1fa\U0001f1f8\u00ae\u2122\u2605",
]


def documents() -> list[tuple[str, str]]:
    """300 names and texts; ten texts come twice, under other names."""
    rng = random.Random(11)
    texts = [" ".join(rng.choices(_WORDS.split(), k=rng.randint(3, 90))).lower() for _ in range(290)]
    names = rng.sample(range(10**6), 300)
    return [(f"B{name:06d}", text) for name, text in zip(names, texts + texts[:10], strict=True)]


def _texts(rng: random.Random, count: int) -> list[str]:
    assigned = ["".join(c for c in letters if unicodedata.category(c) != "Cn") for letters in _ALPHABETS]
    mixed = (rng.sample(assigned, rng.randint(1, 3)) for _ in range(count))
    return ["".join(rng.choice(rng.choice(some)) for _ in range(rng.randint(1, 24))) for some in mixed]


def main(jar: str) -> None:
    rng = random.Random(12)
    texts = _texts(rng, 500)
    queries = [" ".join(rng.choices(_WORDS.split(), k=rng.randint(1, 6))) for _ in range(150)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "documents").mkdir()
        lines = [json.dumps({"id": name, "contents": text}) for name, text in documents()]
        (folder / "documents" / "all.jsonl").write_text("\n".join(lines))
        (folder / "asked.json").write_text(json.dumps({"texts": texts, "queries": queries}))
        (folder / "Ask.java").write_text(_JAVA, encoding="utf-8")
        build = ["-collection", "JsonCollection", "-generator", "DefaultLuceneDocumentGenerator", "-threads", "1"]
        build += ["-input", folder / "documents", "-index", folder / "index"]
        subprocess.run(
            ["java", "-cp", jar, "io.anserini.index.IndexCollection", *build], check=True, capture_output=True
        )
        given = [folder / "asked.json", folder / "index", folder / "found.json"]
        subprocess.run(["java", "-cp", jar, folder / "Ask.java", *given], check=True)
        found = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    places = {name: k for k, (name, _) in enumerate(documents())}
    rows = [{"text": text, "terms": terms} for text, terms in zip(texts, found["terms"], strict=True)]
    rows += [
        {"query": query, "best": [places[name] for name in names]}
        for query, names in zip(queries, found["best"], strict=True)
    ]
    RECORD.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main(sys.argv[1])
