"""The classifier as an estimator of scikit-learn: parameters, cross-validation, probabilities, files without pickle."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator

from siamese_utils.data.synthetic import make_synthetic
from siamese_utils.encoders.checkpoints import load_encoder, save_encoder
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.encoders.imprinting import CosineClassifier, Whitening, load_classifier, save_classifier
from siamese_utils.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    ImageError,
    SamplingError,
    ShapeError,
    UnknownNameError,
)
from siamese_utils.recognition import classifier as classify
from siamese_utils.recognition import saved
from siamese_utils.recognition.classifier import OneShotClassifier, classify_folder

CLASSES, EACH = 4, 6


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder("conv3", 8).eval()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Four synthetic classes of six images, class after class."""
    return make_synthetic("test", num_classes=CLASSES, per_class=EACH).images.numpy()


@pytest.fixture(scope="module")
def y() -> np.ndarray:
    return np.repeat(np.array(["ant", "bee", "cat", "dog"]), EACH)


@pytest.fixture
def folder(images: np.ndarray, y: np.ndarray, tmp_path: Path) -> Path:
    """A support of two images a class in ``support``, and all others in ``queries``."""
    for number, (image, name) in enumerate(zip(images, y)):
        place = tmp_path / ("support" if number % EACH < 2 else "queries") / name
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number}.png")
    return tmp_path


IMAGES = "X is images, and tables of numbers that are no floats are taken for damaged ones"
WORDS = "it is refused in words of the project's own"
EXPECTED_FAILURES = {
    "check_estimators_dtypes": IMAGES,
    "check_dtype_object": IMAGES,
    "check_classifier_data_not_an_array": IMAGES,
    "check_classifiers_train": IMAGES,
    "check_n_features_in_after_fitting": WORDS,
    "check_estimators_empty_data_messages": WORDS,
    "check_estimators_nan_inf": WORDS,
    "check_estimator_sparse_tag": WORDS,
    "check_estimator_sparse_array": WORDS,
    "check_estimator_sparse_matrix": WORDS,
    "check_fit2d_predict1d": WORDS,
    "check_requires_y_none": "without y, X is classes by name",
}


@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks_that_make_sense_for_images() -> None:
    checks = check_estimator(OneShotClassifier(), expected_failed_checks=EXPECTED_FAILURES, on_skip=None)
    status = {check["check_name"]: check["status"] for check in checks}
    assert {name for name, state in status.items() if state == "xfail"} <= set(EXPECTED_FAILURES)
    assert sum(state == "passed" for state in status.values()) >= 36


def test_parameters_are_kept_as_they_are_and_cloned(encoder: Encoder) -> None:
    classifier = OneShotClassifier(encoder, head="ridge", unknown_rate=0.1, views="none")
    assert classifier.get_params(deep=False) == {
        "encoder": encoder,
        "head": "ridge",
        "unknown_rate": 0.1,
        "views": "none",
    }
    twin = clone(OneShotClassifier("90-10", head="ridge"))
    assert twin.encoder == "90-10" and twin.set_params(head="centred").head == "centred"


