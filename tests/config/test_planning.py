"""What is known when planning is said when planning: refusals of what could not be measured, and remarks."""

from __future__ import annotations

import copy
import io
import zipfile
from pathlib import Path

import pytest
import yaml
from PIL import Image

from lethe.config.planning import check_plan, read_inputs, remarks
from lethe.config.schema import with_defaults
from lethe.messages import ConfigError
from plans import SHIPPED
from running import ROOT

HEADER = "concept\tkind\tanchor\tsynonyms\n"
CLASSES = "object\nship\nbird\ncat\ndog\n"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """The shipped configuration made plain, with small tables: ship and bird are erased, cat and dog stay."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resources").symlink_to(ROOT / "resources")
    Path("concepts.tsv").write_text(HEADER + "ship\tobject\tground\tboat\nbird\tobject\tsky\tfowl\n")
    Path("classes.tsv").write_text(CLASSES)
    config = with_defaults(SHIPPED)
    config["concepts"] = config["suites"]["synonyms"]["table"] = "concepts.tsv"
    config["suites"]["objects"]["table"] = config["evaluations"]["objects"]["classes"]["table"] = "classes.tsv"
    config["tasks"]["objects"]["concepts"] = ["ship", "bird"]
    return config


def planned(config: dict) -> list[str]:
    """The remarks, after the checks that common.smk makes."""
    inputs = read_inputs(config)
    check_plan(config, inputs)
    return remarks(config, inputs)


def refusals(config: dict) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        planned(config)
    assert all(line.startswith("config: ") and line.endswith(".") for line in caught.value.args)
    return [line.removeprefix("config: ") for line in caught.value.args]


def mine(config: dict, rows: str, *roles: str) -> None:
    """A suite of these rows, in these roles."""
    Path("mine.csv").write_text("type,prompt,evaluation_seed\n" + rows)
    config["suites"]["mine"] = {"file": "mine.csv"}
    config["evaluations"]["objects"] |= dict.fromkeys(roles, "mine")


def words(config: dict, table: str) -> None:
    Path("concepts.tsv").write_text(HEADER + table)


def test_the_shipped_configuration_has_nothing_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    shipped = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
    assert planned(with_defaults(shipped)) == []


def test_small_tables_have_nothing_to_say(config: dict) -> None:
    before = copy.deepcopy(config)
    assert planned(config) == []
    assert config == before


# A published table beside a table


def published(config: dict, csv: str = "method,concept,acc\nMACE,ship,5\nUCE,ship,4\n", **changes: object) -> None:
    """The task's table beside a published one of objects, with one concept."""
    config["tasks"]["objects"]["concepts"] = ["ship"]
    rows = "{method: method, concept: concept}"
    number = "{number: acc_e, protocol: clip-top1@1 of 4 classes by resources/emoji/clip}"
    said = f"source: somebody, file: p.csv, rows: {rows}, numbers: {{acc: {number}}}"
    Path("set.yaml").write_text(f"tables: {{first: {{{said}}}}}")
    Path("p.csv").write_text(csv)
    named = {"set": "set.yaml", "table": "first", "methods": {"mace": "MACE"}} | changes
    config["tables"]["objects"] = {"tasks": ["objects"], "figure": None, "costs": False, "published": named}


def test_a_published_table_has_nothing_to_say(config: dict) -> None:
    published(config)
    assert planned(config) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"table": "frist"}, ": set.yaml: it has no table 'frist'; did you mean first? Its tables: first."),
        (
            {"methods": {"mcae": "MACE"}},
            ".methods: no task of the table has the method 'mcae'; its methods are original, mace.",
        ),
        (
            {"methods": {"mace": "mace!"}},
            ".methods.mace: p.csv has no row 'mace!'; did you mean 'MACE'? Its rows: MACE, UCE.",
        ),
        (
            {"methods": {"original": "MACE", "mace": "MACE"}},
            ".methods.original: 'MACE' is named 2 times; one can stand there.",
        ),
        ({"csv": "method,acc\nMACE,5\n"}, ": p.csv: there is no column 'concept'; its columns are method, acc."),
    ],
)
def test_a_published_table_that_does_not_fit_is_refused(config: dict, changes: dict, told: str) -> None:
    published(config, **changes)
    assert f"tables.objects.published{told}" in refusals(config)


