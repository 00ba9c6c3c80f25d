"""The chain behind a file or a cell: which jobs, in what order, what they share, and where it does not hold."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import pytest

from lethe.__main__ import main
from lethe.records.traces import lines, trace

METHODS, SHARDS, CONCEPTS = ("original", "mace"), ("0000", "0001"), ("ship", "bird")
ROLES = {"erased": "objects", "quality": "captions"}


def digest(path: str) -> str:
    return hashlib.sha256(path.encode()).hexdigest()


def made(step: str, outputs: list[str], inputs: list[str], *, seconds: float = 1.5, run: dict | None = None, **more):
    """Write files that hold their own paths, and their records, written out here as another program would."""
    record = {
        "format": 1,
        "step": step,
        "settings": more.pop("settings", {}),
        "threads": 1,
        "inputs": {path: digest(path) for path in inputs},
        "outputs": {path: digest(path) for path in outputs},
        "code": "c" * 64,
        "environment": {"torch": "2.15.0"},
        "run": {"host": "node1", "gpu": None, "started": "2026-01-02T03:04:05+00:00", "seconds": seconds}
        | {"cpu_seconds": 1.0, "peak_mb": 700, "commit": "abc"}
        | (run or {}),
        **more,
    }
    for path in outputs:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(path)
        below = Path("results/provenance", path.removeprefix("results/") + ".json")
        below.parent.mkdir(parents=True, exist_ok=True)
        below.write_text(json.dumps(record))


BASE = {"name": "sd", "model": "models/sd", "revision": None, "fingerprint": "f" * 64}
EDIT = "results/sd/edits/objects/mace.safetensors"
PRIOR = "results/priors/captions.safetensors"


def moments(slug: str) -> str:
    return f"results/sd/concepts/{slug}/moments.safetensors"


def shard(kind: str, method: str, suite: str, number: str, end: str) -> str:
    return f"results/sd/{kind}/{'original' if method == 'original' else f'objects/{method}'}/{suite}/{number}{end}"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished task: two concepts with moments, a prior, an edit, two methods sampled in two suites of two shards."""
    monkeypatch.chdir(tmp_path)
    for slug in CONCEPTS:
        settings = {"base": BASE, "concept": {"name": f"the {slug}"}, "seed": 7}
        made("moments", [moments(slug)], ["templates.txt"], settings=settings, seconds=10)
    made("prior", [PRIOR], ["captions.json"], settings={"precision": "float32"})
    made("mace", [EDIT], [*map(moments, CONCEPTS), PRIOR], settings={"base": BASE, "mace": {"lamb": 1.0}})
    measures = []
    for method in METHODS:
        for suite in ROLES.values():
            for number, name in enumerate(SHARDS):
                image, measure = shard("samples", method, suite, name, ".zip"), shard("m", method, suite, name, ".clip")
                edit = [] if method == "original" else [EDIT]
                settings = {"base": BASE, "suite": {"file": f"{suite}.csv", "rows": 9 * number}, "shard": number}
                made("sample", [image], [f"{suite}.csv", *edit], settings=settings, run={"gpu": "NVIDIA H200"})
                made("clip", [measure], [image], settings={"clip": "judge"})
                measures.append(measure)
    made("base", ["results/sd/base.json"], [])
    made("clip", ["results/evaluations/reference.clip"], ["reference.zip"], settings={"clip": "judge"})
    cells = {
        "columns": {"acc_e": ["erased"], "fid": ["quality", "reference"]},
        "rows": {
            method: {
                role: [shard("m", method, suite, name, ".clip") for name in SHARDS] for role, suite in ROLES.items()
            }
            for method in METHODS
        },
        "every_row": {"reference": ["results/evaluations/reference.clip"]},
    }
    made(
        "objects_table",
        ["results/tables/objects.csv", "results/tables/objects.json"],
        [*measures, "results/sd/base.json", "results/evaluations/reference.clip"],
        cells=cells,
    )
    Path("results/tables/objects.csv").write_text("method,acc_e,fid,n_acc_e\noriginal,100.0,8.3,18\nmace,0.0,7.7,18\n")
    details = {"mace": {"acc_e_interval_95": [0.0, 17.588]}}
    about = {"protocols": {"acc_e, acc_s": "clip-top1@1", "fid": "not Inception"}, "details": details}
    Path("results/tables/objects.json").write_text(json.dumps(about))
    for path in ("objects.csv", "objects.json"):  # these hold other things than their paths
        record = Path(f"results/provenance/tables/{path}.json")
        told = json.loads(record.read_text())
        told["outputs"] = {name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in told["outputs"]}
        record.write_text(json.dumps(told))
    return tmp_path


