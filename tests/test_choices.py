"""One test over all choices: every allowed value of every config works everywhere"""
import dataclasses
import json
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from stiv_nb.codec.text import Text, TextConfig, TinyText
from stiv_nb.codec.vae import TinyVAE, VAEConfig
from stiv_nb.core.checks import choices, field_types
from stiv_nb.data.shapes import VOCABULARY
from stiv_nb.model.count import forward_flops
from stiv_nb.model.dit import BASELINE, ModelConfig
from stiv_nb.model.image import FORMS, GivenImages
from stiv_nb.model.layers import start_weights
from stiv_nb.stiv.inputs import Defaults
from stiv_nb.stiv.loss import make_draws, stiv_loss
from stiv_nb.stiv.pipeline import Pipeline, load_pipeline, save_pipeline
from stiv_nb.stiv.sampler import SamplingConfig, guided_velocity, sample
from stiv_nb.train.planner import plan
from stiv_nb.train.recipe import PARTS, Recipe, change, from_yaml, to_yaml
from stiv_nb.train.recipes import RECIPES
from stiv_nb.train.trainer import fake_trainer

SHAPE = ModelConfig(width=32, depth=2, heads=2, channels=4, text_width=8)
F, SIDE, LENGTH = 4, 4, 5


def small(**fields):
    "A recipe of a tiny model"
    recipe = replace(RECIPES["demo-stiv"], model=SHAPE)
    told = [fields[k] for k in ("model__motion_strength", "data__tell_motion") if k in fields]
    if told: fields |= dict(model__motion_strength=told[0], data__tell_motion=told[0])
    return change(recipe, **dict(run__p_drop_patches=.5) | fields)


def every_choice():
    "(part, field, value) for each allowed value of each `Literal`, and both values of each flag"
    for part, config in PARTS.items():
        for name, allowed in choices(config).items():
            for value in allowed: yield part, name, value
        for name, kind in field_types(config).items():
            if kind is bool: yield from ((part, name, value) for value in (False, True))


CHOICES = list(every_choice())
OF_MODEL = [(name, value) for part, name, value in CHOICES if part == "model"]


def named(choice): return ".".join(map(str, choice))


def inputs(config, b=2):
    "A batch of all that a model reads"
    z = torch.randn(b, F, config.channels, SIDE, SIDE)
    given = (torch.arange(F) == 0).expand(b, F)
    image = GivenImages(z[:, :1], torch.tensor([0]), given[:, :1])
    return dict(
        z_t=z, t=torch.rand(b, F) if FORMS[config.image].told else torch.rand(b),
        text=torch.randn(b, LENGTH, config.text_width), pooled=torch.randn(b, config.text_width),
        micro=torch.rand(b, 6 + config.motion_strength), given=given, image=image)


def test_there_are_many():
    parts = {part for part, _, _ in CHOICES}
    assert len(CHOICES) > 30
    assert {"model", "flow", "condition", "sampling", "optim", "data"} <= parts


@pytest.mark.parametrize("choice", CHOICES, ids=named)
def test_there_and_back_and_planned(choice):
    "YAML there and back, and a plan, for every value"
    part, name, value = choice
    recipe = small(**{f"{part}__{name}": value})
    assert from_yaml(to_yaml(recipe)) == recipe
    costs = plan(recipe, "h100", 1)
    assert costs.flops_total > 0 and costs.parameters["total"] > 0 and str(costs)


@pytest.mark.parametrize("name, value", OF_MODEL)
def test_a_new_model_predicts_zero(name, value):
    config = replace(SHAPE, **{name: value})
    assert not start_weights(config.build(), 0)(**inputs(config)).any()


@pytest.mark.parametrize("name, value", OF_MODEL)
def test_operations_are_counted(name, value):
    "Counted on one block and multiplied, they equal those of the whole model"
    config = replace(SHAPE, **{name: value})
    x = inputs(config, b=1)
    with FlopCounterMode(display=False) as counter: config.build()(**x)
    ours = forward_flops(config, F, SIDE, SIDE, len_text=LENGTH)
    assert sum(ours.values()) == counter.get_total_flops()


SOME = torch.tensor([[0, 2], [1, 3]])
MASKS = dict(whole={}, patches=dict(keep=SOME), frames=dict(keep_frames=SOME),
             both=dict(keep=SOME, keep_frames=SOME))


@pytest.mark.parametrize("masked", MASKS)
@pytest.mark.parametrize("name, value", OF_MODEL)
def test_gradients_reach_every_parameter(name, value, masked):
    "After every parameter is drawn anew, forward and backward reach all of them"
    torch.manual_seed(0)
    config = replace(SHAPE, temporal_patch=1, **{name: value})      # four temporal patches
    model = config.build()
    for p in model.parameters(): torch.nn.init.normal_(p, std=.3)
    out = model(**inputs(config), **MASKS[masked])
    assert out.isfinite().all()
    (out * torch.randn_like(out)).sum().backward()
    for k, p in model.named_parameters():
        if k == "mask_token" and masked == "whole": continue   # stands in for what is left out
        assert p.grad is not None and p.grad.abs().max() > 0, k


OF_LOSS = [c for c in CHOICES if c[0] in ("flow", "condition") or c[1] in ("image", "given_flag")]