def test_a_published_table_whose_rows_tell_the_tasks_not_apart_is_refused(config: dict) -> None:
    published(config)
    config["tasks"]["objects"]["concepts"] = ["ship", "bird"]
    (line,) = refusals(config)
    assert line == (
        "tables.objects.published: the published table has a row for one concept, and task objects erases 2."
    )
    Path("p.csv").unlink()
    (line,) = refusals(config)
    assert line == "tables.objects.published: there is no file p.csv, which set.yaml names; correct it there."


# Numbers without images


@pytest.mark.parametrize("types", ["erased,others", "0,1", ","])
def test_types_that_name_no_concept_leave_every_number_without_images(config: dict, types: str) -> None:
    first, second = types.split(",")
    mine(config, f"{first},a ship,1\n{second},a dog,2\n", "erased", "kept")
    erased, kept = refusals(config)
    assert erased.startswith(
        "evaluations.objects.erased: no row of suite mine (mine.csv) counts towards acc_e of task objects: "
    )
    assert "what counts is 'bird', 'ship'" in erased
    assert "suites.mine.columns" in erased
    assert kept.startswith("evaluations.objects.kept: no row of suite mine (mine.csv) counts towards acc_s")


def test_a_task_without_synonyms_where_another_concept_has_some(config: dict) -> None:
    words(config, "ship\tobject\tground\t\nbird\tobject\tsky\t\nhorse\tobject\tsky\tpony\n")
    (line,) = refusals(config)
    assert line.startswith(
        "evaluations.objects.generality: no row of suite synonyms (concepts.tsv) counts towards acc_g"
    )
    assert line.endswith("generality: null leaves acc_g out.")
    config["evaluations"]["objects"]["generality"] = None
    assert planned(config) == ["suites.synonyms: no task and no evaluation of one uses it, so nothing samples it."]


def test_a_table_without_any_synonyms_names_suite_and_mend(config: dict) -> None:
    words(config, "ship\tperson\tground\t\nbird\tperson\tsky\t\n")
    assert refusals(config) == [
        "suites.synonyms: the suite has no rows; look at concepts.tsv, whose column synonyms is empty; "
        "evaluations.objects.generality: null does without it."
    ]
    config["evaluations"]["objects"]["generality"] = None
    assert planned(config) == ["suites.synonyms: no task and no evaluation of one uses it, so nothing samples it."]


def test_erasing_every_class_leaves_nothing_to_keep(config: dict) -> None:
    Path("classes.tsv").write_text("object\nship\nbird\n")
    (line,) = refusals(config)
    assert "evaluations.objects.kept: no row of suite objects (classes.tsv) counts towards acc_s" in line


def test_an_erased_concept_that_is_no_class(config: dict) -> None:
    words(config, "ship\tobject\tground\tboat\nbird\tobject\tsky\tfowl\nTwemoji\tstyle\tart\tflat art\n")
    config["tasks"]["objects"]["concepts"].append("Twemoji")
    (line,) = refusals(config)
    assert line == (
        "tasks.objects: 'Twemoji' (style; an evaluation of its own may fit better) would be erased but not measured: "
        "classes.tsv has no such class (evaluations.objects.classes); add a row for it, or name another evaluation."
    )


@pytest.fixture
def recognised(config: dict) -> dict:
    """What a CLIP recognises in all rows of a suite is counted; ship and bird need be no class then."""
    Path("classes.tsv").write_text("object\ncat\nfowl\ndog\n")
    chosen = {"kind": "recognised", "clip": "judge", "counted": ["cat", "dog"], "threshold": 0.6, "explicit": "objects"}
    chosen |= dict.fromkeys(("fid", "quality", "reference_images")) | {"class_prompt": "a {}"}
    config["evaluations"]["objects"] = chosen | {"classes": {"table": "classes.tsv", "column": "object"}}
    return config


def test_what_is_erased_need_be_no_class_where_rows_do_not_count_by_it(recognised: dict) -> None:
    assert all("suites." in line and "nothing samples it" in line for line in planned(recognised))


