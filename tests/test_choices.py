"""One test over all choices: every allowed value of every config works everywhere"""
import dataclasses
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from stiv_nb.codec.text import Text
from stiv_nb.core.checks import choices, field_types
from stiv_nb.model.count import forward_flops
from stiv_nb.model.dit import ModelConfig
from stiv_nb.model.image import FORMS, GivenImages
from stiv_nb.model.layers import start_weights
from stiv_nb.stiv.loss import make_draws, stiv_loss
from stiv_nb.train.planner import plan
from stiv_nb.train.recipe import PARTS, Recipe, change, from_yaml, to_yaml
from stiv_nb.train.recipes import RECIPES

SHAPE = ModelConfig(width=32, depth=2, heads=2, channels=4, text_width=8)
F, SIDE, LENGTH = 4, 4, 5


def small(**fields):
    "A recipe of a tiny model"
    recipe = replace(RECIPES["demo-stiv"], model=SHAPE)
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
        micro=torch.rand(b, 6), given=given, image=image)


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


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("name, value", OF_MODEL)
def test_gradients_reach_every_parameter(name, value, masked):
    "After every parameter is drawn anew, forward and backward reach all of them"
    torch.manual_seed(0)
    config = replace(SHAPE, **{name: value})
    model = config.build()
    for p in model.parameters(): torch.nn.init.normal_(p, std=.3)
    keep = torch.tensor([[0, 2], [1, 3]]) if masked else None
    out = model(**inputs(config), keep=keep)
    assert out.isfinite().all()
    (out * torch.randn_like(out)).sum().backward()
    for k, p in model.named_parameters():
        if k == "mask_token" and not masked: continue   # stands in for patches that are left out
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
    draws = make_draws(0, 0, torch.arange(4), z1, recipe.flow, recipe.condition, 2, .5)
    loss = stiv_loss(model, z1, text, null, x["micro"], draws, recipe.flow.objective,
                     condition=recipe.condition)
    loss.sum().backward()
    assert loss.isfinite().all() and model.patch_out.weight.grad.abs().max() > 0


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