def test_every_form_of_images_gives_the_same_classifier(
    encoder: Encoder, images: np.ndarray, y: np.ndarray, folder: Path
) -> None:
    support = np.arange(len(y)) % EACH < 2
    expected = OneShotClassifier(encoder).fit({name: images[support & (y == name)] for name in np.unique(y)})
    files = [folder / "support" / name / f"{number}.png" for number, name in enumerate(y) if support[number]]
    forms = [
        images[support],
        list(images[support]),
        torch.from_numpy(images[support]),
        files,
        np.array(files, str),
        encoder.embed(images[support]),
    ]
    for X in forms:
        classifier = OneShotClassifier(encoder).fit(X, y[support])
        torch.testing.assert_close(classifier.prototypes, expected.prototypes, atol=1e-5, rtol=0)
        said = classifier.predict(images)
        assert isinstance(said, np.ndarray) and said.tolist() == expected.predict(images)
        assert classifier.classes_.tolist() == ["ant", "bee", "cat", "dog"] == list(expected.class_names)
    by_folder = OneShotClassifier(encoder).fit_folder(folder / "support")
    assert by_folder.predict([str(file) for file in files]) == expected.predict(images[support])
    numbers = OneShotClassifier(encoder).fit(images[::-1], np.arange(len(y))[::-1] // EACH)
    assert numbers.classes_.tolist() == [0, 1, 2, 3] and numbers.predict(images).dtype.kind == "i"


def test_files_images_and_tables_of_embeddings_may_be_given(
    encoder: Encoder, images: np.ndarray, y: np.ndarray, folder: Path
) -> None:
    expected = OneShotClassifier(encoder).fit(images[::EACH], y[::EACH])
    files = [folder / "support" / name / f"{EACH * number}.png" for number, name in enumerate(np.unique(y))]
    mixed = [files[0], *images[EACH::EACH]]
    for X in (mixed, mixed[::-1]):
        assert sorted(expected.predict(X)) == np.unique(y).tolist()
    named = OneShotClassifier(encoder).fit({"ant": files[0], "bee": str(files[1]), "cat": os.fsencode(files[2])})
    assert named.predict(files[1]) == ["bee"] and named.predict(mixed[:3]) == ["ant", "bee", "cat"]
    table = pd.DataFrame(encoder.embed(images).numpy()).add_prefix("column ")
    of_table = OneShotClassifier(encoder).fit(table[::EACH], y[::EACH])
    assert of_table.predict(table).tolist() == expected.predict(images).tolist()


def test_no_images_have_no_answers(encoder: Encoder, images: np.ndarray, y: np.ndarray) -> None:
    fitted = OneShotClassifier(encoder).fit(images, y)
    assert fitted.predict([]).tolist() == [] and fitted.predict_proba([]).shape == (0, CLASSES)


def test_probabilities_go_with_the_answers(encoder: Encoder, images: np.ndarray, y: np.ndarray) -> None:
    classifier = OneShotClassifier(encoder).fit(images[::2], y[::2])
    p = classifier.predict_proba(images)
    assert p.shape == (len(y), CLASSES)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    assert (classifier.classes_[p.argmax(axis=1)] == classifier.predict(images)).all()
    assert classifier.is_unknown([]).shape == (0,)
    assert classifier.score(images, y) == (classifier.predict(images) == y).mean()


def test_it_works_where_estimators_do(encoder: Encoder, images: np.ndarray, y: np.ndarray, folder: Path) -> None:
    scores = cross_val_score(OneShotClassifier(encoder), images, y, cv=3)
    of_embeddings = cross_val_score(OneShotClassifier(), encoder.embed(images).numpy(), y, cv=3)
    assert scores.tolist() == of_embeddings.tolist() and 0 < scores.mean() < 1
    files = sorted((folder / "queries").glob("*/*.png"))
    by_file = cross_val_score(OneShotClassifier(encoder), files, [file.parent.name for file in files], cv=2)
    assert by_file.shape == (2,) and 0 <= by_file.min() <= by_file.max() <= 1
    line = make_pipeline(FunctionTransformer(lambda some: encoder.embed(some).numpy()), OneShotClassifier())
    assert (line.fit(images, y).predict(images) == OneShotClassifier(encoder).fit(images, y).predict(images)).all()
    search = GridSearchCV(OneShotClassifier(encoder), {"head": ["prototype", "ridge"]}, cv=2).fit(images, y)
    assert search.best_params_["head"] in ("prototype", "ridge")


def test_images_in_a_form_that_is_nearly_right(
    encoder: Encoder, images: np.ndarray, y: np.ndarray, folder: Path
) -> None:
    fitted = OneShotClassifier(encoder).fit(images, y)
    one, first, list_it = (
        Image.fromarray(images[0]),
        np.moveaxis(images, -1, 1),
        r"put one image into a list: \[image\]\.$",
    )
    for given, says in (
        (one, list_it),
        (one.convert("L"), list_it),
        (images[0], list_it),
        (first, r"; channels come last: transpose to \(N, H, W, 3\)\.$"),
        (
            first[0],
            r"; channels come last: transpose to \(H, W, 3\); one image, and each of several grey ones, goes into",
        ),
        ([first[0]], r"; channels come last: transpose to \(H, W, 3\)\.$"),
        (images / 255, r"round\(\), then astype\('uint8'\) of an array, to\(torch\.uint8\) of a tensor\.$"),
        ([images[0] / 255], r"to\(torch\.uint8\) of a tensor\.$"),
        (first / 255, r"of a tensor, and channels come last"),
        (images[..., :2], r"; convert to RGB"),
    ):
        for ask in (fitted.predict, encoder.embed):
            with pytest.raises(ShapeError, match=says):
                ask(given)
    with pytest.raises(ShapeError, match="Images of the class 'a' are several"):
        OneShotClassifier(encoder).fit({"a": one, "b": one})
    for ask in (fitted.predict, encoder.embed):
        with pytest.raises(ImageError, match="queries is a folder; name the images in it, or ask predict_files"):
            ask(str(folder / "queries"))


def same(one: OneShotClassifier, other: OneShotClassifier, images: np.ndarray) -> bool:
    """Whether two classifiers know the same and answer alike."""
    np.testing.assert_allclose(one.predict_proba(images), other.predict_proba(images), atol=1e-4)
    assert one.reading_.threshold == pytest.approx(other.reading_.threshold, abs=1e-4)
    assert one.head_.name == other.head_.name and type(one.predict(images)) is type(other.predict(images))
    return list(one.predict(images)) == list(other.predict(images)) and one.classes_.tolist() == other.classes_.tolist()


@pytest.mark.parametrize("form", ["names", "numbers", "mapping", "embeddings"])
def test_one_more_class_is_learned_as_if_all_were_at_once(
    form: str, encoder: Encoder, images: np.ndarray, y: np.ndarray, tmp_path: Path
) -> None:
    X = encoder.embed(images).numpy() if form == "embeddings" else images
    y = np.where(y == "bee", "bumblebee", y)  # a longer name than those of the others, and among them in order
    y = np.unique(y, return_inverse=True)[1] if form == "numbers" else y
    new = y[EACH]
    if form == "mapping":
        groups = {name: X[y == name] for name in ("ant", "cat", "dog", new)}
        whole = OneShotClassifier(encoder).fit(groups)
        part = OneShotClassifier(encoder).fit({name: groups[name] for name in ("ant", "cat", "dog")})
    else:
        whole = OneShotClassifier(encoder).fit(X, y)
        part = OneShotClassifier(encoder).fit(X[y != new], y[y != new].tolist())
    part.save(tmp_path / "part.safetensors") if form != "embeddings" else None
    assert part.add_class(new, X[y == new]) is part and same(part, whole, X)
    if form != "embeddings":
        assert same(
            OneShotClassifier.load(tmp_path / "part.safetensors", encoder).add_class(new, X[y == new]), whole, X
        )


def test_one_more_class_beside_those_of_a_folder(encoder: Encoder, images: np.ndarray, folder: Path) -> None:
    whole, queries = OneShotClassifier(encoder).fit_folder(folder / "support"), folder / "queries" / "dog"
    shutil.move(folder / "support" / "dog", folder / "dog")
    part = (
        OneShotClassifier(encoder).fit_folder(folder / "support").add_class("dog", sorted((folder / "dog").iterdir()))
    )
    assert same(part, whole, images) and part.examples_.contents == whole.examples_.contents
    columns = [name for name in whole.predict_files(queries, top=4) if not name.startswith("nearest")]
    told = [one.predict_files(queries, top=4)[columns] for one in (part, whole)]
    pd.testing.assert_frame_equal(*told, atol=1e-4)
    of_folder = OneShotClassifier(encoder).fit_folder(folder / "support").add_class("dog", str(folder / "dog"))
    assert same(of_folder, whole, images) and of_folder.examples_.files == part.examples_.files
    twice = folder / "support" / "ant" / "0.png"
    with pytest.raises(DataError, match=r"0\.png and .*0\.png are the same image in two classes"):
        part.add_class("fox", [twice])
    assert same(part, whole, images)
    as_arrays = OneShotClassifier(encoder).fit_folder(folder / "support").add_class("dog", images[3 * EACH :])
    assert len(as_arrays.predict_files(queries, top=1)) == EACH - 2  # some of the nearest lie in no file


def test_a_class_that_cannot_be_added(encoder: Encoder, images: np.ndarray, y: np.ndarray) -> None:
    fitted = OneShotClassifier(encoder).fit(images, y)
    before = fitted.predict_proba(images)
    with pytest.raises(SamplingError, match="call fit"):
        OneShotClassifier(encoder).add_class("ant", images)
    with pytest.raises(SamplingError, match="'ant' is there already"):
        fitted.add_class("ant", images[:1])
    with pytest.raises(SamplingError, match="'fox' has no support image"):
        fitted.add_class("fox", [])
    with pytest.raises(ShapeError, match="named like 'ant', 'bee', 'cat'; name this one likewise, not"):
        fitted.add_class(3, images[:1])
    with pytest.raises(ShapeError, match="a word or a whole number, not by ''"):
        fitted.add_class("", images[:1])
    for numbers, strange in (([False, True], 2), (np.array([0, 1], np.uint64), -1), ([0, 1], 10**30)):
        with pytest.raises(ShapeError, match="name this one likewise"):
            OneShotClassifier(encoder).fit(images[:2], numbers).add_class(strange, images[2:3])
    with pytest.raises(ShapeError, match="a word or a whole number, not by a list"):
        fitted.add_class(["fox"], images[:1])
    with pytest.raises(ShapeError, match="put one image into a list"):
        fitted.add_class("fox", images[0])
    assert (fitted.predict_proba(images) == before).all()
    with pytest.raises(
        ShapeError, match="5 columns"
    ):  # it has learned from embeddings of another size than the encoder's
        OneShotClassifier(encoder).fit(np.eye(5)[:2], ["a", "b"]).add_class("c", images[:1])


def test_wrong_calls(encoder: Encoder, images: np.ndarray, y: np.ndarray) -> None:
    for ask in (lambda c: c.predict(images), lambda c: c.predict_proba(images), lambda c: c.prototypes):
        with pytest.raises(SamplingError, match="call fit") as raised:
            ask(OneShotClassifier(encoder))
        assert isinstance(raised.value, NotFittedError)
    with pytest.raises(SamplingError, match="as y"):
        OneShotClassifier(encoder).fit(images)
    with pytest.raises(SamplingError, match="Two classes"):
        OneShotClassifier(encoder).fit(images, ["a"] * len(images))
    with pytest.raises(ShapeError, match="one class"):
        OneShotClassifier(encoder).fit(images, y[:-1])
    with pytest.raises(ShapeError, match="Classes"):
        OneShotClassifier(encoder).fit(images, np.linspace(0, 1, len(y)))
    with pytest.raises(UnknownNameError, match="centred"):
        OneShotClassifier(encoder, head="center").fit(images, y)


def test_a_folder_in_the_place_of_the_encoder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for given in ("support", folder / "support", b"support"):
        says = r"support' is a folder, but the encoder comes first: write classify_folder\(None, '.*support', \.\.\.\)"
        with pytest.raises(ConfigError, match=says):
            classify_folder(given, "support/ant")
        with pytest.raises(ConfigError, match=says):
            OneShotClassifier(given).fit_folder("nowhere")


# ----------------------------------------------------------------------------------------- answers


def test_answers_of_a_width_that_does_not_grow(encoder: Encoder, folder: Path, images: np.ndarray) -> None:
    table = classify_folder(encoder, folder / "support", sorted((folder / "queries").iterdir()), top=2)
    assert table.columns.tolist() == [
        *("query", "prediction", "similarity", "margin", "probability", "unknown"),
        *("class_1", "similarity_1", "class_2", "similarity_2", "in_support"),
        *(f"nearest_{place}{kind}" for place in (1, 2, 3) for kind in ("", "_similarity")),
    ]
    assert (table.prediction == table.class_1).all() and (table.similarity == table.similarity_1).all()
    np.testing.assert_allclose(table.margin, table.similarity_1 - table.similarity_2, atol=1e-6)
    assert not table.in_support.any() and table.probability.between(0.25, 1).all()
    assert (table.nearest_1_similarity >= table.nearest_2_similarity).all()
    row = table.iloc[0]
    z = encoder.embed([row["query"], row["nearest_1"]])
    assert float(z[0] @ z[1]) == pytest.approx(row["nearest_1_similarity"], abs=1e-5)
    wide = classify_folder(encoder, folder / "support", sorted((folder / "queries").iterdir()))
    pd.testing.assert_frame_equal(wide.iloc[:, :6], table.iloc[:, :6])
    fitted = OneShotClassifier(encoder).fit_folder(folder / "support")
    assert fitted.is_unknown(table["query"].tolist()).tolist() == table.unknown.tolist()
    assert fitted.is_unknown(images).dtype == bool and 0 < fitted.is_unknown(images).sum() < len(images)
    assert wide.prediction.tolist() == table.prediction.tolist()


def test_a_query_that_stands_in_the_support(encoder: Encoder, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    double = folder / "queries" / "ant" / "renamed.png"
    original = sorted((folder / "support" / "ant").iterdir())[0]
    double.write_bytes(original.read_bytes())
    with caplog.at_level(logging.WARNING):
        table = classify_folder(encoder, folder / "support", double.parent, top=1)
    assert table.loc[table.in_support, "query"].tolist() == [str(double)]
    assert [f"{double} is {original}" in record.getMessage() for record in caplog.records] == [True]


def test_without_an_encoder_the_best_is_used_and_named(
    encoder: Encoder, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save_encoder(encoder, folder / "best.safetensors")
    monkeypatch.setattr(classify, "best_encoder", lambda: str(folder / "best.safetensors"))
    with caplog.at_level(logging.INFO):
        classify_folder(None, folder / "support", folder / "queries" / "ant")
    assert "best.safetensors" in caplog.text and len(caplog.records) == 1


# ----------------------------------------------------------------------------------- saving and loading


@pytest.fixture
def kept(encoder: Encoder, folder: Path) -> Path:
    """A classifier that was saved; its encoder is a checkpoint."""
    save_encoder(encoder, folder / "encoder.safetensors")
    fitted = OneShotClassifier(folder / "encoder.safetensors", unknown_rate=0.2).fit_folder(folder / "support")
    fitted.save(folder / "kept.safetensors")
    return folder / "kept.safetensors"


def test_what_is_saved_answers_alike(kept: Path, folder: Path) -> None:
    before = OneShotClassifier(folder / "encoder.safetensors", unknown_rate=0.2).fit_folder(folder / "support")
    after = OneShotClassifier.load(kept)
    queries = sorted((folder / "queries").iterdir())
    assert after.predict_files(queries, top=3).equals(before.predict_files(queries, top=3))
    assert after.unknown_rate == 0.2 and after.reading_ == before.reading_ and after.head_.name == before.head_.name


@pytest.mark.parametrize("names", [["x", "y", "z", "ü"], [3, 1, 2, 9], [0.5, 2.0, 1.0, 4.0]])
def test_labels_keep_their_type(names: list, encoder: Encoder, images: np.ndarray, tmp_path: Path) -> None:
    y = np.repeat(np.array(names), EACH)
    y = y.astype(int) if y.dtype.kind == "f" else y
    fitted = OneShotClassifier(encoder).fit(images, y)
    fitted.save(tmp_path / "a.safetensors")
    again = OneShotClassifier.load(tmp_path / "a.safetensors", encoder=encoder)
    assert again.classes_.dtype == fitted.classes_.dtype
    assert (again.predict(images) == fitted.predict(images)).all()


def test_another_encoder_is_refused(kept: Path, folder: Path, encoder: Encoder) -> None:
    OneShotClassifier.load(kept, encoder=folder / "encoder.safetensors")
    torch.manual_seed(1)
    with pytest.raises(CheckpointError, match="another encoder"):
        OneShotClassifier.load(kept, encoder=Encoder("conv3", 8).eval())
    save_encoder(Encoder("conv3", 8).eval(), folder / "encoder.safetensors")
    with pytest.raises(CheckpointError, match="another encoder"):
        OneShotClassifier.load(kept)
    (folder / "encoder.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        OneShotClassifier.load(kept)


def test_files_that_are_no_classifier(kept: Path, folder: Path, encoder: Encoder) -> None:
    with pytest.raises(CheckpointError, match="no saved classifier"):
        OneShotClassifier.load(folder / "none.safetensors")
    with pytest.raises(CheckpointError, match="not written by"):
        OneShotClassifier.load(folder / "encoder.safetensors")
    content = kept.read_bytes()
    for damaged in (content[:100], content[:-1] + bytes([content[-1] ^ 1]), b""):
        kept.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="damaged"):
            OneShotClassifier.load(kept)
    save_file(load_file(folder / "encoder.safetensors"), kept, metadata={"format": "siamese_utils.classifier/1"})
    with pytest.raises(CheckpointError, match="damaged"):
        OneShotClassifier.load(kept)
    with pytest.raises(SamplingError, match="call fit"):
        OneShotClassifier(encoder).save(kept)


def test_a_setting_that_is_not_known_is_of_a_newer_version(kept: Path) -> None:
    examples, known = saved.load(kept)
    settings = {**known["settings"], "encoder": None, "sharpness": 2}
    saved.save(kept, examples, settings, known["listed"], known["head"], known["reading"], None)
    with pytest.raises(CheckpointError, match="newer version, with a setting 'sharpness'"):
        OneShotClassifier.load(kept)


def test_the_two_kinds_of_classifiers_name_their_own_loader(kept: Path) -> None:
    with pytest.raises(CheckpointError, match=r"read it with OneShotClassifier\.load\."):
        load_classifier(kept)
    z, labels = torch.eye(4).repeat(2, 1) + torch.arange(8)[:, None] / 10, torch.arange(4).repeat(2)
    save_classifier(kept, CosineClassifier.from_means(z, labels), Whitening.fit(z, labels))
    with pytest.raises(CheckpointError, match=r"read it with load_classifier\."):
        OneShotClassifier.load(kept)


def test_numbers_of_numpy_are_saved_as_settings(
    encoder: Encoder, images: np.ndarray, y: np.ndarray, kept: Path
) -> None:
    OneShotClassifier(None, unknown_rate=np.float32(0.25)).fit(encoder.embed(images), y).save(kept)
    assert OneShotClassifier.load(kept).unknown_rate == 0.25


def test_nothing_is_half_written(kept: Path, encoder: Encoder, images: np.ndarray, y: np.ndarray) -> None:
    before = kept.read_bytes()
    fitted = OneShotClassifier(encoder).fit({object(): images[:2], "b": images[6:8]})
    with pytest.raises(CheckpointError, match="JSON"):
        fitted.save(kept)
    assert kept.read_bytes() == before and json.dumps(list(kept.parent.glob("*.tmp"))) == "[]"


def test_what_was_loaded_is_saved_with_its_encoder(kept: Path, folder: Path) -> None:
    again = OneShotClassifier.load(kept)
    again.save(folder / "second.safetensors")
    query = next((folder / "queries").rglob("*.png"))
    again.predict_files(query)
    again.save(folder / "third.safetensors")
    for name in ("second", "third"):
        loaded = OneShotClassifier.load(folder / f"{name}.safetensors")
        assert loaded.predict_files(query).equals(again.predict_files(query))
    (folder / "encoder.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"encoder\.safetensors.* cannot be loaded"):
        OneShotClassifier.load(folder / "third.safetensors")


def test_an_encoder_is_saved_by_what_it_was_loaded_by(
    folder: Path, encoder: Encoder, images: np.ndarray, y: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best one that is installed, one that was loaded beforehand, and one that has embedded nothing yet."""
    path = folder / "mine.safetensors"
    save_encoder(encoder, path)
    monkeypatch.setattr(classify, "best_encoder", lambda: str(path))
    z = load_encoder(path).embed(images)
    for fitted in (
        OneShotClassifier().fit(images, y),
        OneShotClassifier(load_encoder(path)).fit(images, y),
        OneShotClassifier(path).fit(z, y),
    ):
        fitted.save(folder / "kept.safetensors")
        loaded = OneShotClassifier.load(folder / "kept.safetensors")
        assert loaded.predict(images).tolist() == fitted.predict(images).tolist()
    OneShotClassifier(encoder).fit(images, y).save(folder / "kept.safetensors")  # made by hand, found by no name
    with pytest.raises(CheckpointError, match="has no name to find it by"):
        OneShotClassifier.load(folder / "kept.safetensors")


def test_images_for_a_classifier_of_other_embeddings_are_refused(encoder: Encoder, images: np.ndarray) -> None:
    fitted = OneShotClassifier(encoder).fit(torch.randn(4, encoder.embedding_dim + 1), [0, 0, 1, 1])
    for ask in (fitted.predict, fitted.predict_proba, fitted.similarities):
        with pytest.raises(ShapeError):
            ask(images)


def test_classes_that_are_no_words_are_not_saved(encoder: Encoder, images: np.ndarray, tmp_path: Path) -> None:
    fitted = OneShotClassifier(encoder).fit({("a", 1): images[:2], ("b", 2): images[6:8]})
    with pytest.raises(CheckpointError, match="words or numbers"):
        fitted.save(tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_queries_whose_content_is_known_are_not_read_for_it(
    encoder: Encoder, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = OneShotClassifier(encoder).fit_folder(folder / "support")
    copy = folder / "queries" / "ant" / "copy.png"
    copy.write_bytes(next((folder / "support" / "ant").iterdir()).read_bytes())
    files = sorted((folder / "queries" / "ant").iterdir())
    first = fitted.predict_files(files, top=2)
    monkeypatch.setattr(classify, "content_digest", lambda file: pytest.fail(f"{file} is read once more"))
    again = fitted.predict_files(files, top=2)
    assert again.in_support.tolist() == first.in_support.tolist() == [file == copy for file in files]