@pytest.mark.parametrize(
    ("counted", "told"),
    [
        (["cat", "cats"], "classes.tsv has no class 'cats'; write it as there, or add a row for it."),
        ([], "must name at least one class, each once; got []."),
        (["cat", "cat"], "must name at least one class, each once; got ['cat', 'cat']."),
    ],
)
def test_classes_to_count_that_are_none(recognised: dict, counted: list[str], told: str) -> None:
    recognised["evaluations"]["objects"]["counted"] = counted
    (line,) = refusals(recognised)
    assert line.startswith("evaluations.objects.counted")
    assert line.endswith(told)


@pytest.mark.parametrize("name", ["Ship", "SHIP"])
def test_an_erased_concept_whose_class_is_written_otherwise(config: dict, name: str) -> None:
    Path("classes.tsv").write_text(CLASSES.replace("ship", name))
    found = refusals(config)
    assert found[0] == (
        f"tasks.objects: 'ship' is erased, and classes.tsv writes it '{name}' (evaluations.objects.classes); "
        "write it the same in both."
    )


# Types that are nearly right


def test_types_that_differ_in_capitals_or_space(config: dict) -> None:
    rows = "ship,a,1\nShip,b,1\nShip,c,2\nbird,a bird,1\ndog,d,1\n cat,e,1\n"
    mine(config, rows, "erased", "kept")
    assert refusals(config) == [
        "suites.mine: types in mine.csv differ from names in capitals or space alone, in 3 of its rows: "
        "'Ship' for 'ship', ' cat' for 'cat'; write them the same."
    ]


def test_types_that_differ_in_how_an_accent_is_composed(config: dict) -> None:
    Path("classes.tsv").write_text(CLASSES + "caf\xe9\n")
    mine(config, "ship,a,1\nbird,a,1\ndog,d,1\ncafe\u0301,e,1\n", "erased", "kept")
    (line,) = refusals(config)
    assert "mine.csv differ from names in capitals or space alone, in 1 of its rows" in line


def test_unknown_types_are_told_with_their_number(config: dict) -> None:
    mine(config, "ship,a,1\nbird,b,1\ndog,c,1\nsky,d,1\nsky,e,2\nsea,f,1\n", "erased", "kept")
    assert planned(config)[0] == (
        "suites.mine: 3 of 6 rows count towards no number, since their type is no concept or class: 'sky', 'sea' "
        "(mine.csv)."
    )
    config["evaluations"]["objects"]["quality"] = "mine"  # where every row counts
    config["measures"]["judge"]["model"] = "some/hub-id"
    assert not any("count towards" in line for line in planned(config))


def test_concepts_of_other_tasks_are_no_unknown_types(config: dict) -> None:
    words(config, "ship\tobject\tground\tboat\nbird\tobject\tsky\tfowl\nhorse\tobject\tsky\tpony\n")
    assert planned(config) == []  # the suite of synonyms covers the whole table
    config["evaluations"]["objects"]["kept"] = "words"
    config["suites"]["words"] = {"table": "concepts.tsv", "column": "concept", "prompt": "{}", "seeds": [1, 2]}
    (line,) = [line for line in refusals(config) if "acc_s" in line]
    assert "the types 'ship', 'bird', 'horse'" in line


# FID


def test_a_fid_of_too_few_rows(config: dict) -> None:
    config["suites"]["reference"]["rows"] = 128
    (line,) = refusals(config)
    assert line.startswith(
        "evaluations.objects.quality: suite reference has 128 images, and fid needs more than the 128 "
    )
    config["suites"]["reference"]["rows"] = 129
    assert planned(config) == []


def pictures(path: Path, *names: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "JPEG")
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, file.getvalue())


def test_a_fid_against_too_few_images(config: dict) -> None:
    config["evaluations"]["objects"]["reference_images"] = "real.zip"
    pictures(Path("real.zip"), *(f"val2014/{k}.jpg" for k in range(128)))
    (line,) = refusals(config)
    assert line.startswith(
        "evaluations.objects.reference_images: real.zip has 128 images, and fid needs more than the 128"
    )
    pictures(Path("real.zip"), *(f"val2014/{k}.JPEG" for k in range(129)))
    assert planned(config) == []