@pytest.mark.parametrize("part, name, value", OF_LOSS)
def test_loss_of_every_objective_and_task(part, name, value):
    "A finite loss whose gradient reaches the output, whatever is predicted and whatever is given"
    torch.manual_seed(0)
    recipe = small(**{f"{part}__{name}": value})
    model, x = recipe.model.build(), inputs(recipe.model, b=4)
    z1 = torch.randn(4, 8, 4, SIDE, SIDE)
    text = Text(x["text"], x["pooled"], torch.ones(4, LENGTH).bool())
    null = Text(*(v[:1, :2] if v.dim() == 3 or v.dtype == torch.bool else v[:1] for v in text))
    draws = make_draws(0, 0, torch.arange(4), z1, recipe.flow, recipe.condition, 2, .5, 2, .5)
    loss = stiv_loss(model, z1, text, null, x["micro"], draws, recipe.flow.objective,
                     condition=recipe.condition)
    loss.sum().backward()
    assert loss.isfinite().all() and model.patch_out.weight.grad.abs().max() > 0


# ways to train and sample: a field of the model each, or a mask of the run
WAYS = {f"{name}={value}": {f"model__{name}": value} for name, value in OF_MODEL
        if value not in (getattr(SHAPE, name), BASELINE.get(name))}
WAYS |= {
    "temporal_patch=1": dict(model__temporal_patch=1),
    "temporal_patch=4": dict(model__temporal_patch=4),
    "p_drop_frames": dict(run__p_drop_frames=.5, run__p_drop_patches=0.),
    "both masks": dict(run__p_drop_frames=.5),
    "full, both masks": dict(model__attention="full", run__p_drop_frames=.5),
    "baseline": {f"model__{name}": value for name, value in BASELINE.items()},
}


@pytest.fixture(scope="module")
def coders():
    "A codec and a text encoder that have learned nothing"
    torch.manual_seed(0)
    return TinyVAE(VAEConfig(width=8)), TinyText(TextConfig(words=VOCABULARY, width=8, depth=1))


@pytest.mark.parametrize("way", WAYS)
def test_trained_saved_and_sampled(way, coders, tmp_path):
    "Two steps, the pipeline in a folder and back, and eight frames of it: the same to the bit"
    recipe = small(**dict(model__channels=8, run__n_steps=2, run__batch=4, optim__warmup=1,
                          optim__cooldown=0, data__size=16, parallel__compile=False,
                          parallel__precision="fp32") | WAYS[way])
    trainer = fake_trainer(recipe, "cpu")
    before = trainer.model.patch_out.bias.clone()
    for _ in range(2): trainer.train_step()
    assert (trainer.model.patch_out.bias != before).any()
    micro = dict(motion=4.) if recipe.model.motion_strength else None
    defaults = Defaults(steps=2, size=16, micro=micro)
    pipe = Pipeline(trainer.model, *coders, defaults, "cpu")
    save_pipeline(pipe, tmp_path/"made")
    again = load_pipeline(tmp_path/"made", "cpu")
    assert again.model.config == recipe.model
    a, b = (p("a red circle moving left", progress=False).frames for p in (pipe, again))
    assert a.shape == (8, 3, 16, 16) and torch.equal(a, b)


def test_a_field_that_a_file_does_not_know_has_its_default(coders, tmp_path):
    "A pipeline that was stored before a field was there loads as the same model"
    model = start_weights(replace(SHAPE, channels=8).build(), 0)
    pipe = Pipeline(model, *coders, Defaults(steps=2, size=16), "cpu")
    folder = save_pipeline(pipe, tmp_path/"old")
    config = json.loads((folder/"config.json").read_text())
    for name in ("norm", "attention", "temporal_modulation", "condition_norm", "micro_conditions"):
        del config["model"][name]
    (folder/"config.json").write_text(json.dumps(config))
    assert load_pipeline(folder, "cpu").model.config == model.config


NUMBERS = dict(guide_from=.3, guide_until=.5, blur=.5)   # that switch something on


@pytest.mark.parametrize("name, value", [c[1:] for c in CHOICES if c[0] == "sampling"]
                         + [*NUMBERS.items()])
def test_every_way_to_sample(name, value):
    "Clips with a given frame and without, whatever is chosen; the given frame comes back"
    torch.manual_seed(0)
    sampling = replace(SamplingConfig(steps=3), **{name: value})
    model, x = SHAPE.build(), inputs(SHAPE)
    for p in model.parameters(): torch.nn.init.normal_(p, std=.2)
    text = Text(x["text"], x["pooled"], torch.ones(2, LENGTH).bool())
    null = Text(*(v[:1] for v in text))
    given = torch.zeros(2, F).bool()
    given[0, 0] = True
    noise, z1 = torch.randn(2, *x["z_t"].shape)
    with torch.no_grad():
        velocity = guided_velocity(model, text, null, x["micro"], z1, given, sampling)
        z = sample(velocity, noise, z1, given, sampling)
    assert z.isfinite().all() and torch.equal(z[0, 0], z1[0, 0])


def test_two_models_that_differ_in_one_choice_share_their_start():
    "Arms of an ablation start with every common tensor equal"
    base = dict(start_weights(SHAPE.build(), 3).named_parameters())
    for name, value in OF_MODEL:
        other = dict(start_weights(replace(SHAPE, **{name: value}).build(), 3).named_parameters())
        for k in base.keys() & other.keys():
            if base[k].shape != other[k].shape: continue
            assert torch.equal(base[k], other[k]), (name, value, k)


def test_a_recipe_has_no_part_without_a_config():
    assert all(dataclasses.is_dataclass(config) for config in PARTS.values())
    assert {f.name for f in dataclasses.fields(Recipe)} == set(PARTS)
