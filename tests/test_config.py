"""Configurations: every rule at a field holds and is told in one sentence, and JSON and YAML give back equals."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from siamese_utils.encoders.checkpoints import checkpoint_info
from siamese_utils.encoders.imprinting import FineTuneConfig
from siamese_utils.errors import ConfigError, SiameseError, UnknownNameError
from siamese_utils.studies.cifar10.fit import FitConfig
from siamese_utils.studies.faces.koch import KochConfig
from siamese_utils.studies.faces.systems import EMBEDDING, FaceConfig
from siamese_utils.studies.imprinting.settings import BaseConfig, ImprintingConfig, MovedConfig
from siamese_utils.studies.imprinting.tuning import TuningConfig
from siamese_utils.system.config import Config
from siamese_utils.training.augment import AugmentConfig
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.losses import OBJECTIVES, Term
from siamese_utils.training.optimizers import OPTIMIZERS
from siamese_utils.training.own_settings import OwnSettings
from siamese_utils.training.recipes import RECIPES

RESULTS = Path(__file__).parents[1] / "results"
TINY = TrainConfig("tiny", (Term("proxy"), Term("triplet", weight=0.5)), resolutions=((0.0, 16), (0.5, 32)))
EXAMPLES: list[Config] = [
    TINY,
    Term("triplet"),
    AugmentConfig(),
    KochConfig(),
    EMBEDDING,
    BaseConfig(changes={"epochs": 2, "augment": {"cutout": 8}}),
    ImprintingConfig(),
    MovedConfig(),
    TuningConfig(),
    FineTuneConfig(),
    OwnSettings(),
    FitConfig((2, 4)),
    *RECIPES.values(),
]

# ------------------------------------------------------------------------------------------- wrong values

NAN, INF = math.nan, math.inf
WRONG: list[tuple[Config, str, list[Any]]] = [
    (TINY, "recipe encoder", [None, 3]),
    (TINY, "terms", [None, 7, [Term("proxy")], ("proxy",), ({"objective": "proxy"},)]),
    (TINY, "head_width least_images most_images held_out_images patience seed", [-1, 1.0, None]),
    (TINY, "most_images", [3]),  # less than a batch
    (TINY, "validation_classes", [-1, 1, 2.0]),
    (TINY, "epochs embedding_dim", [0, 1.5, 3.0, True, "three", np.float64(3)]),
    (TINY, "batch_size", [3, 8.0]),
    (TINY, "images_per_class", [1]),
    (TINY, "learning_rate muon_rate clip_norm", [0.0, -1e-3, NAN, INF, "fast", True, None]),
    (TINY, "weight_decay min_delta", [-0.1, INF]),
    (TINY, "warmup average_decay", [1.0, -0.1, NAN]),
    (TINY, "resolutions", [((0.0, 0),), ((0.5, 32), (0.0, 24)), ((1.5, 32),), ((0.0,),), ((0.0, 16), (0.0, 24)), None]),
    (TINY, "augment", [None, {"translate": 1}]),
    (TINY, "turned_classes compile", ["no", 1, 0]),
    (TINY, "fresh_statistics", [1, True]),  # without an average
    (TINY, "rotation_weight", [-0.1, INF, "half"]),
    (TINY, "rotation_share mixing_share", [-0.1, 1.1, NAN]),
    (TINY, "mixing", [None, 1]),
    (dataclasses.replace(TINY, turned_classes=True), "rotation_weight", [0.5]),
    (Term("triplet"), "weight scale", [0.0, -1.0, NAN, INF]),
    (Term("triplet"), "weight", [None]),
    (Term("linear"), "scale", [0.0, -1.0, NAN, INF]),
    (Term("triplet"), "margin temperature", [0.0, -1.0, NAN, INF, "0.2", True]),
    (Term("triplet"), "begin", [-0.1, 1.0, NAN]),
    (Term("triplet"), "end", [1.1, 0.0]),
    (Term("triplet"), "smoothing", [1.0, -0.1]),
    (AugmentConfig(), "translate cutout", [-1, 1.0]),
    (AugmentConfig(), "smallest_crop", [0.0, -0.5, 1.5]),
    (AugmentConfig(), "brightness contrast saturation zoom", [-0.1, 1.0, NAN]),
    (AugmentConfig(), "rotate", [-1, 181, NAN]),
    (AugmentConfig(), "shear elastic", [-0.1, INF, NAN]),
    (AugmentConfig(), "shear", [2.0]),
    (KochConfig(), "side", [64]),
    (KochConfig(), "channels", [(1, 2, 3), (0, 2, 3, 4), (1, 2, 3, 4, 5), [1, 2, 3, 4]]),
    (KochConfig(), "features epochs", [0, 2.5]),
    (KochConfig(), "batch_size", [1]),
    (KochConfig(), "patience seed", [-1]),
    (KochConfig(), "learning_rate pixel_scale", [0.0]),
    (KochConfig(), "min_delta conv_penalty dense_penalty", [-1.0]),
    (KochConfig(), "dropout", [1.0]),
    (EMBEDDING, "judged_crops", [(), (0,)]),
    (EMBEDDING, "least", [1]),
    (EMBEDDING, "crop size", [0]),
    (EMBEDDING, "train", [None]),
    (ImprintingConfig(), "shots at_once", [(0,), (), (1.5,), 5]),
    (ImprintingConfig(), "shot_sets novel_classes", [0, True]),
    (ImprintingConfig(), "scale shrinkage", [0, INF]),
    (ImprintingConfig(), "budget", [-1, 100]),
    (ImprintingConfig(), "base fine_tuning", [None, {}]),
    (MovedConfig(), "classes shot_sets", [0]),
    (MovedConfig(), "few joint", [None]),
    (TuningConfig(), "steps views batch", [0]),
    (TuningConfig(), "rate adapt", [-1.0]),
    (TuningConfig(), "weight_rate", [0.0]),
    (FineTuneConfig(), "steps per_class", [0]),
    (FineTuneConfig(), "rate", [0.0, "fast"]),
    (FineTuneConfig(), "adapt anchor", [-1]),
    *((config, "frozen_share", [1.1, -0.1]) for config in (TuningConfig(), FineTuneConfig())),
    *((config, "largest_weight", [0.5]) for config in (TuningConfig(), FineTuneConfig())),
]
CASES = [(config, name, value) for config, names, values in WRONG for name in names.split() for value in values]


@pytest.mark.parametrize(
    "config, name, value", CASES, ids=[f"{type(config).__name__}-{name}={value}" for config, name, value in CASES]
)
def test_a_wrong_value_is_refused_in_one_sentence_that_names_class_and_field(
    config: Config, name: str, value: object
) -> None:
    with pytest.raises(ConfigError, match=f"^{type(config).__name__}: .*{name}.*\\.$") as error:
        dataclasses.replace(config, **{name: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", sorted({type(config) for config in EXAMPLES}, key=lambda kind: kind.__name__))
def test_every_field_of_every_configuration_is_checked(kind: type[Config]) -> None:
    config = next(config for config in EXAMPLES if type(config) is kind)
    for field in dataclasses.fields(config):
        with pytest.raises(ConfigError, match=f"^{kind.__name__}: {field.name}.*\\.$"):
            dataclasses.replace(config, **{field.name: object()})


def test_no_configuration_is_left_out() -> None:
    known = {kind for kind in Config.__subclasses__() if kind.__module__.startswith("siamese_utils.")}
    assert known == {type(config) for config in EXAMPLES}


@pytest.mark.parametrize(
    "config, name, value, near",
    [
        (TINY, "optimizer", "adam", "adamw"),
        (TINY, "encoder", "resnet9-31", "resnet9-32"),
        (Term("triplet"), "objective", "triplets", "triplet"),
        (TINY, "precision", "half", "bfloat16"),
        (TINY, "pretrained", "cifar10-resnet", "cifar10-resnet20"),
        (Term("contrastive"), "distance", "cosin", "cosine"),
        (Term("triplet"), "mining", "semihard", "semi_hard"),
        (KochConfig(), "framing", "foto", "photo"),
        (BaseConfig(), "recipe", "smok", "smoke"),
    ],
)
def test_a_name_that_no_registry_knows(config: Config, name: str, value: str, near: str) -> None:
    with pytest.raises(UnknownNameError, match=near):
        dataclasses.replace(config, **{name: value})
    with pytest.raises(UnknownNameError, match=near):
        type(config).from_json({**config.to_json(), name: value})


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: KochConfig(epochs=2.5), "KochConfig: epochs must be a whole number, not 2.5."),
        (lambda: KochConfig(0), "KochConfig: side must be greater than or equal to 65, not 0."),
        (lambda: Term("proxy", begin=0.6, end=0.4), "Term: begin < end must hold of proxy, not 0.6 and 0.4."),
        (lambda: TrainConfig("x"), "TrainConfig: terms is missing; give it a value."),
        (lambda: MovedConfig(shots=3), "MovedConfig: shots is not known; choose from classes, shot_sets, few, joint."),
        (lambda: TrainConfig("x", ("proxy",)), "TrainConfig: terms[0] must be an instance of Term, not 'proxy'."),
        (
            lambda: TrainConfig.from_json({**TINY.to_json(), "resolutions": [[0.0, 16], [0.5]]}),
            "TrainConfig: resolutions[1][1] is missing; give it a value.",
        ),
        (
            lambda: TrainConfig.from_json({**TINY.to_json(), "terms": [{"objective": "proxy", "weight": -1}]}),
            "TrainConfig: terms[0].weight must be greater than 0, not -1.",
        ),
        (
            lambda: TrainConfig.from_json({**TINY.to_json(), "terms": [{"objective": "proxy", "wait": 1}]}),
            "TrainConfig: terms[0].wait is not known; choose from objective, weight, ",
        ),
        (
            lambda: MovedConfig.from_json({"few": {"stepps": 3}}),
            "MovedConfig: few.stepps is not known; choose from steps, ",
        ),
        (lambda: AugmentConfig.from_json([]), "AugmentConfig must be keys with values, not []."),
    ],
)
def test_sentences(make: Any, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        make()
    assert str(error.value).startswith(says)


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        "text",
        {"recipe": "x"},
        {"recipe": object()},
        {**TINY.to_json(), "colour": "blue"},
        {**TINY.to_json(), "epochs": "three"},
        {**TINY.to_json(), "epochs": 0},
        {**TINY.to_json(), "learning_rate": NAN},
        {**TINY.to_json(), "terms": [{"objective": "proxy", "weight": -1}]},
        {**TINY.to_json(), "terms": [{"weight": 1}]},
        {**TINY.to_json(), "terms": 7},
        {**TINY.to_json(), "augment": None},
        {**TINY.to_json(), "augment": {"translate": -1}},
        {**TINY.to_json(), "resolutions": [[0.0]]},
        {**TINY.to_json(), "most_images": 3},
        {key: value for key, value in TINY.to_json().items() if key != "terms"},
    ],
)
def test_foreign_data_are_refused(data: Any) -> None:
    with pytest.raises(ConfigError, match=r"^(TrainConfig|Term|AugmentConfig)\b") as error:
        TrainConfig.from_json(data)
    assert "\n" not in str(error.value)


# --------------------------------------------------------------------------------- equal, and equal again

shares = st.floats(0, 1, exclude_max=True)
augments = st.builds(
    AugmentConfig,
    translate=st.integers(0, 8),
    flip=st.booleans(),
    cutout=st.integers(0, 16),
    brightness=st.floats(0, 0.99),
    contrast=st.floats(0, 0.99),
    rotate=st.integers(0, 180),
)
terms = st.builds(
    Term,
    objective=st.sampled_from(list(OBJECTIVES)),
    weight=st.floats(0.01, 10),
    end=st.floats(0.01, 1),
    distance=st.sampled_from(["cosine", "euclidean"]),
    mining=st.sampled_from(["random", "batch_all", "batch_hard", "semi_hard"]),
    margin=st.none() | st.floats(0.01, 2),
    temperature=st.none() | st.floats(0.01, 2),
)
configs = st.builds(
    TrainConfig,
    recipe=st.text(max_size=10),
    terms=st.lists(terms, max_size=3).map(tuple),
    encoder=st.sampled_from(["conv3", "resnet20"]),
    embedding_dim=st.none() | st.integers(1, 512),
    pretrained=st.sampled_from(["", "cifar10-resnet20"]),
    epochs=st.integers(1, 100),
    learning_rate=st.floats(1e-6, 1),
    warmup=st.floats(0, 0.99),
    resolutions=st.lists(st.tuples(shares, st.integers(8, 64)), max_size=3, unique_by=lambda r: r[0])
    .map(sorted)
    .map(tuple),
    augment=augments,
    head_width=st.integers(0, 512),
    least_images=st.integers(0, 10**5),
    most_images=st.just(0) | st.integers(10**5, 10**6),
    optimizer=st.sampled_from(OPTIMIZERS),
    precision=st.sampled_from(["auto", "float32", "bfloat16"]),
    average_decay=st.floats(0.01, 0.99),
    fresh_statistics=st.booleans(),
    rotation_weight=st.just(0.0) | st.floats(0, 2),
    rotation_share=st.just(0.5) | st.floats(0, 1),
    seed=st.integers(0, 2**31),
)


@settings(max_examples=40)
@given(configs | st.sampled_from(EXAMPLES))
def test_a_configuration_survives_json_yaml_pickle_and_replacement(config: Config) -> None:
    kind = type(config)
    again = [
        kind.from_json(json.loads(json.dumps(config.to_json()))),
        kind.from_json(yaml.safe_load(yaml.safe_dump(config.to_json(), sort_keys=False))),
        pickle.loads(pickle.dumps(config)),
        dataclasses.replace(config),
    ]
    assert all(each == config and type(each) is kind and repr(each) == repr(config) for each in again)
    assert all(json.dumps(each.to_json()) == json.dumps(config.to_json()) for each in again)
    assert len({config, *again}) == 1


def test_a_configuration_is_frozen_and_differs_by_any_field() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TINY.epochs = 3  # type: ignore[misc]
    assert dataclasses.replace(TINY, seed=1) != TINY
    assert dataclasses.replace(TINY, terms=(Term("proxy"),)) != TINY


def test_whole_numbers_do_for_numbers() -> None:
    assert Term("proxy", weight=1, margin=2) == Term("proxy", weight=1.0, margin=2.0)
    assert FineTuneConfig.from_json({"rate": 1, "adapt": 0}) == FineTuneConfig(rate=1.0, adapt=0.0)


def test_fields_that_are_younger_than_stored_runs_are_left_out_where_they_say_nothing() -> None:
    names = {"pretrained": "cifar10-resnet20", "precision": "float32", "rotation_weight": 0.5, "rotation_share": 0.3}
    assert not names.keys() & TINY.to_json().keys()
    for name, value in names.items():
        config = dataclasses.replace(TINY, **{name: value})
        assert config.to_json() == {**TINY.to_json(), name: value}
        inner = dataclasses.replace(EMBEDDING, train=config)
        assert inner.to_json()["train"] == config.to_json() and FaceConfig.from_json(inner.to_json()) == inner
    assert "precision" not in EMBEDDING.to_json()["train"]


def stored_configurations() -> list[tuple[str, dict[str, Any]]]:
    """What every record and checkpoint says of its configuration."""
    found = [(path.name, json.loads(path.read_text()).get("config")) for path in sorted(RESULTS.glob("*/**/*.json"))]
    for path in sorted((RESULTS / "checkpoints").glob("*.safetensors")):
        if path.stem != "imprinting-classifier":  # no encoder
            found.append((path.name, checkpoint_info(path).get("config")))
    return [(name, config) for name, config in found if config and "weights" not in config]


def test_every_stored_configuration_reads_back() -> None:
    found = stored_configurations()
    assert len(found) > 300
    kinds = {
        "judged": FitConfig,
        "minutes": OwnSettings,
        "terms": TrainConfig,
        "channels": KochConfig,
        "judged_crops": FaceConfig,
        "shots": ImprintingConfig,
    }
    for name, stored in found:
        kind = next(kind for field, kind in kinds.items() if field in stored)
        read = kind.from_json(stored)
        assert kind.from_json(read.to_json()) == read, name
        # Fields may be younger than the record, then they have their defaults; nothing that is stored is changed.
        own = {**read.to_json()}
        assert {key: own[key] for key in stored if key not in ("train", "augment", "terms")} == {
            key: value for key, value in stored.items() if key not in ("train", "augment", "terms")
        }, name


# --------------------------------------------------------------------------------------------------- YAML


def test_yaml(tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    path.write_text("classes: 3\nfew: {steps: 7, rate: 1}\n")
    assert MovedConfig.from_yaml(path) == MovedConfig(3, few=TuningConfig(7, rate=1.0))
    path.write_text("")
    assert MovedConfig.from_yaml(str(path)) == MovedConfig()


@pytest.mark.parametrize(
    "text, says",
    [
        ("shots: [0]", "shots[0] must be greater than or equal to 1, not 0"),
        ("shots: []", "shots does not fit: tuple should have at least 1 item"),
        ("at_once: [1.5]", "at_once[0] must be a whole number, not 1.5"),
        ("budget: -1", "budget must be greater than or equal to 0"),
        ("scale: 0", "scale must be greater than 0"),
        ("budgets: 1", "budgets is not known; choose from base, shots"),
        ("base: {splitt: 40-60}", "base.splitt is not known; choose from split, draw"),
        ("base: 40-60", "base must be keys with values"),
        ("base: {changes: {epoch: 3}}", "TrainConfig: epoch is not known"),
        ("base: {changes: {epochs: 0}}", "TrainConfig: epochs must be greater than or equal to 1"),
        ("base: {changes: {seed: 1}}", "stands beside"),
        ("base: {recipe: none}", "recipe"),
        ("fine_tuning: {rate: 0}", "fine_tuning.rate must be greater than 0"),
        ("fine_tuning: {rate: fast}", "fine_tuning.rate must be a number, not 'fast'"),
        ("shots: 2026-01-01", "plain data"),
        ("- a list", "must be keys with values"),
        ("a: [", "cannot be read as YAML"),
        ("!!python/object/apply:os.system ['true']", "cannot be read as YAML"),
        (None, "There is no configuration"),
    ],
)
def test_a_wrong_file_is_refused_and_named(tmp_path: Path, text: str | None, says: str) -> None:
    path = tmp_path / "wrong.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SiameseError) as error:
        ImprintingConfig.from_yaml(path)
    assert says in str(error.value) and "\n" not in str(error.value)
    assert isinstance(error.value, UnknownNameError) or "wrong.yaml" in str(error.value)