def test_a_fid_of_inception_needs_more_images_than_its_features(config: dict) -> None:
    config["measures"]["inception"] = {"kind": "inception"}
    config["evaluations"]["objects"]["fid"] = "inception"
    config["suites"]["reference"]["rows"] = 129
    config["evaluations"]["objects"]["reference_images"] = "real.zip"
    pictures(Path("real.zip"), *(f"{k}.jpg" for k in range(2049)))
    (line,) = refusals(config)
    assert line == (
        "evaluations.objects.quality: suite reference has 129 images, and fid needs more than the 2048 dimensions of "
        "what measures.inception gives; add some, or take a measure of fewer."
    )


def test_a_judge_of_which_only_the_hub_knows_is_not_asked(config: dict) -> None:
    config["measures"]["judge"]["model"] = "openai/clip-vit-base-patch32"
    config["suites"]["reference"]["rows"] = 5
    assert planned(config) == []


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("labels.json", "'labels.json' in it is no PNG or JPEG by its name; remove it, or convert it"),
        ("a/x.webp", "'a/x.webp' in it is no PNG or JPEG by its name"),
    ],
)
def test_other_files_among_the_reference_images(config: dict, name: str, told: str) -> None:
    config["evaluations"]["objects"]["reference_images"] = "real.zip"
    pictures(Path("real.zip"), name, *(f"{k}.jpg" for k in range(129)))
    (line,) = refusals(config)
    assert f"evaluations.objects.reference_images: real.zip: {told}" in line


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04"])
def test_reference_images_that_are_no_archive(config: dict, content: bytes) -> None:
    config["evaluations"]["objects"]["reference_images"] = "real.zip"
    Path("real.zip").write_bytes(content)
    (line,) = refusals(config)
    assert "real.zip: this is no zip archive, or a damaged one" in line


# Tables


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("ship", "classes.tsv, line 6: object 'ship' is already in line 2; remove one of the two."),
        ("Dog", "classes.tsv, line 6: object 'Dog' differs in capitals or space alone from 'dog' in line 5; remove"),
        (" cat; cat ", "classes.tsv, line 6: object 'cat' is already in line 4"),
        ("gold  fish\ngold fish", "line 7: object 'gold fish' differs in capitals or space alone from 'gold  fish'"),
    ],
)
def test_a_class_twice(config: dict, rows: str, told: str) -> None:
    Path("classes.tsv").write_text(CLASSES + rows + "\n")
    assert any(told in line for line in refusals(config))
    config["suites"]["objects"]["table"] = "other.tsv"  # so that the table of classes alone is at fault
    Path("other.tsv").write_text(CLASSES)
    (line,) = refusals(config)
    assert line.startswith("evaluations.objects.classes: ")
    assert told in line


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("\tx\nhorse\tx", "other.tsv, line 6: object is empty; fill it in, or remove the row"),
        ("sh\u200bip\tx", "other.tsv, line 6: 'sh\\u200bip' or its type holds an invisible or control character"),
    ],
)
def test_a_class_that_is_empty_or_invisible(config: dict, rows: str, told: str) -> None:
    Path("other.tsv").write_text(CLASSES.replace("object", "object\tmore") + rows + "\n")
    config["evaluations"]["objects"]["classes"]["table"] = "other.tsv"
    (line,) = refusals(config)
    assert told in line
    Path("other.tsv").write_text(f"# of the sea\n{CLASSES}\n \n")
    assert planned(config) == []  # comments and blank lines are no rows


def test_templates_that_cannot_be_read(config: dict) -> None:
    Path("words.txt").write_text("a {}\na photo\n")
    config["templates"]["object"] = "words.txt"
    (line,) = refusals(config)
    assert line == "templates: words.txt, line 2: a template must contain {} exactly once; got 'a photo'."
    config["templates"] |= {"object": None, "style": "words.txt"}
    assert planned(config) == []  # of a kind that no task erases
    config["images"]["anchor_prompts"] |= {"object": "words.txt", "style": ["a {}"]}
    (line,) = refusals(config)
    assert line == "images.anchor_prompts: words.txt, line 2: a template must contain {} exactly once; got 'a photo'."


# Remarks


def test_two_concepts_erased_towards_each_other(config: dict) -> None:
    words(config, "ship\tobject\ta bird\tboat\nbird\tobject\tShip\tfowl\n")
    assert planned(config) == [
        "tasks.objects: 'bird' and 'ship' are erased towards each other; give one of them another anchor."
    ]


