"""The gallery: verdicts and order by hand, sizes, texts as they are, and the page in a real browser."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from browsers import chromium
from lethe.pictures import gallery

HOSTILE = "<script>alert(1)</script>' \"x"
METHODS = ["original", "mace", "uce"]
SEEN = {  # what each method's image of a prompt is taken for, with its probability, and that of the type
    ("erased", "ship", 1): {"original": ("ship", 0.99, 0.99), "mace": ("cat", 0.7, 0.2), "uce": ("cat", 0.9, 0.05)},
    ("erased", "ship", 2): {"original": ("ship", 0.9, 0.9), "mace": ("ship", 0.6, 0.6), "uce": ("dog", 0.8, 0.1)},
    ("erased", "ship", 3): {"original": ("ship", 0.9, 0.9), "mace": ("ship", 0.95, 0.95), "uce": ("ship", 0.7, 0.7)},
    ("kept", "cat", 1): {"original": ("cat", 0.9, 0.9), "mace": ("cat", 0.8, 0.8), "uce": ("dog", 0.99, 0.003)},
    ("kept", "dog", 1): {"original": ("cat", 0.6, 0.4), "mace": ("cat", 0.7, 0.3), "uce": ("dog", 0.6, 0.6)},
    ("kept", HOSTILE, 5): {"original": (HOSTILE, 1.0, 1.0), "mace": (HOSTILE, 0.9, 0.9), "uce": (HOSTILE, 0.9, 0.9)},
}


def samples() -> pd.DataFrame:
    """The images of `SEEN` as the step finds them."""
    lines = []
    for method in METHODS:
        for number, ((role, concept, seed), found) in enumerate(SEEN.items()):
            predicted, probability, of_type = found[method]
            place = f"results/sd/samples/{method}/s p/{role}.zip/{number:06d}.png"
            line = dict(method=method, role=role, counts=role, suite="s p", shard=role, row=number, type=concept)
            line |= dict(prompt=f"a {concept}", evaluation_seed=seed, picture=place, predicted=predicted)
            line |= dict(right=predicted == concept, probability=probability, type_probability=of_type, score=None)
            lines.append(line)
    return pd.DataFrame(lines)


def painted(picture: str, side: int = 16) -> np.ndarray:
    """An image of one colour: red for the base, green for mace, blue for uce; brighter with its number."""
    channel = next(k for k, method in enumerate(METHODS) if f"/{method}/" in picture)
    image = np.zeros((side, side, 3), np.uint8)
    image[..., channel] = 150 + 10 * int(Path(picture).stem)
    return image


def test_verdicts_are_those_that_a_person_gives() -> None:
    found = gallery.judged(samples()).set_index(["method", "type", "evaluation_seed"])
    want = {
        ("original", "ship", 1): ("base", "ship 99 %", 0),
        ("mace", "ship", 1): ("hold", "cat 70 %; ship 20 %", 0.2),
        ("mace", "ship", 2): ("fail", "still ship 60 %", 0.6),
        ("uce", "cat", 1): ("fail", "lost: dog 99 %; cat 0.3 %", 0.997),
        ("mace", "cat", 1): ("hold", "cat 80 %", 0.2),
        ("mace", "dog", 1): ("fail", "wrong as before: cat 70 %; dog 30 %", 0),
        ("uce", "dog", 1): ("hold", "dog 60 %", 0.4),
        ("original", HOSTILE, 5): ("base", f"{HOSTILE} > 99.9 %", 0),
    }
    for key, (state, said, bad) in want.items():
        assert (found.at[key, "state"], found.at[key, "said"]) == (state, said)
        assert found.at[key, "bad"] == pytest.approx(bad)


def test_without_the_probability_of_the_type_it_has_at_most_what_is_left() -> None:
    """As of faces, of which only the likeliest name is known."""
    table = samples().assign(type_probability=None)
    found = gallery.judged(table).set_index(["method", "type", "evaluation_seed"])
    assert found.at[("mace", "ship", 1), "bad"] == pytest.approx(0.3)
    assert found.at[("mace", "ship", 1), "said"] == "cat 70 %"
    assert found.at[("uce", "cat", 1), "bad"] == pytest.approx(1 - (1 - 0.99))


def test_images_without_a_verdict_say_so_and_scores_say_how_they_changed() -> None:
    nothing = dict.fromkeys(("predicted", "right", "probability", "type_probability", "score"))
    plain = gallery.judged(samples().assign(**nothing))
    assert set(plain["said"]) == {"nothing to judge"}
    assert set(plain["state"]) == {"base", "none"}
    scored = samples().assign(**nothing)
    scored["score"] = scored["method"].map({"original": 30.0, "mace": 22.5, "uce": 31.0})
    found = gallery.judged(scored).set_index(["method", "type", "evaluation_seed"])
    assert found.at[("mace", "ship", 1), "said"] == "score 22.5 (-7.5)"
    assert found.at[("mace", "ship", 1), "bad"] == -7.5
    assert found.at[("mace", "cat", 1), "bad"] == 7.5
    assert (found["state"] == "fail").sum() == 0


def test_the_worst_rows_come_first() -> None:
    """Fails by how bad the worst is; then what holds, by how near it is to failing."""
    order = gallery.worst_first(gallery.judged(samples()))
    places = [key[3] for key in order]
    assert places == [3, 2, 1, 4, 0, 5]


def test_any_beginning_has_each_group_as_often_as_it_can() -> None:
    keys = [(k,) for k in range(9)]
    groups = dict(zip(keys, "aaaabbacb", strict=True))
    order = gallery.in_turns(keys, groups)
    assert sorted(order) == keys
    assert [groups[key] for key in order] == ["a", "b", "c", "a", "b", "a", "b", "a", "a"]
    for group in "abc":  # and its own order stays
        assert [key for key in order if groups[key] == group] == [key for key in keys if groups[key] == group]


def test_images_that_fit_are_shown_as_they_are() -> None:
    lines = gallery.lines_of(gallery.judged(samples()), painted)
    assert len(lines) == len(SEEN)
    for line in lines:
        for shot in line.shots:
            kind, content = re.fullmatch(r"data:image/(\w+);base64,(.+)", shot.image).groups()
            assert kind == "png"
            with Image.open(io.BytesIO(base64.b64decode(content))) as image:
                assert (np.asarray(image) == painted(shot.picture)).all()
    assert lines[0].shots[1].command == "lethe trace 'results/sd/samples/mace/s p/kept.zip'"
    assert (lines[0].concept, lines[0].fails, lines[0].shots[1].member) == ("cat", ["uce"], "000003.png")


def test_of_images_that_do_not_fit_as_many_of_each_kind_as_can_are_shown_smaller() -> None:
    def noise(picture: str) -> np.ndarray:
        return np.random.default_rng(len(picture)).integers(0, 256, (600, 400, 3), np.uint8)

    lines = gallery.lines_of(gallery.judged(samples()), noise, budget=250_000)
    assert 0 < len(lines) < len(SEEN)
    shown = {(line.role, line.concept) for line in lines}
    assert len(shown) == min(len(lines), 4)  # none is there twice while one of the four is not
    assert sum(len(shot.image) for line in lines for shot in line.shots) < 250_000
    content = lines[0].shots[0].image.removeprefix("data:image/webp;base64,")
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        assert image.size == (171, 256)


NUMBERS = pd.DataFrame(
    [
        ("mace", "acc_e", 66.6667, 3, 20.7655, 93.8508, "clip-top1@1 of 4 classes by some/clip"),
        ("uce", "acc_e", 33.3333, 3, 6.1492, 79.2345, "clip-top1@1 of 4 classes by some/clip"),
        ("mace", "fid", 9.41, 160, None, None, "clip-frechet@1 by some/clip to real"),
    ],
    columns=["method", "number", "value", "n", "low_95", "high_95", "protocol"],
)
BY_CONCEPT = pd.DataFrame(
    [
        ("mace", "kept", "cat", "acc_s", 100.0, 1, 20.65, 100.0, 0, ""),
        ("mace", "erased", "ship", "acc_e", 66.67, 3, 20.77, 93.85, 2, "2 3"),
        ("uce", "erased", "ship", "acc_e", 33.33, 3, 6.15, 79.23, 1, "3"),
        ("original", "kept", "cat", "acc_s", 0.0, 1, 0.0, 79.35, 1, "1"),
    ],
    columns=["method", "role", "concept", "number", "value", "n", "low_95", "high_95", "failed", "failing_seeds"],
)


def test_tables_of_the_page_have_numbers_in_words_and_the_worst_concept_first() -> None:
    accuracy, distance = gallery.numbers_of(NUMBERS, {"acc_e": "erased"})
    assert accuracy["cells"]["mace"] == dict(value="66.7", n="3", interval="20.8 to 93.9")
    assert (accuracy["better"], distance["better"]) == (gallery.LESS, gallery.LESS)
    assert accuracy["means"].startswith("Percent of images whose most similar class")
    assert distance["cells"] == {"mace": dict(value="9.4", n="160", interval="")}
    ship, cat = gallery.concepts_of(BY_CONCEPT)
    assert (ship["concept"], cat["concept"]) == ("ship", "cat")  # of the base as it is nothing fails
    assert ship["cells"]["mace"]["seeds"] == "2 3"


def made(path: Path, **more: object) -> Path:
    """The page of `SEEN`."""
    table = gallery.judged(samples())
    parts = gallery.page(
        gallery.lines_of(table, painted),
        task="ships",
        erased=["ship"],
        base="sd",
        methods=METHODS,
        roles=["erased", "kept"],
        rows=len(SEEN),
        numbers=gallery.numbers_of(NUMBERS, {"acc_e": "erased"}),
        concepts=gallery.concepts_of(BY_CONCEPT),
        **more,
    )
    path.write_text("".join(parts), encoding="utf-8")
    return path


def test_the_page_asks_for_nothing_and_texts_stay_texts(tmp_path: Path) -> None:
    text = made(tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r'base64,[^"]+', "", text))
    assert text.count("<script>") == 1
    assert text.count("&lt;script&gt;alert(1)") > 5
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text
    assert text == made(tmp_path / "again.html").read_text(encoding="utf-8")


# In a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def opened(browser: WebDriver, tmp_path: Path) -> WebDriver:
    browser.get("about:blank")  # so that no filter of the page before stays
    browser.get(made(tmp_path / "page.html").as_uri())
    return browser


def shown(browser: WebDriver) -> list[str]:
    """The prompts of the rows that a reader sees once what was changed is drawn, with their seeds."""
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    rows = [row for row in browser.find_elements(By.CSS_SELECTOR, "#rows > li") if row.is_displayed()]
    return [f"{row.find_element(By.TAG_NAME, 'h3').text} {row.get_attribute('data-seed')}" for row in rows]


def choose(browser: WebDriver, name: str, value: str) -> None:
    Select(browser.find_element(By.NAME, name)).select_by_value(value)


def colour(browser: WebDriver, image: str) -> list[int]:
    """The pixel in the middle of an image of the comparison."""
    return browser.execute_script(
        "const i = document.querySelector(arguments[0]), c = document.createElement('canvas').getContext('2d');"
        "c.drawImage(i, 0, 0); return [...c.getImageData(8, 8, 1, 1).data].slice(0, 3)",
        f"#stage img.{image}",
    )


def test_a_number_can_be_read_off_the_page(opened: WebDriver) -> None:
    cell = opened.find_element(By.CSS_SELECTOR, "#numbers tr[data-number=acc_e] td[data-method=mace]")
    assert cell.find_element(By.CLASS_NAME, "value").text == "66.7"
    assert "20.8 to 93.9" in cell.text
    assert "n = 3" in cell.text
    assert opened.find_element(By.ID, "count").text == "6 rows"
    assert shown(opened)[0] == "a cat 1"
    assert f"a {HOSTILE} 5" in shown(opened)
    assert opened.get_log("browser") == []  # no error, and nothing that was refused


def test_filters_leave_the_rows_and_images_that_they_name(opened: WebDriver) -> None:
    choose(opened, "verdict", "fail")
    assert shown(opened) == ["a cat 1", "a ship 3", "a ship 2", "a dog 1"]
    choose(opened, "method", "uce")
    assert shown(opened) == ["a cat 1", "a ship 3"]
    figures = opened.find_elements(By.CSS_SELECTOR, "#rows > li:not([hidden]) figure")
    assert [f.get_attribute("data-method") for f in figures if f.is_displayed()] == ["original", "uce"] * 2
    choose(opened, "role", "erased")
    assert shown(opened) == ["a ship 3"]
    assert opened.find_element(By.ID, "count").text == "1 of 6 rows"
    opened.refresh()  # the address keeps what was chosen
    assert shown(opened) == ["a ship 3"]
    Select(opened.find_element(By.NAME, "concept")).select_by_visible_text(HOSTILE)
    assert opened.find_element(By.ID, "nothing").is_displayed()
    opened.find_element(By.ID, "again").click()
    assert len(shown(opened)) == 6
    choose(opened, "order", "concept")
    assert shown(opened)[:3] == ["a ship 1", "a ship 2", "a ship 3"]
    opened.find_elements(By.CSS_SELECTOR, "details.part summary")[1].click()
    opened.find_element(By.CSS_SELECTOR, "#concepts tr[data-concept=cat] button").click()
    assert shown(opened) == ["a cat 1"]


def test_two_images_are_compared_by_keyboard_alone(opened: WebDriver) -> None:
    button = opened.find_element(By.CSS_SELECTOR, "#rows > li:nth-child(2) figure[data-method=mace] button")
    opened.execute_script("arguments[0].focus()", button)
    ActionChains(opened).send_keys(Keys.ENTER).perform()
    dialog = opened.find_element(By.ID, "compare")
    assert dialog.is_displayed()
    assert opened.find_element(By.ID, "compare-title").text == "a ship"
    assert (colour(opened, "left"), colour(opened, "right")) == ([170, 0, 0], [0, 170, 0])
    ActionChains(opened).send_keys(*[Keys.ARROW_LEFT] * 10).perform()
    place = "return document.querySelector('#stage').style.getPropertyValue('--at')"
    assert opened.execute_script(place) == "40%"
    assert dialog.find_element(By.CSS_SELECTOR, "[data-side=right] code").text == (
        "lethe trace 'results/sd/samples/mace/s p/erased.zip'"
    )
    assert "✗ still ship 95 %" in dialog.text
    ActionChains(opened).send_keys("n").perform()
    assert "seed 2" in opened.find_element(By.ID, "compare-about").text
    assert colour(opened, "right") == [0, 160, 0]
    Select(dialog.find_element(By.CSS_SELECTOR, "[data-side=right] select")).select_by_visible_text("uce")
    assert colour(opened, "right") == [0, 0, 160]
    ActionChains(opened).send_keys(Keys.ESCAPE).perform()
    assert not dialog.is_displayed()


def test_the_slider_follows_a_finger(opened: WebDriver) -> None:
    opened.find_element(By.CSS_SELECTOR, "#rows figure[data-method=uce] button").click()
    stage = opened.find_element(By.ID, "stage")
    start = ActionChains(opened).move_to_element(stage).click_and_hold()
    start.move_by_offset(int(stage.size["width"] / 4), 0).release().perform()
    assert int(opened.find_element(By.ID, "slider").get_attribute("value")) == pytest.approx(75, abs=2)


def test_images_that_are_explicit_are_blurred_until_somebody_asks(browser: WebDriver, tmp_path: Path) -> None:
    browser.get(made(tmp_path / "page.html", veiled=True).as_uri())
    image = browser.find_element(By.CSS_SELECTOR, "#rows figure img")
    assert "blur" in image.value_of_css_property("filter")
    browser.find_element(By.NAME, "veil").click()
    assert image.value_of_css_property("filter") == "none"
    browser.execute_script("window.setTimeout = () => 0")  # so that a veil that waits for its turn never falls
    browser.find_element(By.ID, "restore").click()
    assert "blur" in image.value_of_css_property("filter")


@pytest.mark.parametrize("dark", [False, True])
def test_on_a_phone_nothing_is_wider_than_the_screen(tmp_path: Path, dark: bool) -> None:
    with chromium(tmp_path / "profile", width=390, height=844, dark=dark) as phone:
        phone.get(made(tmp_path / "page.html").as_uri())
        assert phone.execute_script("return document.documentElement.scrollWidth") <= 390
        paper = phone.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", paper))) < 200) is dark
        phone.find_element(By.CSS_SELECTOR, "#rows figure button").click()
        assert phone.find_element(By.ID, "stage").size["width"] == pytest.approx(364, abs=12)


def test_everything_that_can_be_used_has_a_name(opened: WebDriver) -> None:
    """Names as a screen reader has them, from the browser's own accessibility tree."""
    nodes = opened.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    used = {"button", "combobox", "checkbox", "slider", "image", "dialog", "region"}
    found = [node for node in nodes if node.get("role", {}).get("value") in used and not node["ignored"]]
    assert len(found) > 40
    assert [node for node in found if not node.get("name", {}).get("value")] == []
