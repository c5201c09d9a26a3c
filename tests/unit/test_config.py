from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest

from dsr.base.errors import UserError
from dsr.config.execution import Request
from dsr.config.load import Config, load
from dsr.config.specs import TrainSpec, content, differing_keys, spec_hash, spec_json
from tests.configuration import ROOT, configuration

GUIDED = {"guidance": {"strong": {"scale": 2.0}}, "sweep": None}
UNGUIDED = {"dit-dh-xl": {"class_dropout": 0.0}}


def test_paper_has_the_six_rows_of_the_release(raw: dict[str, Any]) -> None:
    config = load(raw)
    assert list(config.rows) == [
        "dit-siglip2b", "dit-siglip2b-dsr", "dit-so400m", "dit-so400m-dsr", "ditdh-siglip2b", "ditdh-siglip2b-dsr",
    ]  # fmt: skip
    assert config.train("dit-siglip2b").steps_per_epoch == 1251
    assert math.isclose(config.flow.shift, 6.928203230275509)
    assert config.train("dit-so400m-dsr").encoding.latent_shape == (1152, 16, 16)


def test_schema_is_in_sync() -> None:
    committed = json.loads((ROOT / "rules/config.schema.json").read_text(encoding="utf-8"))
    assert committed == Config.model_json_schema(), "run `make schema` and commit rules/config.schema.json"


def test_every_key_is_described() -> None:
    schema = Config.model_json_schema()
    for section in [schema, *schema["$defs"].values()]:
        for key, entry in section["properties"].items():
            assert entry.get("description"), f"{section['title']}.{key} has no description"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("seed",), 1, "seed: unknown key"),
        (("encoders", "siglip2-b", "patch_size"), 15, "not a multiple of patch_size 15"),
        (("recipes", "dit", "final_lr"), 1e-5, "final_lr and decay_epochs go together"),
        (("evaluation", "epochs"), [80, 40], "evaluation.epochs: must be ascending (given: [80, 40])"),
        (("discovery", "highest_layer"), 3, "discovery.highest_layer: gone after version 0.1.0"),
        (("recipes", "dit", "encoder_half"), True, "encoder_half: gone after version 0.1.0; with precision"),
        (("sampling", "precision"), "fp8", "sampling.precision: gone after version 0.1.0"),
        (("ttr",), {"registers": 1}, "ttr: called ttr_options after version 0.1.0"),
        (("sampling", "guidance"), {}, "unguided"),
        (("sampling", "guidance", "a:b"), {"scale": 1.5}, "sampling.guidance.a:b.[key]: String should match pattern"),
        (("rows", "dit-siglip2b", "compare_with"), "nonsense", "compare_with: 'nonsense' is not one of dit-siglip2b"),
        (("recipes", "dit", "ema"), [0.9999, 0.9999], "recipes.dit.ema: none may repeat (given: [0.9999,"),
        (("data", "source"), "imagefolder", "data.train: give the path of an ImageFolder exactly"),
        (("denoisers", "dit-xl", "hidden_size"), 1150, "must be a multiple of 4 * num_heads"),
        (("data", "classes"), 500, "encoders.siglip2-b.statistics: the released ones are of ImageNet's 1000 classes"),
        (("tables", "reconstruction"), {"title": "a", "rows": ["b"]}, "tables.reconstruction: every configuration has"),
        (("sources",), {"decoder-siglip2-b": "drive"}, "sources.decoder-siglip2-b: Input should be 'hub'"),
        (("results",), "my results", "results: String should match pattern"),
        (("denoisers", "dit-xl", "class_dropout"), 0.0, "sampling.sweep: rows.dit-siglip2b cannot be guided"),
        (("decoder", "num_heads"), 7, "hidden_size 1152 must be a multiple of num_heads (7) and of 4"),
        (("encoders", "siglip2-so400m", "input_size"), 252, "image_size 256 is not a multiple of its 18 tokens"),
        (("discovery", "images"), 2000000, "discovery.images: 2000000 is more than the 1281167 training images"),
        (("resources", "train", "gres"), "gpu:h100:4", "train.gres: 'gpu:h100:4' is not name:8 or name:type:8"),
        (("sampling", "seeds"), [0, 1000], "sweep.seed: 1000 is one of `seeds`"),
        (("sampling", "sweep", "rows"), ["dit-x"], "sampling.sweep.rows: 'dit-x' is not one of dit-siglip2b"),
        (("sampling", "sweep", "images"), 10001, "sampling.sweep.images: 10001 is not a multiple of 1000"),
        (("sampling", "images"), 50001, "sampling.images: 50001 is not a multiple of 1000 classes"),
        (("sampling", "guidance", "chosen"), {"scale": 1.5}, "`chosen` is the name of what the sweep chooses"),
        (("rows", "dit-siglip2b", "recipe"), None, "rows.dit-siglip2b: give a recipe, to train the row"),
        (("rows", "dit-siglip2b", "registers"), 5, "rows.dit-siglip2b: registers 5 is not a perfect square"),
        (("rows", "dit-siglip2b"), None, "sampling.sweep.rows: 'dit-siglip2b' is not one of dit-siglip2b-dsr"),
        (("recipes", "dit-dh"), None, "rows.ditdh-siglip2b.recipe: 'dit-dh' is not one of dit"),
        (("rows",), {"dit-siglip2b": None}, "rows: Dictionary should have at least 1 item"),
        (("rows", "dit-siglip2b", "encoder"), "clip", "rows.dit-siglip2b.encoder: 'clip' is not one of siglip2-b"),
        (("denoisers", "dit-xl", "register_start"), 28, "register_start 28 is beyond the last block (27)"),
        (("recipes", "dit", "batch"), 1023, "recipes.dit.batch: 1023 is not divisible by 8 processes"),
        (("recipes", "dit", "lr"), "2e-4", "recipes.dit.lr: Input should be a valid number (given: '2e-4')"),
        (("evaluation", "references"), ["adm"], "the first must be validation"),
        (("figures", "epoch"), 50, "figures.epoch: 50 is not one of evaluation.epochs"),
        (("figures", "images"), [60000], "figures.images: 60000 is not below the 50000 validation images"),
        (("figures", "layers"), [3, 31], "figures.layers: 31 is beyond the last block (30)"),
    ],
)
def test_mistakes_are_named(raw: dict[str, Any], path: tuple[str, ...], value: object, message: str) -> None:
    section = raw
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    with pytest.raises(UserError, match=re.escape(message)):
        load(raw)