@pytest.mark.parametrize(
    ("anchor", "told"),
    [
        ("bird", "'ship' is erased towards 'bird', which is erased as well; give it an anchor that stays."),
        ("the fowl", "'ship' is erased towards 'the fowl', a synonym of 'bird', which is erased; give it an anchor"),
        ("Boat", "'ship' is erased towards 'Boat', a synonym of 'ship', which is erased; give it an anchor"),
    ],
)
def test_an_anchor_that_is_erased(config: dict, anchor: str, told: str) -> None:
    words(config, f"ship\tobject\t{anchor}\tboat\nbird\tobject\tsky\tfowl\n")
    assert f"tasks.objects: {told}" in planned(config)[0]
    config["tasks"]["objects"]["concepts"] = ["bird"]
    assert planned(config) == []  # each in a task of its own may be the other's anchor


def test_a_class_that_is_kept_and_a_synonym_of_what_is_erased(config: dict) -> None:
    Path("classes.tsv").write_text(CLASSES + "Boat\n")
    assert planned(config) == [
        "tasks.objects: the class 'Boat' (classes.tsv) counts as kept, and as a synonym of 'ship' it is to vanish; "
        "remove one of the two."
    ]


def test_another_base_that_meets_the_emoji_world(config: dict) -> None:
    config["bases"]["sd14"] = {"model": "CompVis/stable-diffusion-v1-4", "revision": None}
    config["tasks"]["objects"]["base"] = "sd14"
    (line,) = planned(config)
    keys = "methods.mace.prior, masks.clipseg.model, measures.judge.model, evaluations.objects.reference_images"
    assert line.startswith(
        f"tasks.objects: {keys} come from resources/emoji, which knows its own world alone, and the "
    )
    told = {"kind": "uce-debias", "attributes": ["cat", "dog"], "judge": {"model": "resources/emoji/clip"}}
    debiasing = config | {"methods": {"uce-debias": told}, "tasks": copy.deepcopy(config["tasks"])}
    debiasing["tasks"]["objects"] |= {"methods": ["uce-debias"], "evaluation": None}
    assert "tasks.objects: methods.uce-debias.judge.model come from resources/emoji" in planned(debiasing)[0]
    config["methods"]["mace"]["prior"] = None
    config["masks"]["segmenter"] = "full-frame"
    config["measures"]["judge"]["model"] = "openai/clip-vit-base-patch32"
    config["evaluations"]["objects"]["classes"]["table"] = "resources/emoji/objects.tsv"
    (line,) = planned(config)
    assert line.startswith(
        "tasks.objects: evaluations.objects.classes.table, evaluations.objects.reference_images come"
    )


def test_a_suite_that_nothing_uses(config: dict) -> None:
    mine(config, "a,b,1\n")
    assert planned(config) == ["suites.mine: no task and no evaluation of one uses it, so nothing samples it."]
    config["evaluations"]["other"] = config["evaluations"]["objects"] | {"quality": "mine"}  # of no task
    assert planned(config) == ["suites.mine: no task and no evaluation of one uses it, so nothing samples it."]


def test_more_templates_than_the_file_holds(config: dict) -> None:
    Path("words.txt").write_text("a {}\nthe {}\n")
    config["templates"]["object"] = "words.txt"
    assert planned(config) == ["templates.used is 30, and words.txt holds 2: training uses these 2."]
    config["templates"]["used"] = 2
    assert planned(config) == []


@pytest.mark.parametrize(
    ("synonyms", "told"),
    [
        ("boat; Ship", "the synonym 'Ship' of 'ship' is the concept itself."),
        ("boat, vessel", "the synonym 'boat, vessel' of 'ship' holds a comma, and synonyms are separated by ';'."),
        ("boat; SHIP ; fish, fresh", "the synonym 'SHIP' of 'ship' is the concept itself."),
    ],
)
def test_synonyms_that_are_none(config: dict, synonyms: str, told: str) -> None:
    words(config, f"ship\tobject\tground\t{synonyms}\nbird\tobject\tsky\tfowl\n")
    assert f"concepts.tsv: {told}" in planned(config)