TABLE = Path("results/tables/objects.csv")
EVERYTHING = {"objects_table": 1, "clip": 9, "base": 1, "sample": 8, "mace": 1, "moments": 2, "prior": 1}


@pytest.mark.parametrize(
    ("row", "column", "jobs"),
    [
        (None, None, EVERYTHING),
        ("mace", None, EVERYTHING | {"clip": 5, "sample": 4}),
        (None, "acc_e", EVERYTHING | {"clip": 4, "sample": 4}),
        ("mace", "acc_e", EVERYTHING | {"clip": 2, "sample": 2}),
        ("mace", "fid", EVERYTHING | {"clip": 3, "sample": 2}),
        ("original", "acc_e", {"objects_table": 1, "base": 1, "clip": 2, "sample": 2}),
    ],
)
def test_the_chain_holds_what_feeds_the_cell(row: str | None, column: str | None, jobs: dict[str, int]) -> None:
    told = trace(TABLE, row, column)
    counts: dict[str, int] = {}
    for job in told.jobs:
        counts[job.record["step"]] = counts.get(job.record["step"], 0) + 1
    assert counts == jobs
    assert told.warnings == []
    for position, job in enumerate(told.jobs):
        for path, maker in job.made_by.items():
            assert maker > position
            assert path in told.jobs[maker].record["outputs"]


def test_a_cell_has_its_n_its_interval_and_its_protocol() -> None:
    assert trace(TABLE, "mace", "acc_e").cells == [
        {
            "row": "mace",
            "column": "acc_e",
            "value": "0.0",
            "n": "18",
            "interval_95": [0.0, 17.588],
            "protocol": "clip-top1@1",
            "parts": None,
        }
    ]
    assert [(cell["row"], cell["value"]) for cell in trace(TABLE, column="fid").cells] == [
        ("original", "8.3"),
        ("mace", "7.7"),
    ]
    assert [cell["column"] for cell in trace(TABLE, "mace").cells] == ["acc_e", "fid"]