def test_what_parallel_jobs_ask_for_follows_from_their_processes() -> None:
    fewer = configuration(execution={"processes": 4})
    assert fewer.request("train") == Request(cpus=32, gpus=4, mem_mb=200000, minutes=1440)
    assert fewer.request("evaluate") == fewer.resources.evaluate
    given = configuration(resources={"sample": {"cpus": 1, "gpus": 0, "mem_mb": 2000}})
    assert given.request("sample") == Request(cpus=1, gpus=0, mem_mb=2000, minutes=480)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampling": GUIDED, "denoisers": UNGUIDED}, "sampling.guidance.strong: rows.ditdh-siglip2b cannot be guided"),
        ({"artifacts": {"a-b": "/a"}, "sources": {"a-b": "hub"}}, "sources.a-b: artifacts.a-b is given too; leave one"),
        ({"data": {"source": "digits", "prepared": False}}, "data.prepared: the demo's digits are always prepared"),
        ({"sampling": {"imges": 3}, "data": {"classes": 0}}, "than 0 (given: 0)\n  sampling.imges: unknown key"),
    ],
)
def test_all_that_is_wrong_together_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        configuration(**change)


def test_an_overlay_removes_entries_by_null() -> None:
    changes = {"rows": {"dit-so400m": None}, "recipes": {"other": None}, "tables": {"epochs": None}}
    config = configuration(**changes, encoders={"dinov2-b": None})
    assert "dit-so400m" not in config.rows
    assert "epochs" not in config.tables
    assert {*config.encoders} == {"siglip2-b", "siglip2-so400m", "dinov2-b-registers"}


def test_hash_depends_on_the_content_only() -> None:
    before = configuration().train("dit-siglip2b")
    same = configuration(name="another title", execution={"workers": 1}).train("dit-siglip2b")
    assert spec_hash(same) == spec_hash(before)
    after = configuration(recipes={"dit": {"lr": 1e-4}}).train("dit-siglip2b")
    assert spec_hash(after) != spec_hash(before)
    assert differing_keys(content(before), content(after)) == ["recipe.lr: 0.0002 -> 0.0001"]
    frozen = configuration(recipes={"dit": {"lr": 1e-4, "train_all": False}}).train("dit-siglip2b")
    assert differing_keys(content(after), content(frozen)) == ["recipe.train_all: default -> False"]


@pytest.mark.parametrize(
    "change",
    [
        {"decoder": {"depth": 24}},
        {"recipes": {"dit": {"train_all": True, "betas": [0.9, 0.95], "clip": None}}},
        {"data": {"flip": True}},
    ],
)
def test_what_has_no_part_in_training_is_not_in_its_hash(change: dict[str, Any]) -> None:
    def specifications(config: Config) -> list[str]:
        encoder = "siglip2-so400m", "recursive"
        specs = [*map(config.train, config.rows), config.statistics(*encoder), config.discover(*encoder)]
        return [*map(spec_hash, specs), *map(spec_json, specs)]

    assert specifications(configuration(**change)) == specifications(configuration())


def test_a_specification_is_the_same_without_its_defaults(raw: dict[str, Any]) -> None:
    spec = load(raw).train("ditdh-siglip2b-dsr")
    assert "train_all" not in content(spec)["recipe"]
    assert TrainSpec.model_validate_json(spec_json(spec)) == spec


def test_a_velocity_prediction_concerns_those_that_were_trained_with_it(raw: dict[str, Any]) -> None:
    before = load(raw).train("dit-siglip2b")
    assert "prediction" not in content(before)["flow"]
    weights = {"artifact": "denoiser-siglip2-b", "epoch": 80, "prediction": "velocity"}
    raw["rows"]["other"] = {**raw["rows"]["dit-siglip2b"], "recipe": None, "weights": weights}
    config = load(raw)
    assert config.sample("other", "unguided", 0).flow.prediction == "velocity"
    assert config.denoiser_maps("other", 80).flow.prediction == "velocity"
    assert config.train("dit-siglip2b") == before
    raw["flow"]["prediction"] = "velocity"
    assert load(raw).train("dit-siglip2b").flow.prediction == "velocity"


def test_an_encoder_has_a_norm_threshold_of_its_own() -> None:
    plain, own = configuration(), configuration(encoders={"siglip2-b": {"norm_threshold": 45.0}})
    assert own.discover("siglip2-b", "single").discovery.norm_threshold == 45.0
    assert own.discover("siglip2-so400m", "single") == plain.discover("siglip2-so400m", "single")
    # It reruns the discovery, and nothing that is not made of its list.
    assert spec_hash(own.train("dit-siglip2b")) == spec_hash(plain.train("dit-siglip2b"))