def test_concepts_that_a_suite_shows_nothing_of(config: dict) -> None:
    words(config, "ship\tobject\tground\tboat\nbird\tobject\tsky\t\n")
    mine(config, "ship,a ship,1\n", "erased")
    assert planned(config) == [
        "tasks.objects: acc_e says nothing of 1 of its 2 concepts, since suite mine has no row of the type 'bird'.",
        "tasks.objects: acc_g says nothing of 1 of its 2 concepts, since suite synonyms has no row of the type 'bird'.",
    ]


def test_rows_that_repeat_others(config: dict) -> None:
    mine(config, "ship,a,1\nship,a,1\nbird,a,1\nship,a,2\n", "erased")
    (line,) = planned(config)
    assert line.startswith("suites.mine: 1 of 4 rows repeat another's type, prompt and seed")


def test_settings_in_a_file_that_are_not_read(config: dict) -> None:
    rows = "".join(f"ship,a ship {k},{k},7.5,512,512\n" for k in range(140))
    Path("i2p.csv").write_text("type,prompt,evaluation_seed,sd_guidance_scale,sd_image_width,sd_image_height\n" + rows)
    suite = config["suites"]["reference"] = {"file": "i2p.csv"}
    (line,) = planned(config)
    assert line.startswith("suites.reference: i2p.csv has sd_guidance_scale, sd_image_width, sd_image_height, which ")
    suite["columns"] = {"guidance": "sd_guidance_scale", "width": "sd_image_width", "height": "sd_image_height"}
    assert planned(config) == []


def test_a_thousand_concepts_are_told_of_in_one_line(config: dict) -> None:
    names = [f"thing {k}" for k in range(1000)]
    words(config, "".join(f"{name}\tobject\tground\tx, y\n" for name in names))
    Path("classes.tsv").write_text("object\ncat\n" + "".join(f"{name}\n" for name in names))
    config["tasks"]["objects"]["concepts"] = names
    mine(config, "thing 1,a,1\n", "erased")
    told = planned(config)
    assert max(map(len, told)) < 400
    assert any("'thing 3', 'thing 4', 'thing 5' and 994 more" in line for line in told), told
    assert any("(and 999 more like it)" in line for line in told)


# Rows that a run draws or fetches


def fetched(config: dict, **suite: object) -> dict:
    config["suites"]["fetched"] = {"file": "results/i2p/i2p_benchmark.csv", "rows": 140} | suite
    return config


def test_rows_that_are_yet_to_be_fetched_are_as_many_as_the_suite_says(config: dict) -> None:
    config["evaluations"]["objects"] |= {"quality": "fetched", "reference_images": "results/real.zip"}
    for kept in ({}, {"file": "./results//i2p/i2p_benchmark.csv"}):
        assert read_inputs(fetched(config, **kept)).fetched == {"fetched": 140}
        assert planned(config) == ["suites.reference: no task and no evaluation of one uses it, so nothing samples it."]
    (line,) = refusals(fetched(config, rows=128))
    assert line.startswith(
        "evaluations.objects.quality: suite fetched has 128 images, and fid needs more than the 128 dim"
    )
    config["suites"]["fetched"] = {"coco": "results/coco/captions_val2014.json", "rows": 25, "seed": 1}
    assert read_inputs(config).fetched == {"fetched": 25}
    assert "fetched" not in read_inputs(config).suites


def test_a_suite_to_be_fetched_must_say_how_many_rows_it_has(config: dict) -> None:
    config["tasks"]["objects"]["suites"] = ["fetched"]
    del fetched(config)["suites"]["fetched"]["rows"]
    (line,) = refusals(config)
    assert line.startswith(
        "suites.fetched lacks the key rows: results/i2p/i2p_benchmark.csv is fetched by a run; add it"
    )


@pytest.mark.parametrize("role", ["erased", "generality", "kept"])
def test_rows_that_count_by_type_must_be_known_when_planning(config: dict, role: str) -> None:
    config["evaluations"]["objects"][role] = "fetched"
    (line,) = refusals(fetched(config))
    assert line.startswith(
        f"evaluations.objects.{role}: suite fetched does not fit here, as its rows count towards acc_"
    )
    assert line.endswith("make results/suites/fetched.csv, and name a copy of it outside results as a suite's file.")