def test_a_mean_is_printed_with_its_parts(capsys: pytest.CaptureFixture) -> None:
    path = TABLE.with_suffix(".json")
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | {"parts": {"mace": {"fid": {"near": 1.5, "far": 9}}}}))
    assert main(["trace", str(TABLE), "--column", "fid"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told.count("made of: near 1.5, far 9") == 1  # the other row says nothing of it


def test_the_text_folds_equal_jobs(capsys: pytest.CaptureFixture) -> None:
    assert main(["trace", str(TABLE), "--row", "mace", "--column", "acc_e"]) == 0
    text = capsys.readouterr().out
    told = text.splitlines()
    assert told[0] == "results/tables/objects.csv, row mace, column acc_e: 0.0, n = 18, 95 % interval 0.00 to 17.59"
    assert told[1] == "protocol: clip-top1@1"
    assert "sample: 2 jobs, 3.0 s, node1, NVIDIA H200, from 2026-01-02T03:04:05+00:00" in told
    assert "moments: 2 jobs, 20.0 s, node1, no GPU, from 2026-01-02T03:04:05+00:00" in told
    assert "  settings  concept.name the ship, the bird, seed 7" in told
    assert "  settings  suite.file objects.csv, suite.rows 0, 9, shard 0, 1" in told
    assert f"  from      mace: {EDIT}" in told
    assert f"  given     objects.csv, SHA-256 {digest('objects.csv')[:12]}" in told
    assert text.count("torch 2.15.0") == text.count("fingerprint ffffffffffff") == 1
    heads = [
        line.split(":")[0] for line in told if (not line.startswith(" ") and " jobs, " in line) or " job, " in line
    ]
    assert heads.index("clip") < heads.index("sample") < heads.index("mace") < heads.index("moments")


def test_suites_and_edits_are_told_apart() -> None:
    heads = [line for line in lines(trace(TABLE)) if line.startswith("sample: ")]
    assert [line.split(",")[0] for line in heads] == ["sample: 2 jobs"] * 4


def test_json_has_whole_records(capsys: pytest.CaptureFixture) -> None:
    assert main(["trace", EDIT, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    records = {str(path): json.loads(path.read_text()) for path in Path("results/provenance").glob("**/*.json")}
    assert told["jobs"][0]["step"] == "mace"
    assert len(told["jobs"]) == 4
    assert all(job in records.values() for job in told["jobs"])
    assert told["file"] == EDIT


def test_an_input_that_was_made_again_since_is_named(capsys: pytest.CaptureFixture) -> None:
    record = Path("results/provenance/sd/concepts/ship/moments.safetensors.json")
    told = json.loads(record.read_text())
    told["outputs"][moments("ship")] = "0" * 64
    record.write_text(json.dumps(told))
    (warning,) = trace(TABLE).warnings
    assert warning.startswith(f"{EDIT} was made from another version of {moments('ship')} than there is a record of (")
    assert trace(TABLE, "original").warnings == []
    assert main(["trace", str(TABLE)]) == 0
    assert "warning: " in capsys.readouterr().out


def test_a_replaced_file_is_named() -> None:
    Path(EDIT).write_text("mine")
    assert trace(Path(EDIT)).warnings == [f"{EDIT} is not what its record says: it was damaged or replaced"]
    Path(EDIT).unlink()
    assert trace(Path(EDIT)).warnings == []  # its record still tells what made it


def test_what_has_no_record_ends_the_chain() -> None:
    Path("results/provenance/priors/captions.safetensors.json").unlink()
    jobs = trace(Path(EDIT)).jobs
    assert sorted(job.record["step"] for job in jobs) == ["mace", "moments", "moments"]
    assert jobs[0].given == {PRIOR: digest(PRIOR)}


def test_records_that_read_each_other_end() -> None:
    made("a", ["results/a"], ["results/b"])
    made("b", ["results/b"], ["results/a"])
    assert sorted(job.record["step"] for job in trace(Path("results/a")).jobs) == ["a", "b"]
    assert list(lines(trace(Path("results/a"))))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([str(TABLE), "--row", "uce"], "there is no row 'uce'; its rows are original, mace"),
        ([str(TABLE), "--column", "acc_x"], "there is no column 'acc_x'; its columns are acc_e, fid, n_acc_e"),
        ([str(TABLE), "--column", "method"], "there is no column 'method'"),
        ([EDIT, "--row", "mace"], "only tables (*.csv) have rows and columns"),
        (["templates.txt"], "it lies in no folder called results"),
        (["results/own.csv"], "results/own.csv: there is no such file"),
        (["results/mine.csv"], "results/mine.csv: there is no record of what made it"),
        (["results/provenance/tables/objects.csv.json"], "it lies in no folder called results"),
    ],
)
def test_what_cannot_be_traced_is_said_in_a_sentence(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture
) -> None:
    Path("results/mine.csv").write_text("x")
    assert main(["trace", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err
    assert err.count("\n") == 1


def test_a_project_may_be_traced_from_elsewhere_and_prints_no_control_characters(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    made("moments", ["results/x"], ["\x1b[31mgiven"], settings={"concept": "\x1b[31m\nship"}, run={"host": "\x07"})
    monkeypatch.chdir("/")
    assert main(["trace", str(project / "results/x")]) == 0
    assert main(["trace", str(project / TABLE)]) == 0
    out = capsys.readouterr().out
    assert not set(out) & {"\x1b", "\x07"}
    assert r"\x1b[31m\nship" in out
    assert "moments: 2 jobs" in out


def test_thousands_of_records_take_a_moment(capsys: pytest.CaptureFixture) -> None:
    for k in range(1000):
        made("sample", [f"results/{k}.zip"], ["objects.csv"], settings={"shard": k})
        made("clip", [f"results/{k}.clip"], [f"results/{k}.zip"])
    made("objects_table", ["results/large"], [f"results/{k}.clip" for k in range(1000)])
    before = time.process_time()
    assert main(["trace", "results/large"]) == 0
    assert main(["costs"]) == 0
    assert time.process_time() - before < 3  # a second as measured; reading inputs once per reader would take minutes
    assert "clip: 1000 jobs" in capsys.readouterr().out
