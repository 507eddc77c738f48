"""Loading examples from real files and from a hub that answers on this machine."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from engine.errors import RequestError
from engine.suite import corpus
from engine.suite.corpus import Corpus
from engine.suite.reading import parse_suite
from engine.suite.spec import Suite

REPOSITORY = Path(__file__).resolve().parent.parent
AGNEWS = REPOSITORY.parent / "shared" / "agnews"
NEWS = ["World", "Sports", "Business", "Sci/Tech"]
VARIANT = {"name": "a", "model": "m", "backend": "pytorch", "precision": "fp32"}

one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)


def suite_of(folder: Path, dataset: str, **keys: object) -> Suite:
    raw = {"name": "s", "baseline": "a", "variant": [VARIANT], "workload": {"dataset": dataset, **keys}}
    return parse_suite(raw, "s.toml", folder)


def load(folder: Path, dataset: str, **keys: object) -> Corpus:
    suite = suite_of(folder, dataset, **keys)
    return corpus.load(suite, suite.workload)


def refusal(folder: Path, dataset: str, **keys: object) -> str:
    with pytest.raises(RequestError) as caught:
        load(folder, dataset, **keys)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("workload: ") and dataset.split("/")[-1] in message
    return message


def write_csv(path: Path, rows: list[list[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def as_read(found: Corpus) -> list[tuple[str, int | None]]:
    """Texts and labels in the order of the file."""
    labels = [None] * len(found) if found.labels is None else found.labels.tolist()
    by_row = {int(row): pair for row, *pair in zip(found.source_indices, found.texts, labels, strict=True)}
    return [tuple(by_row[row]) for row in sorted(by_row)]


# The three formats


def test_the_formats_give_the_same_corpus(tmp_path):
    texts, labels = ["a,b", 'say "c"', "d\ne", "é 世界 🙂", "NA", "f\u2028g"], [0, 1, 2, 3, 0, 1]
    write_csv(tmp_path / "x.csv", [["label", "text"], *zip(labels, texts, strict=True)])
    parquet.write_table(pyarrow.table({"text": texts, "label": labels}), tmp_path / "x.parquet")
    lines = [json.dumps({"text": t, "label": n}, ensure_ascii=False) for t, n in zip(texts, labels, strict=True)]
    (tmp_path / "x.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "x.json").write_bytes("\ufeff".encode() + "\r\n\r\n".join(lines).encode())
    found = [load(tmp_path, name, label="label", labels=NEWS) for name in ("x.csv", "x.parquet", "x.jsonl", "x.json")]
    for one in found:
        assert as_read(one) == list(zip(texts, labels, strict=True))
        assert one.digest == found[0].digest and one.label_names == NEWS and len(one) == 6
        assert one.labels.dtype == one.source_indices.dtype == np.int64
    assert [one.dataset for one in found] == ["x.csv", "x.parquet", "x.jsonl", "x.json"]


def test_parquet_reads_categories_and_large_strings(tmp_path):
    kinds = pyarrow.array(["yes", "no", "yes"]).dictionary_encode()
    texts = pyarrow.array(["a", "b", "c"], pyarrow.large_string())
    parquet.write_table(pyarrow.table({"my.text": texts, "kind": kinds, "other": [1, 2, 3]}), tmp_path / "x.parquet")
    found = load(tmp_path, "x.parquet", text="my.text", label="kind")
    assert as_read(found) == [("a", 1), ("b", 0), ("c", 1)] and found.label_names == ["no", "yes"]


WORDS = [
    "NA",
    "null",
    "NaN",
    "None",
    "nan",
    "N/A",
    "#N/A",
    "true",
    "1",
    "1.50",
    "007",
    "-",
    '"',
    "'",
    "a,b",
    "\\",
]
texts = st.lists(
    st.one_of(
        st.sampled_from(WORDS),
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
        st.text('a",\n\r\t ;\\\u2028\ufeff\x00\x1c', min_size=1),
    ).filter(str.strip),
    min_size=1,
    max_size=8,
)


@one_folder
@given(texts)
def test_csv_texts_come_back_as_they_were(tmp_path, texts):
    write_csv(tmp_path / "x.csv", [["id", "text"], *enumerate(texts)])
    assert [text for text, _ in as_read(load(tmp_path, "x.csv"))] == texts


@one_folder
@given(texts, st.booleans())
def test_jsonl_texts_come_back_as_they_were(tmp_path, texts, ascii_only):
    lines = [json.dumps({"text": text}, ensure_ascii=ascii_only) for text in texts]
    (tmp_path / "x.jsonl").write_bytes("\n".join(lines).encode())
    assert [text for text, _ in as_read(load(tmp_path, "x.jsonl"))] == texts


def test_a_csv_with_a_byte_order_mark_blank_lines_and_long_texts(tmp_path):
    long = "word " * 60_000
    (tmp_path / "x.csv").write_bytes(f'\ufefftext,label\r\n\r\n"one",b\r\n"{long}",a\r\n\r\n'.encode())
    assert as_read(load(tmp_path, "x.csv", label="label")) == [("one", 1), (long, 0)]


def test_a_link_is_read_by_its_own_name(tmp_path):
    (tmp_path / "blobs").mkdir()
    write_csv(tmp_path / "blobs" / "4f2a", [["text"], ["a"]])
    (tmp_path / "x.CSV").symlink_to("blobs/4f2a")
    assert load(tmp_path, "x.CSV").texts == ["a"]


# Labels


@pytest.mark.parametrize(
    ("column", "names", "indices"),
    [
        (["3", "0"], NEWS, [3, 0]),
        ([" 1", "+2 "], NEWS, [1, 2]),
        (["sci_tech", "WORLD"], NEWS, [3, 0]),
        (["2", "1"], ["1", "2"], [1, 0]),
        (["2", "0"], ["1", "2", "3"], [2, 0]),
        (["C", "C++"], ["C++", "C"], [1, 0]),
        (["NA", "null"], ["null", "NA"], [1, 0]),
    ],
)
def test_declared_names(tmp_path, column, names, indices):
    write_csv(tmp_path / "x.csv", [["text", "label"], *(["some text", label] for label in column)])
    found = load(tmp_path, "x.csv", label="label", labels=names)
    assert found.label_names == names and [label for _, label in as_read(found)] == indices


def test_numbers_and_names_may_mix_where_names_are_declared(tmp_path):
    rows = [{"text": "a", "label": 2}, {"text": "b", "label": "sports"}]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert as_read(load(tmp_path, "x.jsonl", label="label", labels=NEWS)) == [("a", 2), ("b", 1)]


def test_undeclared_names_are_sorted_over_the_whole_file(tmp_path):
    write_csv(tmp_path / "x.csv", [["text", "label"], ["a", "pear"], ["b", "fig"], ["c", "apple"], ["d", "fig"]])
    for examples in (0, 1, 2):
        found = load(tmp_path, "x.csv", label="label", examples=examples)
        assert found.label_names == ["apple", "fig", "pear"]
        assert dict(as_read(found)).items() <= {"a": 2, "b": 1, "c": 0, "d": 1}.items()


def test_without_a_label_column_nothing_is_labelled(tmp_path):
    write_csv(tmp_path / "x.csv", [["text", "label"], ["a", "nonsense"], ["b", ""]])
    found = load(tmp_path, "x.csv", labels=NEWS)
    assert found.labels is None and found.label_names is None and len(found) == 2


# The choice of examples


@pytest.fixture
def numbered(tmp_path) -> Path:
    write_csv(tmp_path / "x.csv", [["text", "label"], *([f"text {row}", row % 4] for row in range(50))])
    return tmp_path


@one_folder
@given(st.integers(0, 2**63), st.integers(1, 50), st.integers(1, 50))
def test_fewer_examples_of_a_seed_are_a_prefix_of_more(numbered, seed, few, many):
    few, many = sorted((few, many))
    some = load(numbered, "x.csv", label="label", labels=NEWS, seed=seed, examples=few)
    more = load(numbered, "x.csv", label="label", labels=NEWS, seed=seed, examples=many)
    assert len(some) == few and len(more) == many
    assert some.texts == more.texts[:few]
    assert some.labels.tolist() == more.labels[:few].tolist()
    assert some.source_indices.tolist() == more.source_indices[:few].tolist()
    assert (some.digest == more.digest) == (few == many)


@one_folder
@given(st.integers(0, 2**32))
def test_every_example_occurs_once_and_keeps_its_row(numbered, seed):
    found = load(numbered, "x.csv", label="label", labels=NEWS, seed=seed)
    again = load(numbered, "x.csv", label="label", labels=NEWS, seed=seed, examples=50)
    assert found.digest == again.digest and found.texts == again.texts
    assert sorted(found.source_indices) == list(range(50))
    assert found.texts == [f"text {row}" for row in found.source_indices]
    assert found.labels.tolist() == [row % 4 for row in found.source_indices]


def test_the_shuffle_is_the_same_on_every_machine(numbered):
    found = load(numbered, "x.csv", seed=0, examples=8)
    assert found.source_indices.tolist() == [18, 23, 36, 4, 2, 3, 34, 24]


def test_the_digest_covers_names_order_texts_and_labels_but_not_the_source(tmp_path):
    def digest(rows, **keys):
        write_csv(tmp_path / "x.csv", [["text", "label"], *rows])
        return load(tmp_path, "x.csv", **{"label": "label", "labels": NEWS, **keys}).digest

    rows = [["a", 0], ["b", 1]]
    first = digest(rows)
    others = [
        digest(rows, labels=[*NEWS[:3], "Science"]),
        digest(rows[::-1]),
        digest([["a", 0], ["c", 1]]),
        digest([["a", 0], ["b", 2]]),
        digest(rows, label=None),
    ]
    assert len({first, *others}) == 6
    write_csv(tmp_path / "y.csv", [["extra", "label", "text"], [7, "World", "a"], [8, "sports", "b"]])
    assert load(tmp_path, "y.csv", label="label", labels=NEWS).digest == first


# Refusals


def test_missing_files_folders_and_extensions(tmp_path):
    write_csv(tmp_path / "test.csv", [["text"], ["a"]])
    (tmp_path / "notes.txt").write_text("a")
    (tmp_path / "folder").mkdir()
    message = refusal(tmp_path, "tset.csv")
    assert "no such file" in message and "did you mean 'test.csv'" in message
    assert "no such file" in refusal(tmp_path, "nowhere/test.csv")
    assert "is a folder" in refusal(tmp_path, "folder")
    assert "'.txt'; allowed: .csv, .parquet, .jsonl, .json" in refusal(tmp_path, "notes.txt")
    os.mkfifo(tmp_path / "pipe.csv")
    assert "not a regular file" in refusal(tmp_path, "pipe.csv")
    assert "neither a file nor a hub id" in refusal(tmp_path, "a b")


def test_unreadable_files(tmp_path):
    path = tmp_path / "x.csv"
    write_csv(path, [["text"], ["a"]])
    path.chmod(0)
    if os.access(path, os.R_OK):
        # Root may read every file; but nobody can read where no memory is mapped.
        path.unlink()
        path.symlink_to("/proc/self/mem")
    assert "cannot read" in refusal(tmp_path, "x.csv")


def test_files_that_are_not_utf8(tmp_path):
    for name in ("x.csv", "x.jsonl"):
        (tmp_path / name).write_bytes("text\nfine\ncafé\n".encode("latin-1"))
        assert "line 3 is not UTF-8 (byte 0xe9)" in refusal(tmp_path, name)
    broken = pyarrow.array([b"fine", b"caf\xe9"]).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"text": broken}), tmp_path / "x.parquet")
    assert "Parquet" in refusal(tmp_path, "x.parquet")


def test_parquet_that_is_none(tmp_path):
    (tmp_path / "x.parquet").write_text("text\na\n")
    assert "cannot be read as Parquet" in refusal(tmp_path, "x.parquet")
    (tmp_path / "y.parquet").write_bytes(b"")
    assert "y.parquet" in refusal(tmp_path, "y.parquet")


def test_missing_and_doubled_columns(tmp_path):
    write_csv(tmp_path / "x.csv", [["texts", "topic"], ["a", 1]])
    parquet.write_table(pyarrow.table({"texts": ["a"], "topic": [1]}), tmp_path / "x.parquet")
    (tmp_path / "x.jsonl").write_text('{"texts": "a", "topic": 1}\n')
    for name in ("x.csv", "x.parquet", "x.jsonl"):
        message = refusal(tmp_path, name)
        assert "no column 'text'" in message and "allowed: 'texts', 'topic'; did you mean 'texts'?" in message
        assert "label = 'label'" in refusal(tmp_path, name, text="texts", label="label")
    write_csv(tmp_path / "y.csv", [["text", "n", "n"], ["a", 1, 2]])
    twice = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 2, names=["text", "text"])
    parquet.write_table(twice, tmp_path / "y.parquet")
    (tmp_path / "y.jsonl").write_text('{"text": "a"}\n\n{"text": "b", "text": "c"}\n')
    assert "two columns are named 'n'" in refusal(tmp_path, "y.csv")
    assert "two columns are named 'text'" in refusal(tmp_path, "y.parquet")
    assert "line 3" in (message := refusal(tmp_path, "y.jsonl")) and "'text' occurs twice" in message


def test_a_header_that_is_really_a_row_is_shown_in_short(tmp_path):
    write_csv(tmp_path / "x.csv", [["3", "word " * 500], ["1", "b"]])
    assert len(refusal(tmp_path, "x.csv")) < len(str(tmp_path)) + 250


def test_files_without_rows(tmp_path):
    (tmp_path / "a.csv").write_text("")
    (tmp_path / "b.csv").write_text("text,label\n\n")
    (tmp_path / "c.jsonl").write_text("\n")
    parquet.write_table(pyarrow.table({"text": pyarrow.array([], pyarrow.string())}), tmp_path / "d.parquet")
    assert "is empty" in refusal(tmp_path, "a.csv")
    for name in ("b.csv", "c.jsonl", "d.parquet"):
        assert "has no rows" in refusal(tmp_path, name)


def test_csv_records_that_are_ragged_or_broken(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('text,label\n"two\nlines",0\na,b,1\nc,1\nd\n')
    assert "rows 1 (line 4), 3 (line 6): found 3 fields, allowed 2" in refusal(tmp_path, "x.csv")
    path.write_text('text,label\na,0\n"never closed,1\nb,0\n')
    assert "starts on line 3 is not CSV" in refusal(tmp_path, "x.csv")
    path.write_text('text,label\n"back\\"slash",1\n')
    assert "starts on line 2 is not CSV" in refusal(tmp_path, "x.csv")


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ('{"text": "a"', "line 3 is not valid JSON"),
        ("text", "line 3 is not valid JSON (Expecting value at column 1)"),
        ('["a"]', "line 3 holds a JSON list"),
        ("3", "line 3 holds a JSON int"),
        ("[" * 100_000, "line 3 is not valid JSON"),
        ('{"label": 1}', "row 1 (line 3): found no value"),
        ('{"text": null}', "row 1 (line 3): found no value"),
        ('{"text": 3}', "row 1 (line 3): found a value that is not a string (3)"),
        ('{"text": ["a"]}', "row 1 (line 3): found a value that is not a string (['a'])"),
        ('{"text": "\\ud800"}', "row 1 (line 3): found a lone surrogate"),
    ],
)
def test_jsonl_lines_that_are_wrong(tmp_path, line, part):
    (tmp_path / "x.jsonl").write_text('{"text": "fine"}\n\n' + line + '\n{"text": "fine"}\n')
    assert part in refusal(tmp_path, "x.jsonl")


def test_a_json_array_is_refused(tmp_path):
    (tmp_path / "x.json").write_text('[\n  {"text": "a"}\n]\n')
    assert "one object a line" in refusal(tmp_path, "x.json")


def test_empty_texts_are_counted(tmp_path):
    write_csv(tmp_path / "x.csv", [["text", "n"], *([" \t" if row % 2 else "a", row] for row in range(16))])
    message = refusal(tmp_path, "x.csv")
    assert "rows 1 (line 3), 3 (line 5), 5 (line 7), 7 (line 9), 9 (line 11) and 3 more" in message
    assert "an empty text (' \\t')" in message
    parquet.write_table(pyarrow.table({"text": ["a", None, "b"]}), tmp_path / "x.parquet")
    assert "row 1: found no value" in refusal(tmp_path, "x.parquet")
    parquet.write_table(pyarrow.table({"text": [1, 2]}), tmp_path / "y.parquet")
    assert "rows 0, 1: found a value that is not a string (1)" in refusal(tmp_path, "y.parquet")


@pytest.mark.parametrize(
    ("labels", "declared", "parts"),
    [
        ([0, 4, 1, 4], NEWS, ["rows 1 (line 2), 3 (line 4)", "found 4", "World, Sports", "0 to 3"]),
        ([0, -1], NEWS, ["found -1"]),
        (["0", "4"], NEWS, ["found '4'"]),
        (["World", "Sprots"], NEWS, ["found 'Sprots'", "did you mean 'Sports'"]),
        (["World", "1"], NEWS, ["found '1'"]),
        ([0, None], NEWS, ["row 1 (line 2)", "no label"]),
        (["World", "  "], NEWS, ["row 1 (line 2)", "no label"]),
        ([0, 1.0], NEWS, ["row 1 (line 2)", "found 1.0"]),
        ([0, True], NEWS, ["found True"]),
        ([0, [1]], NEWS, ["found [1]"]),
        (["World", "\ud800"], None, ["row 1 (line 2)", "\\ud800"]),
        ([0, 3, 1], None, ["are numbers (0, 1, 3) without names", "labels = [...]"]),
        (["0", "10", "2"], None, ["are numbers (0, 2, 10) without names"]),
        (["World", 1], None, ["are numbers (1) without names"]),
    ],
)
def test_labels_that_cannot_be_used(tmp_path, labels, declared, parts):
    rows = [json.dumps({"text": "a", "label": label}) for label in labels]
    (tmp_path / "x.jsonl").write_text("\n".join(rows))
    message = refusal(tmp_path, "x.jsonl", label="label", labels=declared)
    assert "column 'label'" in message
    for part in parts:
        assert part in message


def test_more_examples_than_there_are(numbered):
    message = refusal(numbered, "x.csv", examples=51)
    assert "examples = 51, but there are 50; allowed: 1 to 50, or 0" in message


def test_a_message_names_the_workload_that_asked(numbered):
    suite = suite_of(numbered, "x.csv", text="txt")
    with pytest.raises(RequestError, match=r"^checkpoint 'tiny': "):
        corpus.load(suite, suite.workload, where="checkpoint 'tiny'")


# The hub: one that answers on this machine, asked by the real client

COMMIT = "c0ffee" + "0" * 34


def hub_files() -> dict[str, bytes]:
    label = {"names": ["neg", "pos"], "_type": "ClassLabel"}
    kinds = {"text": {"dtype": "string", "_type": "Value"}, "label": label}
    table = pyarrow.table({"text": ["one", "two", "three"], "label": [0, 1, 1]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": kinds}})})
    file = BytesIO()
    parquet.write_table(table, file)
    return {"README.md": b"---\n{}\n---\n", "data/test-00000-of-00001.parquet": file.getvalue()}


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as `datasets` needs for one public data set, org/name."""

    files = hub_files()

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path, _, query = unquote(self.path).partition("?")
        headers, content = self.content(path.strip("/").split("/"), "recursive=True" in query)
        self.send_response(404 if content is None else 200)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if body:
            self.wfile.write(content or b"")

    def content(self, parts: list[str], recursive: bool) -> tuple[dict[str, str], bytes | None]:
        api = parts[0] == "api"
        owner, name, verb, revision, *rest = [*parts[1 + api :], "", "", ""][: len(parts) + 3]
        if (owner, name) != ("org", "name"):
            return {"X-Error-Code": "RepoNotFound"}, None
        if revision not in ("main", COMMIT):
            return {"X-Error-Code": "RevisionNotFound"}, None
        file = "/".join(part for part in rest if part)
        if api and verb == "tree":
            return {}, json.dumps(self.tree(file + "/" if file else "", recursive)).encode()
        if api:
            siblings = [{"rfilename": path} for path in self.files]
            return {}, json.dumps({"id": "org/name", "sha": COMMIT, "siblings": siblings}).encode()
        if file not in self.files:
            return {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, None
        tag = hashlib.sha1(self.files[file]).hexdigest()
        return {"X-Repo-Commit": COMMIT, "ETag": f'"{tag}"'}, self.files[file]

    def tree(self, folder: str, recursive: bool) -> list[dict[str, object]]:
        below = {path: path.removeprefix(folder) for path in self.files if path.startswith(folder)}
        files = [
            {"type": "file", "path": path, "size": len(self.files[path]), "oid": "0" * 40}
            for path, rest in below.items()
            if recursive or "/" not in rest
        ]
        folders = {folder + rest.split("/")[0] for rest in below.values() if "/" in rest}
        return files + [{"type": "directory", "path": path, "oid": "0" * 40} for path in sorted(folders)]


@contextmanager
def serving(handler: type[Hub]) -> Iterator[str]:
    """A hub on this machine; its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def asking(url: str, home: Path) -> dict[str, str | None]:
    """The environment of who asks the hub at `url` and keeps what it gives in `home`."""
    return {
        "HF_HOME": str(home),
        "HF_ENDPOINT": url,
        "HF_HUB_OFFLINE": None,
        "no_proxy": "127.0.0.1",
        "NO_PROXY": "127.0.0.1",
    }


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    with serving(Hub) as url:
        yield url


def ask(home: Path, requests: list[dict[str, object]], cwd: Path | None = None, **environ: str) -> list[dict]:
    """What a fresh process gets for each of `requests` (workload keys, and `offline`)."""
    code = """
        import json, sys
        from pathlib import Path
        from engine.suite import corpus
        from engine.errors import RequestError
        from engine.suite.reading import parse_suite
        variant, requests = json.loads(sys.argv[1])
        answers = []
        for keys in requests:
            offline = keys.pop("offline", False)
            raw = {"name": "s", "baseline": "a", "variant": [variant], "workload": keys}
            suite = parse_suite(raw, "s.toml", Path("/"))
            try:
                found = corpus.load(suite, suite.workload, offline)
                pairs = sorted(zip(found.source_indices.tolist(), found.texts, found.labels.tolist()))
                answers.append({"names": found.label_names, "rows": pairs, "torch": "torch" in sys.modules})
            except RequestError as error:
                answers.append({"refused": str(error)})
        print(json.dumps(answers))
    """
    requests = [{"dataset": "org/name", "label": "label"} | request for request in requests]
    ours = ("HF_", "TRANSFORMERS_")
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    paths = {"HF_HOME": str(home), "PYTHONPATH": str(REPOSITORY), "no_proxy": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), json.dumps([VARIANT, requests])],
        env=inherited | paths | environ,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


ROWS = {"names": ["neg", "pos"], "rows": [[0, "one", 0], [1, "two", 1], [2, "three", 1]], "torch": False}


def test_a_hub_data_set_is_fetched_once_and_then_read_offline(tmp_path, hub):
    (tmp_path / "org" / "name").mkdir(parents=True)
    write_csv(tmp_path / "org" / "name" / "test.csv", [["text", "label"], ["not this", 0]])
    online = ask(
        tmp_path,
        [
            {},
            {"revision": COMMIT},
            {"labels": ["bad", "good"]},
            {"labels": ["Pos", "Neg"]},
            {"labels": NEWS},
            {"split": "tset"},
            {"config": "other"},
            {"dataset": "org/unknown"},
            {"revision": "v1"},
            {"text": "txt"},
            {"examples": 4},
        ],
        cwd=tmp_path,
        HF_ENDPOINT=hub,
    )
    assert online[0] == online[1] == ROWS
    assert online[2] == ROWS | {"names": ["bad", "good"]}
    parts = ["neg, pos", "neg, pos", "['test']", "['default']", "org/unknown", "'v1'", "'text'", "1 to 3"]
    for answer, part in zip(online[3:], parts, strict=True):
        assert answer["refused"].startswith("workload: org/") and part in answer["refused"]

    # An endpoint that nobody serves: whoever asks it waits for its retries, far beyond these tests.
    nowhere = "http://127.0.0.1:9"
    asked = [{}, {"revision": COMMIT}, {"revision": "v1"}, {"dataset": "org/unknown"}]
    offline = ask(tmp_path, [{"offline": True} | keys for keys in asked], HF_ENDPOINT=nowhere)
    assert offline[:2] == [ROWS, ROWS]
    assert COMMIT in offline[2]["refused"] and "python -m engine fetch SUITE" in offline[2]["refused"]
    known, unknown = ask(tmp_path, [{}, {"dataset": "org/unknown"}], HF_ENDPOINT=nowhere, HF_HUB_OFFLINE="1")
    assert known == ROWS
    for answer in (offline[3], unknown):
        assert "org/unknown: is not in the local cache, and the hub cannot be reached" in answer["refused"]
        assert "`python -m engine fetch SUITE`" in answer["refused"] and "\n" not in answer["refused"]


def test_the_command_to_fetch_spells_the_suite_as_it_was_found(tmp_path):
    (tmp_path / "s.toml").write_text("")
    assert suite_of(tmp_path, "org/name").reference == str((tmp_path / "s.toml").resolve())
    assert suite_of(tmp_path / "other", "org/name").reference == "SUITE"


# Real news


@pytest.mark.skipif(not AGNEWS.is_dir(), reason="../shared/agnews is not here")
def test_ag_news_loads_light_and_fast():
    suite = suite_of(AGNEWS, "test.csv", label="label", labels=NEWS)
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        found = corpus.load(suite, suite.workload)
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.2
    assert len(found) == 3800 and set(found.labels) == {0, 1, 2, 3}
    assert dict(as_read(found))[found.texts[0]] == found.labels[0]
    assert as_read(found)[0][0].startswith("Fears for T N pension") and as_read(found)[0][1] == 2


def test_importing_needs_no_model_library():
    code = "import sys, engine.suite.corpus; print({'torch', 'datasets', 'pandas', 'pyarrow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
